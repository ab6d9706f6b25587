"""How fast the solvers are, beside the published loops and beside matrix products of the same flops.

    python benchmarks/solvers.py [--shapes 0.5B,1.5B,7B] --output FILE.json

On a GPU where there is one. Layer shapes are those of Qwen2; weights and inputs are random, the inputs
correlated and of different sizes. A time is the best of several runs. A table for each question goes to
standard output:

1. one solve, the Hessian's factor ready: ours, the published loop, and the loop's trailing updates alone
   (the products that add what a block of 128 columns costs to the columns after it);
2. a sweep of five sparsities, 2:4 and W4A16 with groups of 128: ours factorizes twice (the columns in their
   order, and by their activations) and settles sparsities of small layers in one loop, the published loops do
   all of it once for each;
3. layers that share an input, in one loop and one after the other: ours;
4. relative errors on the same inputs, ours beside the published.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rac import solvers
from rac.solvers import gptq, grids
from rac.solvers.patterns import parse

SHAPES = {
    "0.5B": [(896, 896), (128, 896), (4864, 896), (896, 4864)],
    "1.5B": [(1536, 1536), (256, 1536), (8960, 1536), (1536, 8960)],
    "7B": [(3584, 3584), (512, 3584), (18944, 3584), (3584, 18944)],
}
SHARING = {  # rows of the layers that read the same columns
    "0.5B": {"q, k, v": ((896, 128, 128), 896), "gate, up": ((4864, 4864), 896)},
    "1.5B": {"q, k, v": ((1536, 256, 256), 1536), "gate, up": ((8960, 8960), 1536)},
    "7B": {"q, k, v": ((3584, 512, 512), 3584)},  # its gate and up are too large to gain by it
}
SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7)
W4A16 = grids.Grid("int", 4, 128)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LONG = 0.5 if DEVICE == "cuda" else 1.5  # seconds of repeats
# A run that takes longer is timed once; on a GPU, after one that compiles kernels.
LEAST = 2 if DEVICE == "cuda" else 1


# ---- the published loops, written down plainly


def published_factor(hessian: torch.Tensor, damping: float = 0.01) -> torch.Tensor:
    """Upper Cholesky factor of the inverse of the damped Hessian: factorize, invert, factorize."""
    eye = torch.eye(len(hessian), device=hessian.device)
    lower = torch.linalg.cholesky(hessian + damping * hessian.diagonal().mean() * eye)
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)


def published_sparsegpt(
    weight: torch.Tensor, factor: torch.Tensor, pattern: str, block: int = 128
) -> torch.Tensor:
    """Algorithm 1 of arXiv 2301.00774: rank-one updates in a block, one product a block beyond it."""
    weight, parsed = weight.clone(), parse(pattern)
    for start in range(0, weight.shape[1], block):
        stop = min(start + block, weight.shape[1])
        part, own = weight[:, start:stop].clone(), factor[start:stop, start:stop]
        errors, kept = torch.zeros_like(part), torch.zeros_like(part)
        if parsed.group == 1:
            scores = part**2 / own.diagonal() ** 2
            ranked = scores.flatten().sort().values
            pruned = scores <= ranked[int(scores.numel() * parsed.sparsity) - 1]
        else:
            pruned = torch.zeros_like(part, dtype=torch.bool)
        for j in range(stop - start):
            if parsed.group > 1 and j % parsed.group == 0:
                ahead = slice(j, j + parsed.group)
                scores = part[:, ahead] ** 2 / own.diagonal()[ahead] ** 2
                least = scores.topk(int(parsed.group * parsed.sparsity), largest=False).indices
                pruned[:, ahead] = pruned[:, ahead].scatter(1, least, True)
            column = part[:, j]
            settled = column.masked_fill(pruned[:, j], 0)
            kept[:, j] = settled
            error = (column - settled) / own[j, j]
            part[:, j:] -= error[:, None] @ own[j : j + 1, j:]
            errors[:, j] = error
        weight[:, start:stop] = kept
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return weight


def published_gptq(
    weight: torch.Tensor, factor: torch.Tensor, group: int = 128, block: int = 128
) -> torch.Tensor:
    """Algorithm 1 of arXiv 2210.17323, 4 bits: scales of a group from its weights when it is reached."""
    weight = weight.clone()
    for start in range(0, weight.shape[1], block):
        stop = min(start + block, weight.shape[1])
        part, own = weight[:, start:stop].clone(), factor[start:stop, start:stop]
        errors, rounded = torch.zeros_like(part), torch.zeros_like(part)
        for j in range(stop - start):
            if (start + j) % group == 0:
                scale = part[:, j : j + group].abs().amax(1) / 7.5
            column = part[:, j]
            settled = (column / scale).round().clamp(-8, 7) * scale
            rounded[:, j] = settled
            error = (column - settled) / own[j, j]
            part[:, j:] -= error[:, None] @ own[j : j + 1, j:]
            errors[:, j] = error
        weight[:, start:stop] = rounded
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return weight


def trailing_updates(rows: int, columns: int, block: int = 128) -> Callable[[], None]:
    """Only the products of these loops that go beyond a block."""
    weight, factor, errors = (
        torch.randn(*shape, device=DEVICE)
        for shape in ((rows, columns), (columns, columns), (rows, block))
    )

    def run() -> None:
        for stop in range(block, columns, block):
            weight[:, stop:].addmm_(errors, factor[stop - block : stop, stop:], alpha=-1)

    return run


# ---- measurements


def seconds(run: Callable[[], object]) -> float:
    """The best of the runs that begin within `LONG` seconds, of `LEAST` at least."""
    times: list[float] = []
    while len(times) < LEAST or sum(times) < LONG:
        start = time.perf_counter()
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def problem(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and the Hessian of 2 × columns correlated inputs whose sizes spread over a factor of ten."""
    generator = torch.Generator(DEVICE).manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=DEVICE)

    weight, common = random(rows, columns), random(columns // 8, columns)
    inputs = random(2 * columns, columns // 8) @ common / math.sqrt(columns // 8)
    inputs += random(2 * columns, columns)
    order = torch.randperm(columns, generator=generator, device=DEVICE)
    inputs *= torch.logspace(-0.5, 0.5, columns, device=DEVICE)[order]
    return weight, inputs.T @ inputs


def measure(rows: int, columns: int) -> dict:
    """All numbers of one layer shape."""
    weight, hessian = problem(rows, columns)
    dense = solvers.energy(weight, hessian)
    upper = published_factor(hessian)
    pruning = solvers.prepare(hessian, "sparsegpt")
    rounding = solvers.prepare(hessian, "gptq")
    unstructured = [f"unstructured {share}" for share in SPARSITIES]

    def quantized() -> torch.Tensor:
        found, _, _ = gptq.quantize(weight, rounding, W4A16, torch.bfloat16)
        return grids.dequantize(found, W4A16)

    ours = {
        name: lambda name=name: solvers.prune(weight, pruning, name, "sparsegpt").weight
        for name in ("unstructured 0.5", "2:4")
    }
    ours["W4A16"] = lambda: gptq.quantize(weight, rounding, W4A16, torch.bfloat16)
    theirs = {
        name: lambda name=name: published_sparsegpt(weight, upper, name)
        for name in ("unstructured 0.5", "2:4")
    }
    theirs["W4A16"] = lambda: published_gptq(weight, upper)

    def our_sweep() -> None:
        prepared = solvers.prepare(hessian, "sparsegpt")
        for batch in solvers.batches(dict.fromkeys(unstructured, weight.numel())):
            solvers.prune_all([weight] * len(batch), prepared, batch, "sparsegpt")
        solvers.prune(weight, prepared, "2:4", "sparsegpt")
        gptq.quantize(weight, solvers.prepare(hessian, "gptq"), W4A16, torch.bfloat16)

    def their_sweep() -> None:
        for name in (*unstructured, "2:4"):
            published_sparsegpt(weight, published_factor(hessian), name)
        published_gptq(weight, published_factor(hessian))

    def error(compressed: torch.Tensor) -> float:
        return solvers.lost_share(weight, compressed, hessian, dense)

    found = {
        "rows": rows,
        "columns": columns,
        "products": seconds(trailing_updates(rows, columns)),
        "factor": {
            "ours": seconds(lambda: solvers.prepare(hessian, "sparsegpt")),
            "published": seconds(lambda: published_factor(hessian)),
        },
        "solve": {
            name: {"ours": seconds(ours[name]), "published": seconds(theirs[name])} for name in ours
        },
        "sweep": {"ours": seconds(our_sweep), "published": seconds(their_sweep)},
        "error": {
            name: {
                "ours": error(quantized() if name == "W4A16" else ours[name]()),
                "published": error(theirs[name]()),
            }
            for name in ours
        },
    }
    return found


def measure_sharing(heights: tuple[int, ...], columns: int) -> dict:
    """Seconds of layers that share an input, solved one after the other and in one loop."""
    _, hessian = problem(1, columns)
    weights = [problem(rows, columns)[0] for rows in heights]
    pruning, rounding = (solvers.prepare(hessian, name) for name in ("sparsegpt", "gptq"))

    def prune(group: list[torch.Tensor]) -> None:
        solvers.prune_all(group, pruning, ["unstructured 0.5"] * len(group), "sparsegpt")

    def round_all(group: list[torch.Tensor]) -> None:
        gptq.quantize_all(group, rounding, W4A16, torch.bfloat16)

    return {
        name: {
            "apart": seconds(lambda run=run: [run([weight]) for weight in weights]),
            "together": seconds(lambda run=run: run(weights)),
        }
        for name, run in (("unstructured 0.5", prune), ("W4A16", round_all))
    }


def machine() -> str:
    """The GPU's name, or the processor's."""
    if DEVICE == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak() -> dict[str, float]:
    """Flops a second of a large square product."""
    size = 4096

    def rate(dtype: torch.dtype) -> float:
        one, other = torch.randn(2, size, size, dtype=dtype, device=DEVICE)
        return 2 * size**3 / seconds(lambda: one @ other)

    return {"float32": rate(torch.float32), "float64": rate(torch.float64)}


# ---- tables


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def duration(value: float) -> str:
    if value < 1:
        return f"{value * 1000:.{0 if value >= 0.01 else 1}f} ms"
    return f"{value:.1f} s"


def tables(result: dict) -> str:
    """What the measurements say, as Markdown."""
    kinds = {"unstructured 0.5": "SparseGPT 50 %", "2:4": "SparseGPT 2:4", "W4A16": "GPTQ W4A16"}
    layers = result["layers"]
    names = [f"{layer['model']} {layer['rows']} × {layer['columns']}" for layer in layers]
    peaks = ", ".join(
        f"{rate / 1e9:,.0f} GFLOP/s in {kind}" for kind, rate in result["peak"].items()
    )
    solves, sweeps, errors = [], [], []
    for name, layer in zip(names, layers, strict=True):
        products = layer["products"]
        for kind, title in kinds.items():
            ours, theirs = layer["solve"][kind].values()
            solves.append(
                [name, title, duration(ours), duration(theirs), duration(products)]
                + [f"{theirs / ours:.1f} ×", f"{ours / products:.2f} ×"]
            )
        factor, sweep = layer["factor"], layer["sweep"]
        sweeps.append(
            [name, duration(factor["ours"]), duration(factor["published"])]
            + [duration(sweep["ours"]), duration(sweep["published"])]
            + [f"{sweep['published'] / sweep['ours']:.1f} ×"]
        )
        cells = (f"{error:.5f}" for kind in kinds for error in layer["error"][kind].values())
        errors.append([name, *cells])
    shared = [
        [
            name,
            kinds[kind],
            *map(duration, took.values()),
            f"{took['apart'] / took['together']:.1f} ×",
        ]
        for name, of_group in result["sharing"].items()
        for kind, took in of_group.items()
    ]
    return "\n\n".join(
        [
            f"{result['machine']}, {result['threads']} threads, torch {result['torch']}; matrix "
            f"products at their best: {peaks}.",
            "One solve, the factor ready; “products” are the published loop's trailing updates alone.",
            table(
                ["layer", "", "ours", "published loop", "products", "faster than the loop"]
                + ["of the products"],
                solves,
            ),
            "The factor, and a sweep with all its factors: five sparsities, 2:4, W4A16.",
            table(["layer", "our factor", "published", "our sweep", "published", "faster"], sweeps),
            "Layers that share an input, one after the other and in one loop.",
            table(["layers", "", "apart", "together", "faster"], shared),
            "Relative errors: ours, published.",
            table(
                [
                    "layer",
                    *(f"{title}, {who}" for title in kinds.values() for who in ("ours", "publ.")),
                ],
                errors,
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shapes", default="0.5B,1.5B", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = {
        "machine": machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "peak": peak(),
        "layers": [
            {"model": model, **measure(*shape)}
            for model in arguments.shapes.split(",")
            for shape in SHAPES[model]
        ],
        "sharing": {
            f"{model} {name}": measure_sharing(*group)
            for model in arguments.shapes.split(",")
            for name, group in SHARING[model].items()
        },
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(tables(result))


if __name__ == "__main__":
    main()
