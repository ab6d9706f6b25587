"""Accumulating Σ x xᵀ: ours, the whole square product, and the published hook, beside the GEMM peak.

    python benchmarks/hessians.py --output FILE.json

Only what is needed counts as useful work: columns² · tokens, half of the 2 · columns² · tokens of the
whole product. Shares are of the fastest matrix product that the same machine did in the same run. On a GPU,
where there is one, inputs are bfloat16 and all products TF32.

A second table says what the precision of the inputs does to what is solved by them: SparseGPT at 50 % by the
Hessian of float32 inputs, of the same rounded as a model in bfloat16 has them, and rounded to the ten bits
of mantissa that TF32 multiplies. All errors are by the Hessian of the float32 inputs.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rac import solvers
from rac.inputs import add_outer_product, mirror

COLUMNS = {
    896: "0.5B hidden",
    1536: "1.5B hidden",
    3584: "7B hidden",
    4864: "0.5B MLP",
    8960: "1.5B MLP",
    18944: "7B MLP",
}
SQUARE = 3072  # size of the product whose speed is the peak
LENGTH = 2048  # tokens of a calibration sequence of the published code
SOLVED = {(896, 896): "0.5B attention", (896, 4864): "0.5B down", (1536, 1536): "1.5B attention"}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32  # of the model, and so of inputs


def whole_square(total: torch.Tensor, x: torch.Tensor) -> None:
    """The product as it stands, all tokens at once, in the precision that is asked for."""
    x = x.float()
    total.addmm_(x.T, x)


def published_hook(total: torch.Tensor, x: torch.Tensor) -> None:
    """SparseGPT's and GPTQ's add_batch, once a sequence: a running mean, scaled on the way."""
    for samples, sequence in enumerate(x.split(LENGTH)):
        total *= samples / (samples + 1)
        columns = (2 / (samples + 1)) ** 0.5 * sequence.t().float()
        total += columns.matmul(columns.t())


METHODS = {
    "ours": add_outer_product,
    "whole square": whole_square,
    "published hook": published_hook,
}


def seconds(run: Callable[[], object]) -> float:
    """How long one run takes."""
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def measure(tokens: int, repeats: int) -> dict:
    """Shortest times of all methods at all widths, and the error of ours against float64.

    Methods and the product that the peak is taken from take turns, so that a busy machine slows all.
    """
    best, rows = 0.0, []
    torch.set_float32_matmul_precision("high" if DEVICE == "cuda" else "highest")
    square = torch.randn(SQUARE, SQUARE, device=DEVICE)
    for columns, where in COLUMNS.items():
        x = torch.randn(tokens, columns, device=DEVICE).to(DTYPE)
        total = torch.zeros(columns, columns, device=DEVICE)
        times: dict[str, list[float]] = {name: [] for name in METHODS}
        for _ in range(repeats + 1):
            best = max(best, 2 * SQUARE**3 / seconds(lambda: square @ square))
            for name, method in METHODS.items():
                times[name].append(seconds(lambda run=method, x=x, total=total: run(total, x)))
        row: dict = {"columns": columns, "of": where}
        row |= {name: {"seconds": min(took[1:])} for name, took in times.items()}  # one warms up
        add_outer_product(total.zero_(), x)
        expected = (x.double().T @ x[:, :256].double()).tril()
        row["error"] = ((total[:, :256].double().tril() - expected).norm() / expected.norm()).item()
        rows.append(row)
    for row in rows:
        for name in METHODS:
            useful = row["columns"] ** 2 * tokens / row[name]["seconds"]
            row[name]["useful_share_of_peak"] = useful / best
    return {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu",
        "torch": torch.__version__,
        "tokens": tokens,
        "dtype": str(DTYPE).removeprefix("torch."),
        "peak_gflops": best / 1e9,
        "rows": rows,
    }


def to_tf32(x: torch.Tensor) -> torch.Tensor:
    """Float32 rounded to ten bits of mantissa, to the nearest, ties to even."""
    bits = x.view(torch.int32)
    return ((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF).view(torch.float32)


ROUNDINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "float32": lambda x: x,
    "bfloat16": lambda x: x.bfloat16().float(),
    "TF32": to_tf32,
}


def measure_precision(tokens: int) -> list[dict]:
    """Errors of layers solved by Hessians of rounded inputs, and how far those Hessians are off.

    Inputs are random, correlated, and of sizes that spread over a factor of ten.
    """
    rows = []
    for (height, columns), where in SOLVED.items():
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(height, columns, generator=generator)
        common = torch.randn(columns // 8, columns, generator=generator)
        x = torch.randn(tokens, columns // 8, generator=generator) @ common / (columns // 8) ** 0.5
        x += torch.randn(tokens, columns, generator=generator)
        x *= torch.logspace(-0.5, 0.5, columns)[torch.randperm(columns, generator=generator)]
        row: dict = {"rows": height, "columns": columns, "of": where}
        exact = None
        for name, rounding in ROUNDINGS.items():
            hessian = torch.zeros(columns, columns)
            add_outer_product(hessian, rounding(x))
            mirror(hessian)
            exact = hessian if exact is None else exact
            prepared = solvers.prepare(hessian, "sparsegpt")
            solved = solvers.prune(weight, prepared, "unstructured 0.5", "sparsegpt").weight
            row[name] = {
                "error": solvers.relative_error(weight, solved, exact),
                "off": ((hessian - exact).norm() / exact.norm()).item(),
            }
        rows.append(row)
    return rows


def markdown(result: dict) -> str:
    """The tables, as the documentation shows them."""
    lines = [
        f"{result['tokens']:,} tokens a call in {result['dtype']}, {result['device']} ({result['machine']}), "
        f"torch {result['torch']}; fastest GEMM {result['peak_gflops']:,.0f} GFLOP/s.",
        "",
        "| columns | ours | whole square | published hook | ours: useful share of peak | "
        "whole square | published hook | error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        times = [f"{row[name]['seconds'] * 1e3:,.0f} ms" for name in METHODS]
        shares = [f"{row[name]['useful_share_of_peak']:.0%}" for name in METHODS]
        cells = [f"{row['columns']} ({row['of']})", *times, *shares, f"{row['error']:.0e}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| SparseGPT 50 % | error, inputs in float32 | bfloat16 | TF32 | H is off by, bfloat16 | TF32 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["precision"]:
        cells = [f"{row['rows']} × {row['columns']} ({row['of']})"]
        cells += [f"{row[name]['error']:.7f}" for name in ROUNDINGS]
        cells += [f"{row[name]['off']:.0e}" for name in ("bfloat16", "TF32")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="file of the figures, JSON")
    parser.add_argument("--tokens", type=int, default=4 * LENGTH)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    result = measure(asked.tokens, asked.repeats)
    result["precision"] = measure_precision(asked.tokens)
    asked.output.write_text(json.dumps(result, indent=2) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
