"""How long the page of 500 cells takes, and how large it is: five models, two evals, seven calibrations.

    python benchmarks/page.py

The numbers are drawn at random; models have 28 blocks, evals 200 problems, answers 2,500 characters; the
definitions are those of the run `paper`. Prints a line: cells, figures, seconds of wall time, megabytes of
the page.
"""

import csv
import itertools
import random
import tempfile
import time
from pathlib import Path

import yaml

from rac import config
from rac.artifacts import write_json, write_jsonl, write_text
from rac.evaluate.statistics import share_interval
from rac.matrix import defining
from rac.overlaps import COLUMNS as OVERLAPS
from rac.report import summary, tidy
from rac.report.page import report

MODELS = [f"model-{i}" for i in range(5)]
EVALS = ["math", "code"]
CALIBRATIONS = ["c4", "prompts", "rac", "decode-only", "mix-0.5", "mix-0.1", "off-policy"]
SPARSITIES = [0.2, 0.3, 0.4, 0.5, 0.6]
OTHERS = {"sparsegpt-2of4": ("sparsegpt", "2:4", ""), "w4a16": ("none", "", "w4a16 gptq")}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LAYERS = [(block, name) for block in range(28) for name in PROJECTIONS]
SHOWN, PROBLEMS = "sparsegpt-0.5", 200


def main() -> None:
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = [row for pair in itertools.product(MODELS, EVALS) for row in _rows(*pair, draw)]
        _write(root / "summary.csv", summary.COLUMNS, rows)
        compared = [
            row for pair in itertools.product(MODELS, EVALS) for row in _compared(*pair, draw)
        ]
        _write(root / "comparisons.csv", summary.COMPARED, compared)
        budgets = [
            {key: row[key] for key in ("model", "calibration", "variant", "eval", "accuracy_se")}
            | {"budget": budget, "accuracy": row["accuracy"] * budget / 8192}
            | {f"accuracy_{end}": row[f"accuracy_{end}"] * budget / 8192 for end in ("low", "high")}
            for row in rows
            for budget in (1024, 2048, 4096, 8192)
        ]
        _write(root / "budgets.csv", summary.BUDGETS, budgets)
        beside = _beside(root, rows, draw)
        tables = [root / f"{name}.csv" for name in ("summary", "comparisons", "budgets")]
        start = time.perf_counter()
        report(*tables, *beside, _definitions(), {"page": {}}, root / "report.html")
        seconds = time.perf_counter() - start
        size = (root / "report.html").stat().st_size / 1e6
        figures = len(list((root / "figures").glob("*.svg")))
        print(f"{len(rows)} cells, {figures} figures: {seconds:.1f} s, {size:.2f} MB")


def _rows(model: str, name: str, draw: random.Random) -> list[dict]:
    """Rows of the summary of one (model, eval)."""
    cells = [("none", "dense", "none", "", "", None)]
    for calibration in CALIBRATIONS:
        for share in SPARSITIES:
            pattern = f"unstructured {share:g}"
            cells.append((calibration, f"sparsegpt-{share:g}", "sparsegpt", pattern, "", share))
        for variant, (solver, pattern, quantization) in OTHERS.items():
            cells.append((calibration, variant, solver, pattern, quantization, 0.5))
    keys = ("calibration", "variant", "solver", "pattern", "quantization", "sparsity_asked")
    rows = []
    for cell in cells:
        right, se = draw.uniform(0.05, 0.95), 0.03
        low, high = share_interval(right, se, PROBLEMS)
        losses = {"loss_thoughts": draw.uniform(0.1, 2), "loss_text": draw.uniform(3, 5)}
        losses["kl_thoughts"] = draw.uniform(0.001, 2)
        numbers = {
            **{"run": "large", "model": model, "eval": name, "problems": PROBLEMS, "samples": 1},
            **{"accuracy": right, "accuracy_se": se, "accuracy_low": low, "accuracy_high": high},
            **{"finished": draw.uniform(0.5, 1), "finished_se": 0.02},
            **{"looping": draw.uniform(0, 0.2), "looping_se": 0.02},
            **{"tokens_mean": draw.uniform(1000, 8000), "tokens_mean_se": 90.0},
            **{"tokens_per_solved": 5000 / right, "seconds_generate": draw.uniform(100, 900)},
            **{"joules_generate": draw.uniform(1e4, 1e6)},
            **{"layer_error_heldout_decode": draw.uniform(0.01, 0.1)},
            **{"layer_error_heldout_prompt": draw.uniform(0.01, 0.1)},
            **losses,
            **{f"{loss}_se": 0.01 for loss in losses},
            **{"bytes_on_disk": draw.choice([10**9, 3 * 10**9]), "peak_memory_bytes": 2**30},
            **{"tokens_per_second_1": draw.uniform(20, 40), "speedup_1": draw.uniform(0.9, 1.5)},
            **{"tokens_per_second_batch": draw.uniform(500, 900), "speedup_batch": 1.1},
        }
        rows.append(numbers | dict(zip(keys, cell, strict=True)))
    return rows


def _compared(model: str, name: str, draw: random.Random) -> list[dict]:
    """Rows of comparisons.csv of one (model, eval)."""
    variants = [*(f"sparsegpt-{share:g}" for share in SPARSITIES), *OTHERS]
    rows = []
    for variant, (baseline, other) in itertools.product(
        variants, itertools.combinations(CALIBRATIONS, 2)
    ):
        middle = draw.uniform(-0.3, 0.3)
        ends = {"difference": middle, "se": 0.03, "low": middle - 0.06, "high": middle + 0.06}
        names = {"model": model, "eval": name, "variant": variant}
        rows.append(names | {"calibration": other, "baseline": baseline} | ends)
    return rows


def _beside(root: Path, rows: list[dict], draw: random.Random) -> list[list[dict]]:
    """Diagnostics, generations, sources and overlaps, as `rac.matrix.report_cells` lists them."""
    diagnostics, generations, sources, overlaps = [], [], [], []
    for row in rows:
        names = {key: row[key] for key in ("model", "calibration", "variant")}
        folder = root / "/".join(names.values())
        if row["eval"] == EVALS[0]:
            paths = {"path": str(folder / "d.json"), "tokens": str(folder / "d.tokens.jsonl.zst")}
            diagnostics.append(names | paths)
            if row["variant"] == SHOWN:
                layers = [
                    {"name": f"layers.{block}.{name}", "projection": name, "block": block}
                    | {f"error_{part}": draw.uniform(0.01, 0.1) for part in ("decode", "prompt")}
                    for block, name in LAYERS
                ]
                write_json(folder / "d.json", {"layers": layers})
                errors = [
                    [round(draw.uniform(0.01, 0.1), 4) for _ in range(2000)] for _ in range(20)
                ]
                of_tokens = [{"prompt_length": 200, "errors": one} for one in errors]
                write_jsonl(folder / "d.tokens.jsonl.zst", of_tokens)
        if row["variant"] in ("dense", SHOWN):
            folder = folder / row["eval"]
            of_samples = [
                {"doc_id": i, "id": f"p{i}", "sample": 0, "tokens": draw.randint(200, 8192)}
                | {"correct": draw.random() < 0.5, "reason": "exact", "finished": True}
                for i in range(PROBLEMS)
            ]
            write_jsonl(folder / "scores.jsonl.zst", of_samples)
            texts = [{**one, "text": "a word " * 350 + "</think>done"} for one in of_samples]
            write_jsonl(folder / "generations.jsonl.zst", texts)
        paths = {key: str(folder / f"{key}.jsonl.zst") for key in ("generations", "scores")}
        asked = root / row["model"] / "requests" / f"{row['eval']}.jsonl.zst"
        generations.append(names | {"eval": row["eval"], "requests": str(asked)} | paths)
    for model, name in itertools.product(MODELS, EVALS):
        asked = root / model / "requests" / f"{name}.jsonl.zst"
        prompts = [
            {"doc_id": i, "id": f"p{i}", "token_ids": [1] * draw.randint(50, 500)}
            for i in range(PROBLEMS)
        ]
        write_jsonl(asked, prompts)
        parts = {part: {"tokens": draw.randint(10**5, 10**6)} for part in ("prompt", "decode")}
        index = root / model / "hessians" / name / "index.json"
        write_json(index, {"kind": "traces", "parts": parts})
        sources.append({"model": model, "source": name, "index": str(index)})
    for model in MODELS:
        lines = [
            f"{i},layers.{block}.{name},{block},{name},{other},{baseline},{draw.random():.4f},0.9"
            for baseline, other in itertools.combinations(CALIBRATIONS, 2)
            for i, (block, name) in enumerate(LAYERS)
        ]
        path = root / f"{model}.csv"
        write_text(path, "\n".join([",".join(OVERLAPS), *lines]) + "\n")
        overlaps.append({"model": model, "variant": SHOWN, "path": str(path)})
    return [diagnostics, generations, sources, overlaps]


def _definitions() -> dict:
    """Those of the run `paper`, as its page shows them."""
    values = yaml.safe_load(Path("config.yaml").read_text(encoding="utf-8")) | {"run": "paper"}
    return defining(config.validate(values))


def _write(file: Path, columns: tuple[str, ...], rows: list[dict]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    assert len(tidy.read(file)) == len(rows)


if __name__ == "__main__":
    main()
