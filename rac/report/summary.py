"""Stage `summary`: one row a (cell, eval), and the paired comparisons of cells.

docs/summary.md says what each column is.
"""

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rac import matrix
from rac.artifacts import read_json, read_jsonl, write_text
from rac.errors import RacError
from rac.evaluate.statistics import half_width, paired_difference, share_interval
from rac.provenance import checked_sha256, hashes, provenance, write_record
from rac.report.compared import COMPARED, LOSSES, comparisons, has, of_problems
from rac.report.paper import Cell, printed

METRICS = (
    "problems",
    "samples",
    "accuracy",
    "accuracy_se",
    "majority",
    "majority_se",
    "loss",
    "loss_se",
    "finished",
    "finished_se",
    "looping",
    "looping_se",
    "tokens_mean",
    "tokens_mean_se",
    "tokens_median",
    "tokens_p95",
    "tokens_correct",
    "tokens_wrong",
    "tokens_per_solved",
)
SIZES = ("parameters", "nonzero_parameters", "bytes_on_disk")
COLUMNS = (
    "run",
    "model",
    "calibration",
    "variant",
    "solver",
    "pattern",
    "quantization",
    "sparsity_asked",
    "sparsity",
    "eval",
    "problems",
    "samples",
    "accuracy",
    "accuracy_se",
    "accuracy_low",
    "accuracy_high",
    "majority",
    "majority_se",
    "majority_low",
    "majority_high",
    "accuracy_difference",
    "accuracy_difference_se",
    "accuracy_difference_low",
    "accuracy_difference_high",
    "paper_accuracy",
    "paper_difference",
    "paper_difference_low",
    "paper_difference_high",
    "paper_minutes",
    "paper_tokens_per_second",
    "loss",
    "loss_se",
    "loss_low",
    "loss_high",
    "finished",
    "finished_se",
    "looping",
    "looping_se",
    "tokens_mean",
    "tokens_mean_se",
    "tokens_mean_difference",
    "tokens_mean_difference_se",
    "tokens_median",
    "tokens_p95",
    "tokens_correct",
    "tokens_wrong",
    "tokens_per_solved",
    "layer_error",
    "layer_error_heldout_decode",
    "layer_error_heldout_prompt",
    *(f"{loss}{end}" for loss in LOSSES for end in ("", "_se", "_low", "_high")),
    "calibration_tokens",
    *SIZES,
    "tokens_per_second_1",
    "tokens_per_second_1_se",
    "speedup_1",
    "speedup_1_se",
    "tokens_per_second_batch",
    "tokens_per_second_batch_se",
    "speedup_batch",
    "speedup_batch_se",
    "batch",
    "peak_memory_bytes",
    "peak_memory_bytes_dense",
    "seconds_compress",
    "seconds_generate",
    "tokens_per_second_generate",
    "seconds_per_solved",
    "joules_generate",
    "dense_sha256",
    "config_sha256",
    "code_version",
)
EMPTY = "–"  # in the table as text
BUDGETS = (
    *("model", "calibration", "variant", "eval", "budget"),
    *("accuracy", "accuracy_se", "accuracy_low", "accuracy_high"),
    *("finished", "tokens_mean", "tokens_per_solved"),
    *("paper_accuracy", "paper_difference", "paper_difference_low", "paper_difference_high"),
)


def summarize(
    cells: list[dict], run: str, config_sha256: str, code_version: str, output: Path
) -> None:
    """Write the run's table, `output`, and beside it comparisons.csv, budgets.csv and the table as text.

    summary.json is their record: what they were made from, and their hashes.

    Args:
        cells: a dict a row, of `rac.matrix.summary_cells`: names, and paths (None: not asked for).
        run: the run's name.
        config_sha256: hash of the definitions that the numbers hang on.
        code_version: version of the code that made them.
        output: summary.csv.

    Raises:
        RacError: an artefact is missing, damaged or changed, is of another dense model, or two that are
            compared are not over the same problems.
    """
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    cells = sorted(cells, key=lambda cell: (models.index(cell["model"]), not cell["dense"]))
    kinds = ("model_json", *matrix.KINDS, "dense_scores")
    read = dict.fromkeys(cell[key] for cell in cells for key in kinds if cell[key])
    inputs = {path: checked_sha256(Path(path)) for path in read}  # before any of them is read
    paths = [cell[key] for cell in cells for key in ("scores", "dense_scores") if cell[key]]
    scores = {path: read_jsonl(Path(path)) for path in dict.fromkeys(paths)}
    made_by = {"run": run, "config_sha256": config_sha256, "code_version": code_version}
    rows = [made_by | _row(cell, scores) for cell in cells]
    for row, cell in zip(rows, cells, strict=True):
        if cell["dense"]:
            row |= _dense_runtime(cells, cell["model"])
    write_text(output, _csv(COLUMNS, rows))
    write_text(output.with_name("comparisons.csv"), _csv(COMPARED, comparisons(cells, scores)))
    write_text(output.with_name("budgets.csv"), _csv(BUDGETS, _budgets(cells)))
    write_text(output.with_suffix(".txt"), table(output))
    of_tables = hashes(
        output.parent,
        output.name,
        "comparisons.csv",
        "budgets.csv",
        output.with_suffix(".txt").name,
    )
    made = provenance("summary", **made_by, files=inputs)
    write_record(output.with_suffix(".json"), of_tables | made)


def _row(cell: dict, scores: dict[str, list[dict]]) -> dict[str, Any]:
    """What a cell says in summary.csv; what was not measured is left out."""
    row = {key: cell[key] for key in COLUMNS if key in cell}
    row["paper_accuracy"] = printed("accuracy").get(_printed_as(cell))
    row["paper_minutes"] = printed("minutes").get(_printed_as(cell))
    row["paper_tokens_per_second"] = printed("tokens_per_second").get((*_printed_as(cell)[:3], ""))
    model = read_json(cell["model_json"]) if cell["model_json"] else {"weights_sha256": None}
    row["dense_sha256"] = model["weights_sha256"]
    if cell["dense"]:
        row |= {key: model.get(key) for key in SIZES}
    if cell["compression"]:
        made = read_json(cell["compression"])
        if made["dense_sha256"] != model["weights_sha256"]:
            raise RacError(
                f"{cell['compression']} was compressed from another model than "
                f"{cell['model_json']} describes; delete its folder to have it made again"
            )
        row |= {key: made[key] for key in ("sparsity", *SIZES)}
        row["layer_error"] = made["relative_error"]
        row["calibration_tokens"] = sum(made["calibration_tokens"].values()) or None
        row["seconds_compress"] = made["seconds"]
    if cell["metrics"]:
        metrics = read_json(cell["metrics"])
        row |= {key: metrics.get(key) for key in METRICS}
        if row["accuracy"] is not None:
            row |= _interval("accuracy", metrics, metrics["problems"])
            row |= _beside_paper(row["paper_accuracy"], metrics)
        row |= _interval("majority", metrics, metrics["problems"])
        if row["loss"] is not None:
            row |= _nats("loss", row["loss"], row["loss_se"], row["problems"])
    if cell["generation"]:
        generated = read_json(cell["generation"])
        row["seconds_generate"] = generated["seconds"]
        row["joules_generate"] = generated.get("joules")
        if row["tokens_mean"] is not None:
            row["tokens_per_second_generate"] = generated.get("tokens_per_second")
            solved = row["accuracy"] * row["problems"] * row["samples"]
            row["seconds_per_solved"] = row["seconds_generate"] / solved if solved else None
    if cell["scores"] and cell["dense_scores"]:
        paths = cell["scores"], cell["dense_scores"]
        if has(paths[0], "correct", scores):
            accuracy = paired_difference(*of_problems(*paths, "correct", scores))
            row |= {
                "accuracy_difference": accuracy.difference,
                "accuracy_difference_se": accuracy.se,
                "accuracy_difference_low": accuracy.low,
                "accuracy_difference_high": accuracy.high,
            }
        if has(paths[0], "tokens", scores):
            tokens = paired_difference(of_problems(*paths, "tokens", scores)[0])
            row |= {
                "tokens_mean_difference": tokens.difference,
                "tokens_mean_difference_se": tokens.se,
            }
    if cell["diagnostics"]:
        found = read_json(cell["diagnostics"])
        row["layer_error_heldout_decode"] = found["error_decode"]
        row["layer_error_heldout_prompt"] = found["error_prompt"]
    if cell["losses"]:
        for role, loss in read_json(cell["losses"])["losses"].items():
            for key in ("loss", "kl"):
                row |= _nats(f"{key}_{role}", loss[key], loss[f"{key}_se"], loss["sequences"])
    if cell["runtime"]:
        row |= _runtime(read_json(cell["runtime"]))
    return row


def _printed_as(cell: dict) -> Cell:
    """What rac/report/paper.csv calls a cell."""
    return cell["model"], cell["calibration"], cell["variant"], cell["eval"]


def _interval(share: str, measured: dict, problems: int) -> dict[str, float]:
    """The ends of the 95 % interval of a share; none where it is not known."""
    if measured.get(share) is None:
        return {}
    se = measured[f"{share}_se"]
    ends = share_interval(measured[share], math.nan if se is None else se, problems)
    return dict(zip((f"{share}_low", f"{share}_high"), ends, strict=True))


def _nats(column: str, value: float, se: float | None, texts: int) -> dict[str, Any]:
    """A loss a token with its standard error and 95 % t-interval over texts, which no loss is below 0 in."""
    reach = math.nan if se is None else half_width(se, texts)
    ends = {f"{column}_low": max(value - reach, 0.0), f"{column}_high": value + reach}
    return {column: value, f"{column}_se": se} | (ends if se is not None else {})


def _beside_paper(theirs: float | None, metrics: dict) -> dict[str, float]:
    """How far our accuracy, with the ends of its interval, is above the paper's."""
    if theirs is None:
        return {}
    ends = _interval("accuracy", metrics, metrics["problems"])
    return {
        "paper_difference": metrics["accuracy"] - theirs,
        "paper_difference_low": ends["accuracy_low"] - theirs,
        "paper_difference_high": ends["accuracy_high"] - theirs,
    }


def _runtime(measured: dict) -> dict[str, Any]:
    """Speed at batch 1 and at the largest other batch, and peak memory, the dense model's too."""
    batches = measured["batches"]
    row = {"peak_memory_bytes": measured["peak_memory_bytes"]}
    row["peak_memory_bytes_dense"] = measured.get("dense_peak_memory_bytes")
    larger = max((int(batch) for batch in batches if batch != "1"), default=None)
    for name, batch in (("1", "1"), ("batch", str(larger))):
        if batch in batches:
            for value in ("tokens_per_second", "speedup"):
                row[f"{value}_{name}"] = batches[batch][value]
                row[f"{value}_{name}_se"] = batches[batch].get(f"{value}_se")
    return row | {"batch": larger}


def _dense_runtime(cells: list[dict], model: str) -> dict[str, Any]:
    """The dense model's speed and peak memory: medians of what the model's cells were timed in turn with."""
    found: dict[str, list[float]] = {}
    timed = {cell["runtime"]: None for cell in cells if cell["model"] == model and cell["runtime"]}
    for path in timed:
        measured = read_json(path)
        batches = {
            batch: {"tokens_per_second": of["dense_tokens_per_second"], "speedup": None}
            for batch, of in measured["batches"].items()
        }
        memory = {"peak_memory_bytes": measured["dense_peak_memory_bytes"]}
        for key, value in _runtime(memory | {"batches": batches}).items():
            if value is not None:
                found.setdefault(key, []).append(value)
    return {key: statistics.median(values) for key, values in found.items()}


def _budgets(cells: list[dict]) -> Iterable[dict[str, Any]]:
    """A row a cell and budget of tokens."""
    for cell in cells:
        metrics = read_json(cell["metrics"]) if cell["metrics"] else {}
        for row in metrics.get("budgets", ()):
            names = {key: cell[key] for key in BUDGETS[:4]}
            theirs = printed("accuracy", row["budget"]).get(_printed_as(cell))
            yield (
                names
                | row
                | _interval("accuracy", row, metrics["problems"])
                | {"paper_accuracy": theirs}
                | _beside_paper(theirs, row | {"problems": metrics["problems"]})
            )


def _csv(columns: tuple[str, ...], rows: Iterable[dict[str, Any]]) -> str:
    """Comma-separated text; floats in their shortest exact form, empty where there is no number."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = [row.get(column) for column in columns]
        writer.writerow(
            "" if isinstance(value, float) and math.isnan(value) else value for value in values
        )
    return stream.getvalue()


def table(summary: Path) -> str:
    """summary.csv as text for a terminal of about 120 columns: a table a (model, eval)."""
    from rich.console import Console

    with Path(summary).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    wide = 300  # more than names can need: columns take what they hold, and nothing is wrapped
    console = Console(
        file=io.StringIO(), width=wide, color_system=None, highlight=False, markup=False
    )
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["eval"]), []).append(row)
    for (model, name), group in groups.items():
        console.print(_grid(" · ".join(filter(None, (model, name))), group))
    if rows:
        console.print(
            "± standard error over problems. [ ] 95 % interval of the paired difference to the "
            "dense model, in points.\nLayer error: relative, mean over layers, on held-out decode "
            "tokens. Losses: nats a token.\nRun {run}, definitions {config_sha256}, "
            "code {code_version}.".format(**rows[0])
        )
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def _grid(title: str, rows: list[dict[str, str]]) -> Any:
    """A rich table of one (model, eval), without empty columns; calibrations of a variant stand together."""
    from rich import box
    from rich.table import Table

    grid = Table(
        title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=(0, 1)
    )
    columns: dict[str, Callable[[dict[str, str]], str]] = {
        "zeros": lambda row: _number(row["sparsity"], 100, "%"),
        "accuracy %": lambda row: _with(row, "accuracy", " ± ", "accuracy_se"),
        "− dense [95 %]": _difference_text,
        "loss": lambda row: _number(row["loss"], 1, "", 3),
        "finished": lambda row: _number(row["finished"], 100, "%"),
        "tokens": lambda row: _number(row["tokens_mean"], 1, "", 0),
        "layer\nerror": lambda row: _number(row["layer_error_heldout_decode"], 1, "", 4),
        "loss:\nthoughts": lambda row: _number(row["loss_thoughts"], 1, "", 3),
        "\ntext": lambda row: _number(row["loss_text"], 1, "", 3),
    }
    shown = [head for head, say in columns.items() if {say(row) for row in rows} != {EMPTY}]
    for head in ("variant", "calibration", *shown):
        named = head in ("variant", "calibration")
        grid.add_column(head, justify="left" if named else "right", vertical="bottom")
    variants: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        variants.setdefault(row["variant"], []).append(row)
    for variant, group in variants.items():
        for i, row in enumerate(group):
            grid.add_row(
                "" if i else variant,
                EMPTY if row["calibration"] == "none" else row["calibration"],
                *(columns[head](row) for head in shown),
                end_section=len(group) > 1 and i == len(group) - 1,
            )
    return grid


def _number(text: str, scale: float = 1, unit: str = "", digits: int = 1, sign: str = "") -> str:
    """A cell of the CSV, scaled; – where it is empty."""
    if not text:
        return EMPTY
    return f"{float(text) * scale:{sign}.{digits}f}{unit}".replace("-", "−")


def _with(row: dict[str, str], value: str, between: str, error: str) -> str:
    if not row[error]:
        return _number(row[value], 100)
    return f"{_number(row[value], 100)}{between}{_number(row[error], 100)}"


def _difference_text(row: dict[str, str]) -> str:
    difference = _number(row["accuracy_difference"], 100, sign="+")
    if not row["accuracy_difference_low"]:
        return difference
    low, high = (_number(row[f"accuracy_difference_{end}"], 100) for end in ("low", "high"))
    return f"{difference} [{low}, {high}]"
