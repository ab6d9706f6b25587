"""What one job of a stage takes: memory, disk and time, from a model's config.json and the run's numbers.

docs/planning.md derives the formulas. Imports no torch.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rac.definitions import Source, Workload, source_parts
from rac.errors import RacError
from rac.variants import Variant

ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a number
HOST = 700e6  # bytes of Python, torch and transformers, imported
BATCH_TOKENS = 16384  # of rac.blocks, on a GPU
LOGITS = 2**27  # of rac.losses
COMPARED = 2**24  # of rac.divergences: numbers of logits at once
WALKED = 4096  # of rac.token_errors: tokens together
LEVELS = 9  # of rac.evopress
SEARCHED = 6  # passes of all its samples in a generation: 64 / 32 + 8 / 4 + 2
GROWTH = 128  # of rac.engines.transformers
TOGETHER, STEP_TOKENS, SHARE = (
    1024,
    16384,
    0.9,
)  # of vLLM 0.32: samples, tokens a step, GPU's memory
DOUBLE = 2048  # of rac.solvers: columns up to which an error is worked out in float64
SOLVED_TOGETHER = 2**25  # of rac.solvers: numbers of weights in one loop
SLICE_KERNELS = 25  # of a slice of 128 columns that rac.solvers.kernel settles at once
COLUMN_KERNELS = 8  # of a column that rac.solvers.columns settles by itself, as it rounds to FP8
GROUP_KERNELS = 8  # a column's share of those that choose an n:m mask beside it
BLOCK_KERNELS = 40  # of a decoder block that decodes a token


class Solver(NamedTuple):
    """What a solver, or what rounds after it, takes for a weight [r, c] and its Hessian [c, c]."""

    prepares: int  # matrices [c, c] beside the Hessian and a copy, while it prepares it
    keeps: int  # matrices [c, c] beside the Hessian, while it solves
    weights: int  # matrices [r, c] in float32, with those that the error takes
    double: int  # the matrices [c, c] are float64 up to so many columns
    cubes: float  # FLOPs / c³
    squares: float  # FLOPs / r c², the error's apart


SOLVERS = {
    "magnitude": Solver(0, 0, 10, 0, 0, 0),
    "wanda": Solver(0, 0, 10, 0, 0, 0),
    "sparsegpt": Solver(4, 1, 12, 4096, 1 / 3, 1),
    "alps": Solver(7, 4, 13, 4096, 10, 137),  # two matrices of cuSOLVER; 60 iterations
    "structured": Solver(4, 3, 10, 8192, 4, 1),
    "gptq": Solver(5, 1, 10, 4096, 1 / 3, 1),
    "joint": Solver(0, 0, 10, 0, 0, 1),  # by the factor of sparsegpt
    "rtn": Solver(0, 0, 10, 0, 0, 0),
}
LOOPS = ("sparsegpt", "gptq", "joint")  # those over columns
ERROR = 3  # FLOPs / r c²: half of each product, of the weight, its error and its floor
JUDGED = 5  # matrices [r, c] in float32 that only the errors take
ROUNDED = 2  # and that rounding in a loop takes after pruning: what is pruned, and the mask


class Device(NamedTuple):
    """What a GPU can do, and how much of it these stages are assumed to get."""

    name: str
    memory: float  # bytes
    flops: float  # a second, products of 16 bit numbers
    float32_flops: float  # a second, products of float32
    bandwidth: float  # bytes of its memory a second
    launch: float = 2e-5  # seconds from one kernel to the next, as Python starts them
    compute_share: float = 0.4  # of the flops
    bandwidth_share: float = 0.6


# Makers' figures, without sparsity.
A100 = Device("A100 80 GB", 80e9, 312e12, 19.5e12, 2.0e12)
H100 = Device("H100 80 GB", 80e9, 989e12, 67e12, 3.35e12)
CPU = Device("a CPU's thread", 8e9, 40e9, 40e9, 5e9)  # assumed, and low


class Group(NamedTuple):
    """Linear layers that share an input, of one block."""

    columns: int
    layers: tuple[int, ...]  # rows of each


class Shape(NamedTuple):
    """The sizes of a decoder-only model with a gated MLP."""

    hidden: int
    mlp: int
    blocks: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool
    item: int  # bytes of a number

    @property
    def groups(self) -> list[Group]:
        """Query, key and value; attention's output; gate and up; down."""
        queries, keys = self.heads * self.head, self.kv_heads * self.head
        return [
            Group(self.hidden, (queries, keys, keys)),
            Group(queries, (self.hidden,)),
            Group(self.hidden, (self.mlp, self.mlp)),
            Group(self.mlp, (self.hidden,)),
        ]

    @property
    def block(self) -> int:
        """Weights of a block; norms and biases are left out."""
        return sum(group.columns * sum(group.layers) for group in self.groups)

    @property
    def embeddings(self) -> int:
        """Weights of the input and output embeddings, tied ones once."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def weights(self) -> int:
        """All of them."""
        return self.blocks * self.block + self.embeddings

    @property
    def kv_token(self) -> int:
        """Bytes of one token's keys and values."""
        return 2 * self.blocks * self.kv_heads * self.head * self.item


class Cost(NamedTuple):
    """Of one job."""

    device: float = 0  # bytes at the peak
    host: float = HOST
    disk: float = 0  # bytes that stay
    flops: float = 0
    seconds: float = 0  # of the device


SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)


def shape(values: Any, dtype: str) -> Shape:
    """The sizes in a config.json.

    Args:
        values: what it holds.
        dtype: that the model runs in.

    Raises:
        RacError: it is not of a decoder-only model with attention and a gated MLP in every block, or a size
            is none.
    """
    for key in ("config.json", "text_config"):
        if not isinstance(values, dict):
            raise RacError(f"cannot plan for a model whose {key} is not a JSON object")
        values = values.get("text_config", values)
    missing = [key for key in SIZES if values.get(key) is None]
    if missing or any("expert" in key and value for key, value in values.items()):
        why = f"no {missing[0]}" if missing else "experts"
        raise RacError(f"cannot plan for a config.json with {why}: only dense, gated decoders")
    for key in (*SIZES, "num_key_value_heads", "head_dim"):
        size = values.get(key)
        if size is not None and (type(size) is not int or size < 1):  # true is an int, too
            raise RacError(
                f"cannot plan for a config.json with {key} {json.dumps(size)[:60]}: it has to be a positive "
                "integer"
            )
    heads = values["num_attention_heads"]
    if not values.get("head_dim") and values["hidden_size"] % heads:
        raise RacError(
            f"cannot plan for a config.json with num_attention_heads {heads}: without head_dim it has to "
            f"divide hidden_size, {values['hidden_size']}"
        )
    return Shape(
        values["hidden_size"],
        values["intermediate_size"],
        values["num_hidden_layers"],
        heads,
        values.get("num_key_value_heads") or heads,
        values.get("head_dim") or values["hidden_size"] // heads,
        values["vocab_size"],
        bool(values.get("tie_word_embeddings")),
        ITEM[dtype],
    )


# ---- one job of each stage


def activations(model: Shape, tokens: int) -> float:
    """Bytes that a block's forward pass needs beside its weights, at its widest place, the MLP.

    That is gate, up and their product.
    """
    return float(tokens * model.item * (3 * model.mlp + 4 * model.hidden))


def hessians(model: Shape, source: Source, trace: int, device: Device) -> Cost:
    """A pass over a source, a block at a time, hidden states waiting in host memory.

    Args:
        trace: tokens of the source's longest sequence.
    """
    parts = len(source_parts(source.kind))
    batch = min(max(BATCH_TOKENS, trace), source.tokens)
    squares = sum(group.columns**2 for group in model.groups)
    # A product of 16 bit numbers, the largest of which has half of the columns, is made and then added.
    product = max(group.columns for group in model.groups) ** 2 if model.item < 4 else 0
    attention = 2 * trace * model.heads * model.head  # causal: half of the pairs
    flops = float(model.blocks * source.tokens * (2 * model.block + squares + attention))
    return Cost(
        device=max(model.block, model.vocabulary * model.hidden) * model.item
        + 4 * parts * squares
        + product
        + activations(model, batch),
        host=HOST + source.tokens * model.hidden * model.item + 4 * parts * squares,
        disk=4 * parts * (model.blocks * squares + model.hidden**2),
        flops=flops,
        seconds=flops / (device.flops * device.compute_share),
    )


def steps(variant: Variant) -> list[str]:
    """What is done to a layer, one after the other: rows of SOLVERS."""
    pruning = [variant.solver] if variant.solver else []
    return [*pruning, variant.quantize.method] if variant.quantize else [*pruning]


def solve(done: Sequence[str], columns: int, rows: int, hessian: bool = True) -> float:
    """Bytes that compressing weights takes at the peak, with them and the Hessian that they share.

    Args:
        done: of `steps`. What each keeps of the Hessian stays until all are done.
        columns, rows: of the weights, rows of all that share a loop.
        hessian: whether there is one.
    """
    held, peak = 0, 0.0
    square, size = columns**2 if hessian else 0, rows * columns
    for name in done:
        of = SOLVERS[name]
        item = 8 if columns <= of.double else 4
        peak = max(peak, (8 + held + of.prepares * item) * square + 4 * size)
        # A narrower layer is rounded when what narrowed it is gone, all but the whole Hessian.
        held += 4 if name == "structured" and len(done) > 1 else of.keeps * item
    weights = max(SOLVERS[name].weights for name in done)
    weights += ROUNDED if len(done) > 1 and done[-1] in LOOPS else 0
    weights -= 0 if hessian else JUDGED
    return max(peak, (4 + held) * square + weights * 4 * size)


def kernels(step: str, variant: Variant) -> float:
    """Kernels a column that a step starts one after the other on a GPU."""
    if step not in LOOPS:
        return 0.0
    rounds = variant.quantize if step != "sparsegpt" else None
    pruned = SLICE_KERNELS / 128 if step == "joint" else 0.0  # alone at first, for its scales
    if not rounds or rounds.scheme != "fp8":
        return pruned + SLICE_KERNELS / 128
    chooses = step == "joint" and variant.pattern != "unstructured"
    return pruned + COLUMN_KERNELS + (GROUP_KERNELS if chooses else 0)


def batches(heights: Iterable[int], columns: int) -> list[int]:
    """Rows of each loop over weights [height, columns], as `rac.solvers.batches` puts them together."""
    loops: list[int] = []
    for rows in heights:
        if loops and (loops[-1] + rows) * columns <= SOLVED_TOGETHER:
            loops[-1] += rows
        else:
            loops.append(rows)
    return loops


def compress(
    model: Shape,
    variant: Variant,
    device: Device,
    sources: Mapping[Source, int] | None = None,
    trace: int = 0,
) -> Cost:
    """A checkpoint from stored Hessians, the layers that share one together, as far as they are small.

    Args:
        sources: of the calibration → tokens of the longest sequence; for variants that run them again.
        trace: tokens of a trace that shares of zeros are searched on.
    """
    done = steps(variant)
    passed = [(done, 1)]  # over the layers, and how often each weight is there
    if trace:
        passed.append((done[:1], LEVELS))
    peak = flops = started = 0.0
    for group in model.groups:
        columns, rows = group.columns, sum(group.layers)
        flops += ERROR * rows * columns**2 if variant.needs_hessian else 0
        for these, times in passed:
            loops = batches([rows for rows in group.layers for _ in range(times)], columns)
            for of_loop in loops:
                peak = max(peak, solve(these, columns, of_loop, variant.needs_hessian))
            for step in these:
                flops += SOLVERS[step].cubes * columns**3
                flops += SOLVERS[step].squares * rows * columns**2 * times
                started += columns * len(loops) * kernels(step, variant)
    flops *= model.blocks
    seconds = flops / (device.float32_flops * device.compute_share)
    seconds += model.blocks * started * device.launch
    largest = max(group.columns for group in model.groups)
    squares = sum(group.columns**2 for group in model.groups)
    host = HOST + 4 * squares + 4 * largest**2 + model.vocabulary * model.hidden * model.item
    disk = model.weights * model.item
    passes = 0.0  # FLOPs of running the model
    if trace and variant.allocation:
        asked = variant.allocation
        whole = model.weights * model.item
        peak = max(peak, whole + activations(model, trace) + 2 * trace * model.vocabulary * 4)
        host, disk = (
            max(host, HOST + whole),
            disk + LEVELS * model.blocks * model.block * model.item,
        )
        samples = asked.generations * SEARCHED * asked.sequences
        passes += 2 * model.weights * trace * samples
    for source, longest in (sources or {}).items():
        walked = hessians(model, source, longest, device)
        peak, host = peak + walked.device, host + walked.host - HOST
        if variant.propagation == "sequential":
            passes += walked.flops
        forward = 2 * model.blocks * model.block
        passes += forward * source.tokens
        if (
            variant.reconstruct
        ):  # each step a dense pass, one with the kept weights, and its way back
            batch = min(max(BATCH_TOKENS, longest), source.tokens)
            passes += 4 * forward * batch * variant.reconstruct.steps / len(sources or {})
            passes += 3 * forward * source.tokens
    return Cost(
        device=peak,
        host=host,
        disk=disk,
        flops=flops + passes,
        seconds=seconds + passes / (device.flops * device.compute_share),
    )


def decode(model: Shape, batch: int, prompt: int, new: int, samples: float, device: Device) -> Cost:
    """Sampling by transformers: chunks of `batch`, each as long as its longest sample, `new` tokens."""
    chunks = -(-samples // batch)
    together = min(batch, samples)
    cache = together * (prompt + new + GROWTH) * model.kv_token
    growing = 2 * cache / model.blocks  # a layer's cache and its enlarged copy
    logits = together * model.vocabulary * (model.item + 16)
    step = max(
        (model.weights * model.item + cache / 2) / (device.bandwidth * device.bandwidth_share),
        model.blocks * BLOCK_KERNELS * device.launch,
    )
    flops = 2 * model.weights * samples * (prompt + new)
    return Cost(
        device=model.weights * model.item
        + max(cache + growing + logits, activations(model, int(together * prompt))),
        host=HOST + model.weights * model.item,
        flops=flops,
        seconds=chunks * new * step,
    )


def stream(
    model: Shape, prompt: int, new: int, mean: float, samples: float, device: Device
) -> Cost:
    """Sampling by vLLM: as many samples at once as memory has room for, a new one when one ends.

    Args:
        prompt: tokens of a prompt; new: the most that a sample has; mean: those it has in the mean.
        samples: how many.
    """
    whole = model.weights * model.item
    live = (prompt + mean / 2) * model.kv_token  # of a sample, in the mean
    working = activations(model, STEP_TOKENS)
    room = (SHARE * device.memory - whole - working) / live
    together = max(min(room, TOGETHER, samples), 1)
    bandwidth, rate = (
        device.bandwidth * device.bandwidth_share,
        device.flops * device.compute_share,
    )
    step = max((whole + together * live) / bandwidth, 2 * model.weights * together / rate)
    alone = (new - mean) * whole / bandwidth  # the longest sample, when the others have ended
    flops = 2 * model.weights * samples * (prompt + mean)
    return Cost(
        device=whole + working + (prompt + new) * model.kv_token,
        host=HOST + whole,
        flops=flops,
        seconds=samples * mean / together * step
        + alone
        + 2 * model.weights * samples * prompt / rate,
    )


def likelihoods(model: Shape, prompt: int, requests: float, device: Device) -> Cost:
    """Log-likelihoods of requests of `prompt` tokens each, in batches of BATCH_TOKENS."""
    tokens = requests * prompt
    batch = int(min(max(BATCH_TOKENS, prompt), tokens))
    flops = 2 * model.weights * tokens
    return Cost(
        device=model.weights * model.item
        + activations(model, batch)
        + model.vocabulary * batch * model.item,
        host=HOST + model.weights * model.item,
        flops=flops,
        seconds=flops / (device.flops * device.compute_share),
    )


def diagnostics(model: Shape, device: Device) -> Cost:
    """A checkpoint's layers, one at a time, on the Hessians of held-out prompt and decode tokens.

    Products with half of a Hessian, of the weights and of what they lost; in float64 up to 2,048 columns.
    """
    squares = sum(group.columns**2 for group in model.groups)
    peak = largest = 0
    for group in model.groups:
        item = 8 if group.columns <= DOUBLE else 4
        size = group.columns * max(group.layers)
        peak = max(peak, 8 * group.columns**2 + (8 + 3 * item) * size)
        largest = max(largest, size)
    flops = 4.0 * model.blocks * sum(sum(g.layers) * g.columns**2 for g in model.groups)
    return Cost(
        device=peak,
        host=HOST + 8 * squares + 16 * largest,
        flops=flops,
        seconds=flops / (device.float32_flops * device.compute_share),
    )


def losses(model: Shape, sources: Iterable[Source], sequence: int, device: Device) -> Cost:
    """A checkpoint and the dense model on held-out sources, the longest sequence of which is given.

    The first source is the thoughts: the dense model walks them once more, each layer with what it lost,
    for the errors by token.
    """
    each = [source.tokens for source in sources]
    batch = min(max(LOGITS // model.vocabulary, sequence), sum(each))
    predicted = sequence * model.vocabulary
    # Of 16 bits, the loss takes a copy in float32 and its softmax.
    beside = max(predicted * (8 if model.item < 4 else 4), 16 * min(predicted, COMPARED))
    logits = 2 * batch * model.vocabulary * model.item + beside
    flops = 4 * model.weights * (sum(each) + each[0])
    largest = max(group.columns * max(group.layers) for group in model.groups)
    walk = activations(model, min(max(WALKED, sequence), each[0])) + 16 * largest
    return Cost(
        device=2 * model.weights * model.item + max(activations(model, batch), logits, walk),
        host=HOST + 2 * model.weights * model.item,
        flops=flops,
        seconds=flops / (device.flops * device.compute_share),
    )


def runtime(model: Shape, workload: Workload, device: Device) -> Cost:
    """Both models at once, each generating every batch once more than it is repeated."""
    runs = [
        decode(model, batch, workload.prompt_tokens, workload.new_tokens, batch, device)
        for batch in workload.batches
    ]
    times = 2 * (workload.repeats + 1)
    return Cost(
        device=max(run.device for run in runs) + model.weights * model.item,
        host=HOST + 2 * model.weights * model.item,
        flops=times * sum(run.flops for run in runs),
        seconds=times * sum(run.seconds for run in runs),
    )
