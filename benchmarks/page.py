"""How long the page of 500 cells takes, and how large it is: five models, two evals, seven calibrations.

    python benchmarks/page.py

The numbers are drawn at random, and every column has one; models have 28 blocks, evals 200 problems, answers
2,500 characters; the definitions are those of the run `paper`. Prints a line: cells, figures, seconds of wall
time, megabytes of the page.
"""

import csv
import itertools
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from rac import config
from rac.artifacts import write_jsonl, write_text
from rac.evaluate.statistics import share_interval
from rac.matrix import defining
from rac.overlaps import COLUMNS as OVERLAPS
from rac.provenance import provenance, write_record
from rac.report import summary, tidy
from rac.report.page import report

ROOT = Path(__file__).parents[1]
MODELS = [f"model-{i}" for i in range(5)]
EVALS = ["math", "code"]
CALIBRATIONS = ["c4", "prompts", "rac", "decode-only", "mix-0.5", "mix-0.1", "off-policy"]
SPARSITIES = [0.2, 0.3, 0.4, 0.5, 0.6]
OTHERS = {"sparsegpt-2of4": ("sparsegpt", "2:4", ""), "w4a16": ("none", "", "w4a16 gptq")}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LAYERS = [(block, name) for block in range(28) for name in PROJECTIONS]
SHOWN, PROBLEMS = "sparsegpt-0.5", 200


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = made(Path(folder))
        start = time.perf_counter()
        report(**arguments)
        seconds = time.perf_counter() - start
        page = arguments["output"]
        figures = len(list(page.with_name("figures").glob("*.svg")))
        count = len(tidy.read(arguments["summary"]))
        megabytes = page.stat().st_size / 1e6
        print(f"{count} cells, {figures} figures: {seconds:.1f} s, {megabytes:.2f} MB")


def made(root: Path) -> dict[str, Any]:
    """Write all that a run of 500 cells leaves; returns the arguments of `rac.report.page.report`."""
    draw = random.Random(0)
    pairs = list(itertools.product(MODELS, EVALS))
    rows = [row for pair in pairs for row in _rows(*pair, draw)]
    compared = [row for pair in pairs for row in _compared(*pair, draw)]
    budgets = [
        row | {"budget": budget, "accuracy": row["accuracy"] * budget / 8192}
        for row in rows
        for budget in (1024, 2048, 4096, 8192)
    ]
    tables = {
        "summary": (summary.COLUMNS, rows),
        "comparisons": (summary.COMPARED, compared),
        "budgets": (summary.BUDGETS, budgets),
    }
    for name, (columns, of_table) in tables.items():
        _write(root / f"{name}.csv", columns, of_table)
    definitions = _definitions()
    stages = [
        {"stage": name, "jobs": 99, "wall": 1e5, "cpu": 1e5, "memory": 1e4}
        for name in ("dataset", "model", "traces", "sources", "hessians", "compress", "requests")
        + ("generate", "score", "diagnostics", "losses", "overlaps", "runtime", "summary")
    ]
    lacking = [
        {key: row[key] for key in ("model", "calibration", "variant", "eval")}
        | {"lacks": ["scores"], "reason": "out of memory " * 20}
        for row in rows[::25]
    ]
    return {
        **{name: root / f"{name}.csv" for name in tables},
        **_beside(root, rows, draw),
        "config": definitions,
        "provenance": {"page": provenance("report")["provenance"]},
        "output": root / "report.html",
        "stages": stages,
        "lacking": lacking,
    }


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
        right = draw.uniform(0.05, 0.95)
        low, high = share_interval(right, 0.03, PROBLEMS)
        texts = dict.fromkeys(tidy.TEXT, "0123456789abcdef")
        shares = {
            key: draw.uniform(0.05, 0.95)
            for key in summary.COLUMNS
            if key not in texts and key not in keys
        }
        numbers = {
            **texts,
            **shares,  # of what is not named below
            **{"run": "large", "model": model, "eval": name, "problems": PROBLEMS, "samples": 1},
            **{"accuracy": right, "accuracy_se": 0.03, "accuracy_low": low, "accuracy_high": high},
            **{"tokens_mean": draw.uniform(1000, 8000), "tokens_mean_se": 90.0},
            **{"tokens_median": 4000.5, "tokens_p95": 8000.25, "tokens_per_solved": 5000 / right},
            **{
                "seconds_generate": draw.uniform(100, 900),
                "joules_generate": draw.uniform(1e4, 1e6),
            },
            **{"layer_error_heldout_decode": draw.uniform(0.01, 0.1)},
            **{"layer_error_heldout_prompt": draw.uniform(0.01, 0.1)},
            **{"loss_thoughts": draw.uniform(0.1, 2), "loss_text": draw.uniform(3, 5)},
            **{"calibration_tokens": 10**6, "parameters": 10**9, "nonzero_parameters": 5 * 10**8},
            **{"bytes_on_disk": draw.choice([10**9, 3 * 10**9])},
            **{"peak_memory_bytes": draw.randint(2**30, 2**31), "batch": 64},
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
        variants, itertools.combinations(("dense", *CALIBRATIONS), 2)
    ):
        middle = draw.uniform(-0.3, 0.3)
        ends = {"difference": middle, "se": 0.03, "low": middle - 0.06, "high": middle + 0.06}
        ends |= {key: draw.random() for key in summary.COMPARED if key not in ends}
        names = {"model": model, "eval": name, "variant": variant}
        rows.append(ends | names | {"calibration": other, "baseline": baseline})
    return rows


def _beside(root: Path, rows: list[dict], draw: random.Random) -> dict[str, list[dict]]:
    """Diagnostics, losses, generations, sources and overlaps, as `rac.matrix.report_cells` lists them."""
    diagnostics, losses, generations, sources, overlaps = [], [], [], [], []
    for row in rows:
        names = {key: row[key] for key in ("model", "calibration", "variant")}
        folder = root / "/".join(names.values())
        if row["eval"] == EVALS[0]:
            diagnostics.append(names | {"path": str(folder / "d.json")})
            losses.append(names | {"tokens": str(folder / "l.tokens.jsonl.zst")})
            if row["variant"] == SHOWN:
                layers = [
                    {"name": f"layers.{block}.{name}", "projection": name, "block": block}
                    | {f"error_{part}": draw.uniform(0.01, 0.1) for part in ("decode", "prompt")}
                    for block, name in LAYERS
                ]
                write_record(folder / "d.json", {"layers": layers})
                errors = [
                    [round(draw.uniform(0.01, 0.1), 4) for _ in range(2000)] for _ in range(20)
                ]
                of_tokens = [{"prompt_length": 200, "errors": one} for one in errors]
                write_jsonl(folder / "l.tokens.jsonl.zst", of_tokens)
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
        beside = {"requests": str(asked), "problems": str(root / "problems.jsonl")}
        generations.append(names | {"eval": row["eval"]} | beside | paths)
    problems = [
        {"id": f"p{i}", "problem": f"What is {i}? " + "A word " * 100, "answer": str(i)}
        for i in range(PROBLEMS)
    ]
    write_jsonl(root / "problems.jsonl", problems)
    for model, name in itertools.product(MODELS, EVALS):
        asked = root / model / "requests" / f"{name}.jsonl.zst"
        prompts = [
            {"doc_id": i, "id": f"p{i}", "token_ids": [1] * draw.randint(50, 500)}
            for i in range(PROBLEMS)
        ]
        write_jsonl(asked, prompts)
        parts = {part: {"tokens": draw.randint(10**5, 10**6)} for part in ("prompt", "decode")}
        index = root / model / "hessians" / name / "index.json"
        write_record(index, {"kind": "traces", "parts": parts})
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
    return {
        "diagnostics": diagnostics,
        "losses": losses,
        "generations": generations,
        "sources": sources,
        "overlaps": overlaps,
    }


def _definitions() -> dict:
    """Those of the run `paper`, as its page shows them."""
    values = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")) | {"run": "paper"}
    return defining(config.validate(values))


def _write(file: Path, columns: tuple[str, ...], rows: list[dict]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    assert all(set(columns) <= set(row) for row in rows)
    assert len(tidy.read(file)) == len(rows)


if __name__ == "__main__":
    main()
