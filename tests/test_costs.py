import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rac import costs, solvers
from rac.costs import H100
from rac.definitions import Source, Workload
from rac.errors import RacError
from rac.models import quantized
from rac.solvers import columns as solvers_columns
from rac.solvers import gptq
from rac.solvers.patterns import parse
from rac.variants import Variant

MEDIUM = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 16384,
    "tie_word_embeddings": False,
    "max_position_embeddings": 1024,
}
PRUNED = {"solver": "sparsegpt", "sparsity": [0.5]}
METHODS = ("gptq", "rtn", "joint")


def test_constants_are_those_of_the_stages():
    from rac import blocks, divergences, losses, token_errors
    from rac.engines import transformers

    assert blocks.BATCH_TOKENS["cuda"] == costs.BATCH_TOKENS
    assert losses.LOGITS == costs.LOGITS
    assert divergences.LOGITS == costs.COMPARED
    assert token_errors.TOKENS == costs.WALKED
    assert transformers.GROWTH == costs.GROWTH
    assert solvers.TOGETHER == costs.SOLVED_TOGETHER
    for columns in (costs.DOUBLE, costs.DOUBLE + 1):
        exact = solvers._dtype_of_energy(torch.empty(columns, 0)) == torch.float64
        assert exact == (columns <= costs.DOUBLE)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_layers_share_a_loop_as_the_solvers_put_them(heights):
    sizes = {i: rows * 2**22 for i, rows in enumerate(heights)}
    loops = [sum(heights[i] for i in batch) for batch in solvers.batches(sizes)]
    assert costs.batches(heights, 2**22) == loops


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_counted(random_qwen2, tied):
    network = random_qwen2(tie_word_embeddings=tied, hidden_size=64, num_attention_heads=2)
    shape = costs.shape(network.config.to_dict(), "float32")
    matrices = sum(weight.numel() for weight in network.parameters() if weight.ndim == 2)
    assert shape.weights == matrices
    assert shape.kv_token == 2 * 2 * 2 * 32 * 4


def test_flops_of_a_forward_pass(random_qwen2):
    network, tokens = random_qwen2(hidden_size=64, intermediate_size=256), 20
    shape = costs.shape(network.config.to_dict(), "float32")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.base_model(input_ids=torch.randint(3, 700, (1, tokens)), use_cache=False)
    squares = sum(group.columns**2 for group in shape.groups)
    source = Source(kind="text", dataset="x", tokens=tokens)
    planned = costs.hessians(shape, source, tokens, H100).flops
    forward = planned - tokens * squares * shape.blocks
    assert forward == pytest.approx(counter.get_total_flops(), rel=0.05)  # it counts all pairs


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"intermediate_size": None}, "no intermediate_size"),
        *(
            ({key: value}, f"{key} {json.dumps(value)}: it has to be a positive integer")
            for key in (*costs.SIZES, "num_key_value_heads", "head_dim")
            for value in (0, -1, 1.5, "8", True, [8])
        ),
        ({"num_attention_heads": 7}, "num_attention_heads 7: without head_dim it has to divide"),
        ({"text_config": {}}, "no hidden_size"),
        ({"text_config": None}, "text_config is not a JSON object"),
        ({"num_experts": 8}, "experts"),
        ({"n_routed_experts": 64}, "experts"),
    ],
)
def test_other_models_are_refused(llama_70b, change, named):
    with pytest.raises(RacError, match=re.escape(named)):
        costs.shape(llama_70b | change, "bfloat16")


@pytest.mark.parametrize("values", [None, [], 5, "x"])
def test_a_config_json_that_is_no_object_is_refused(values):
    with pytest.raises(RacError, match=r"config\.json is not a JSON object"):
        costs.shape(values, "bfloat16")


def test_explicit_head_size_and_nested_configurations(llama_70b):
    inner = llama_70b | {"head_dim": 96, "num_key_value_heads": None}
    shape = costs.shape({"text_config": inner}, "float16")
    assert (shape.head, shape.kv_heads, shape.item) == (96, 64, 2)


# ---- the 70B on one GPU


def test_a_70b_is_compressed_on_one_gpu_of_80_gb(llama_70b):
    shape = costs.shape(llama_70b, "bfloat16")
    assert shape.weights == pytest.approx(70.55e9, rel=1e-3)
    source = Source(kind="traces", dataset="x", tokens=1_000_000, max_new_tokens=32768)
    assert costs.hessians(shape, source, 33_000, H100).device < 0.5 * H100.memory
    pruned = ("magnitude", "wanda", "sparsegpt", "alps", "structured")
    asked = [{"solver": solver, "sparsity": [0.5]} for solver in pruned]
    rounded = [{"quantize": {"scheme": "w4a16", "method": name}} for name in ("gptq", "rtn")]
    asked += rounded + [one | other for one in asked for other in rounded]
    asked.append(PRUNED | {"quantize": {"scheme": "w4a16", "method": "joint"}})
    variants = [Variant(**one) for one in asked]
    assert {step for variant in variants for step in costs.steps(variant)} == set(costs.SOLVERS)
    for variant in variants:
        assert costs.compress(shape, variant, H100).device < 0.5 * H100.memory
    # Its weights alone are 141 GB, so whatever runs the whole model needs more than one.
    assert costs.decode(shape, 64, 256, 32768, 64, H100).device > H100.memory


@pytest.mark.parametrize("quantize", [{"scheme": "w4a16"}, {"scheme": "w4a16", "method": "joint"}])
def test_rounding_is_planned_on_top_of_pruning(llama_70b, quantize):
    shape = costs.shape(llama_70b, "bfloat16")
    alone, rounded, both = (
        costs.compress(shape, Variant(**asked), H100)
        for asked in (PRUNED, {"quantize": {"scheme": "w4a16"}}, PRUNED | {"quantize": quantize})
    )
    assert both.device >= alone.device  # preparing takes most
    assert both.flops > alone.flops and both.seconds > alone.seconds
    if "method" not in quantize:  # two factors and two loops, and one look at the errors
        errors = sum(costs.ERROR * sum(g.layers) * g.columns**2 for g in shape.groups)
        assert both.flops == pytest.approx(alone.flops + rounded.flops - errors * shape.blocks)
        factor = min(4 * group.columns**2 for group in shape.groups)
        assert both.device >= max(alone.device, rounded.device) + factor


def test_rounding_to_the_nearest_takes_no_hessian(llama_70b):
    shape = costs.shape(llama_70b, "bfloat16")
    nearest = Variant(quantize={"scheme": "w4a16", "method": "rtn"})
    cost = costs.compress(shape, nearest, H100)
    assert cost.flops == cost.seconds == 0
    assert cost.device < costs.compress(shape, Variant(quantize={"scheme": "w4a16"}), H100).device


class Launches(TorchDispatchMode):
    """Counts operations that compute or copy: what would be a kernel on a GPU."""

    VIEWS = {
        *("slice", "select", "view", "t", "transpose", "expand", "split", "detach", "alias"),
        *("unsqueeze", "as_strided", "diagonal", "permute", "empty", "empty_like", "unbind"),
        *("new_empty", "squeeze", "_unsafe_view", "split_with_sizes"),
    }

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.__name__.partition(".")[0] not in self.VIEWS
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "asked",
    [
        PRUNED,
        {"solver": "sparsegpt", "pattern": "2:4"},
        {"solver": "sparsegpt", "pattern": "4:8"},
        {"quantize": {"scheme": "w4a16"}},
        {"quantize": {"scheme": "fp8"}},
        PRUNED | {"quantize": {"scheme": "w4a16", "method": "joint"}},
        {
            "solver": "sparsegpt",
            "pattern": "2:4",
            "quantize": {"scheme": "fp8", "method": "joint"},
        },
    ],
)
def test_kernels_of_a_column(monkeypatch, asked):
    """Operations of the loop, with one in the place of each call of the Triton kernel."""
    variant, columns = Variant(**asked), 512
    step = costs.steps(variant)[-1]
    by_kernel = (lambda c, e, *_: torch.neg(c, out=e)), (128,)

    def settle_by(lost, settling):
        fits = settling.grid is None or settling.grid.kind == "int"
        return by_kernel if fits else (solvers_columns.settle_one_by_one, solvers_columns.INNER)

    monkeypatch.setattr(solvers_columns, "_settle_by", settle_by)
    weight, x = torch.randn(64, columns), torch.randn(2 * columns, columns)
    pattern = variant.pattern if ":" in variant.pattern else "unstructured 0.5"
    prepared = solvers.prepare(x.T @ x, "gptq" if step == "gptq" else "sparsegpt")
    with Launches() as launches:
        if step == "sparsegpt":
            solvers.prune(weight, prepared, pattern, step)
        else:
            grid = quantized.grid(variant.quantize.scheme, 128)
            chosen = parse(pattern) if step == "joint" else None
            gptq.quantize(weight, prepared, grid, torch.bfloat16, pattern=chosen)
    assert costs.kernels(step, variant) == pytest.approx(launches.count / columns, abs=0.3)


# ---- measured peaks: how far a process grows beyond what an equal, small job left it with

MEASURE = """
from pathlib import Path
import torch
torch.set_num_threads(1)
from rac import solvers

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))

def growth(job, small, big):
    job(*small)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    job(*big)
    print(status("VmHWM") - before)
"""


def _growth(script: str) -> int:
    """Bytes that a process of its own grows by."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux: peaks of the resident set are read from /proc")
    command = [sys.executable, "-c", MEASURE + script]
    # Freed tensors go back at once, so that what is measured is what was alive together.
    prompt = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=prompt)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1])


def _check(planned: float, measured: int) -> None:
    """A plan may be a fifth too low and a half too high."""
    print(f"| {planned / 1e6:,.0f} | {measured / 1e6:,.0f} | {planned / measured:.2f} |")
    assert 0.8 < planned / measured < 1.5, f"{planned:.4g} planned, {measured:.4g} measured"


@pytest.fixture(scope="module")
def models(random_qwen2, save_model, tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a tiny and of a medium model."""
    folder = tmp_path_factory.mktemp("planned")
    return (
        save_model(random_qwen2(), folder / "small"),
        save_model(random_qwen2(**MEDIUM), folder / "big"),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "rows", "columns"),
    [
        *((solver, 256, 2048) for solver in ("sparsegpt", "alps", "structured", "gptq", "wanda")),
        *((solver, 4096, 768) for solver in ("sparsegpt", "alps", "structured", "gptq", "wanda")),
        ("sparsegpt", 256, 4352),
    ],
)
def test_peak_of_a_solver(solver, rows, columns):
    measured = _growth(f"""
def job(rows, columns):
    x = torch.randn(columns + 64, columns)
    hessian = x.T @ x
    del x
    weight = torch.randn(rows, columns)
    prepared = solvers.prepare(hessian, "{solver}") if "{solver}" != "structured" else None
    if "{solver}" == "structured":
        from rac.solvers import structured
        structured.remove(weight, structured.prepare(hessian), 1, columns // 2)
    elif "{solver}" == "gptq":
        from rac.solvers import gptq, grids
        grid = grids.Grid("int", 4, 128)
        codes, _, _ = gptq.quantize(weight, prepared, grid, torch.bfloat16)
        solvers.relative_error(weight, grids.dequantize(codes, grid), hessian)
    else:
        pruned = solvers.prune(weight, prepared, "unstructured 0.5", "{solver}")
        solvers.relative_error(weight, pruned.weight, hessian)
growth(job, (64, 128), ({rows}, {columns}))
""")
    _check(costs.solve([solver], columns, rows), measured)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [768, 2048])
@pytest.mark.parametrize(
    "variant",
    [
        PRUNED,
        {"solver": "magnitude", "sparsity": [0.5]},
        {"quantize": {"scheme": "w8a8"}},
        {"quantize": {"scheme": "w8a8", "method": "rtn"}},
        *(PRUNED | {"quantize": {"scheme": "w4a16", "method": name}} for name in METHODS),
    ],
)
def test_peak_of_layers_that_share_a_loop(variant, columns):
    """Pruned, rounded, and both: then two factors are there at once."""
    asked = Variant(**variant)
    rows = 2048 * 768 // columns
    measured = _growth(f"""
from rac import layers
from rac.variants import Variant
def job(rows, columns):
    variant, hessian = Variant(**{variant!r}), None
    if variant.needs_hessian:
        x = torch.randn(columns + 64, columns)
        hessian = x.T @ x
        del x
    weights = {{name: torch.randn(rows, columns) for name in ("gate", "up")}}
    patterns = dict.fromkeys(weights, "unstructured 0.5")
    for name, solved, _ in layers.solve(weights, hessian, variant, patterns, torch.bfloat16):
        layers.entry(name, weights[name], solved, hessian, variant, "unstructured 0.5")
growth(job, (64, 128), {(rows, columns)})
""")
    planned = costs.solve(costs.steps(asked), columns, 2 * rows, asked.needs_hessian)
    _check(planned, measured)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tokens"), [("traces", 12_000), ("text", 40_000)])
def test_peak_of_the_hessians(models, write_sequences, tmp_path, kind, tokens):
    """On a CPU, where sums need no copy to be saved."""
    files = [
        write_sequences(tmp_path / f"{model.name}.safetensors", model, kind, [length] * count)
        for model, length, count in zip(models, (20, 500), (2, tokens // 500), strict=True)
    ]
    measured = _growth(f"""
from rac.hessians import accumulate
def job(model, sequences, name):
    accumulate(Path(model), Path(sequences), "float32", Path({str(tmp_path)!r}) / name, {costs.BATCH_TOKENS})
growth(job, {(str(models[0]), str(files[0]), "a")}, {(str(models[1]), str(files[1]), "b")})
""")
    shape = costs.shape(MEDIUM, "float32")
    squares = sum(group.columns**2 for group in shape.groups) * (2 if kind == "traces" else 1)
    source = Source(kind=kind, dataset="x", tokens=tokens)
    cost = costs.hessians(shape, source, 500, H100)
    _check(cost.device + cost.host - costs.HOST - 4 * squares, measured)
    stored = sum(file.stat().st_size for file in (tmp_path / "b").glob("*.safetensors"))
    assert cost.disk == pytest.approx(stored, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "prompt", "new"), [(32, 24, 400), (48, 400, 8)])
def test_peak_of_generation(models, batch, prompt, new):
    """Of long answers, and of long prompts."""
    measured = _growth(f"""
from rac.definitions import Sampling
from rac.engines.transformers import generate, load
def job(model, batch, prompt, new):
    prompts = [[5] * prompt] * batch
    generate(load(Path(model), "float32"), [], prompts, list(range(batch)), Sampling(), new)
growth(job, {(str(models[0]), 2, 8, 8)}, {(str(models[1]), batch, prompt, new)})
""")
    shape = costs.shape(MEDIUM, "float32")
    planned = costs.decode(shape, batch, prompt, new, batch, H100).device
    _check(planned, measured)


@pytest.mark.slow
def test_peak_of_the_losses(models):
    measured = _growth(f"""
from rac import losses, sources
from rac.models.checkpoint import load_model
def job(model, count, length):
    read = [sources.Sequence(torch.randint(3, 700, (length,)), 1) for _ in range(count)]
    both = (load_model(Path(model), "float32") for _ in range(2))
    losses.score_sequences(*both, read, True)
growth(job, {(str(models[0]), 2, 8)}, {(str(models[1]), 36, 500)})
""")
    shape = costs.shape(MEDIUM, "float32")
    source = Source(kind="text", dataset="x", tokens=18_000)
    _check(costs.losses(shape, [source], 500, H100).device, measured)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1536, 2304])
def test_peak_of_the_diagnostics(columns):
    """Of the widest group: both Hessians, a weight and what became of it."""
    shape = costs.shape(MEDIUM | {"intermediate_size": columns}, "float32")
    rows = max(shape.groups[-1].layers)
    measured = _growth(f"""
def job(rows, columns):
    x = [torch.randn(64, columns) for _ in range(2)]
    hessians = [each.T @ each for each in x]
    weight = torch.randn(rows, columns)
    return [solvers.relative_error(weight, weight.round(), each) for each in hessians]
growth(job, (8, 16), ({rows}, {columns}))
""")
    _check(costs.diagnostics(shape, H100).device, measured)


@pytest.mark.slow
def test_peak_of_the_runtime(models):
    """Of both models, and the larger batch."""
    measured = _growth(f"""
from rac.definitions import Workload
from rac.runtime import _seconds
from rac.engines.transformers import load
def job(model, batches):
    workload = Workload(batches=batches, prompt_tokens=32, new_tokens=100, repeats=1)
    loaded = [load(Path(model), "float32") for _ in range(2)]
    for batch in batches:
        for each in loaded:
            _seconds(each, batch, workload)
growth(job, {(str(models[0]), [1])}, {(str(models[1]), [2, 32])})
""")
    workload = Workload(batches=[2, 32], prompt_tokens=32, new_tokens=100, repeats=1)
    planned = costs.runtime(costs.shape(MEDIUM, "float32"), workload, H100).device
    _check(planned, measured)


# ---- vLLM


def test_vllm_fills_the_memory_and_no_more(llama_70b):
    small = costs.shape(llama_70b | {"num_hidden_layers": 8}, "bfloat16")
    one, many = (costs.stream(small, 256, 32768, 8192, n, H100) for n in (1, 10_000))
    assert one.device == many.device < H100.memory  # what one sample needs
    assert many.flops == pytest.approx(10_000 * one.flops)
    assert many.seconds < 10_000 * one.seconds / 20  # many at once
    larger = H100._replace(memory=2 * H100.memory)
    assert costs.stream(small, 256, 32768, 8192, 10_000, larger).seconds < many.seconds


def test_vllm_reads_the_weights_for_each_token_of_a_sample_alone(llama_70b):
    shape = costs.shape(llama_70b, "bfloat16")
    alone = costs.stream(shape, 256, 1000, 1000, 1, H100)
    read = 1000 * shape.weights * shape.item / (H100.bandwidth * H100.bandwidth_share)
    assert alone.seconds == pytest.approx(read, rel=0.02)  # and a few keys and values


@pytest.mark.parametrize("samples", [100, 1000, 100_000])
def test_vllm_is_no_slower_than_chunks_that_wait_for_their_longest(llama_70b, samples):
    shape = costs.shape(llama_70b | {"num_hidden_layers": 8}, "bfloat16")
    chunks = costs.decode(shape, 64, 256, 32768, samples, H100)
    assert costs.stream(shape, 256, 32768, 8192, samples, H100).seconds < chunks.seconds
