"""What a run will take, before anything starts: jobs, memory, disk and hours of every rule."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rac import costs, matrix
from rac.artifacts import read_json
from rac.config import Config, Eval
from rac.costs import H100, HOST, Cost, Device, Shape
from rac.errors import RacError
from rac.evaluate.harness import SAMPLES, output_type
from rac.matrix import Cell
from rac.models.reasoner import WEIGHTS

CHOICES = 4  # log-likelihoods that a problem is assumed to ask for
SHAPES = Path(__file__).parent / "models/shapes.json"


class Row(NamedTuple):
    """All jobs of a rule for a model (None: for the whole run)."""

    rule: str
    model: str | None
    jobs: int
    device: float  # bytes, of the largest job
    host: float
    disk: float  # bytes, of all of them
    flops: float
    hours: float  # of the device, one after the other


def plan(
    config: Config,
    models: Mapping[str, Mapping[str, Any]],
    problems: Mapping[str, int],
    device: Device = H100,
    prompt: int = 256,
    length: float = 0.25,
) -> list[Row]:
    """What every rule takes in the active run, as if nothing was there yet.

    Args:
        config: whose run is planned.
        models: config.json of each model of the run.
        problems: rows of each dataset that an eval asks.
        device: that every job runs on.
        prompt: tokens of a prompt.
        length: tokens that a sample has in the mean, as a share of `max_new_tokens`.

    Raises:
        RacError: a model is of another kind, or a model's or a dataset's numbers are missing.
    """
    used = matrix.restrict(config)
    for evaluation in used.evals.values():
        if evaluation.dataset not in problems:
            raise RacError(
                f"datasets.{evaluation.dataset}: its rows are not known to plan by; set rows, or make "
                f"it first: snakemake --cores 1 resources/datasets/{evaluation.dataset}/data.jsonl"
            )
    rows = [Row("dataset", None, len(used.datasets), 0, HOST, 0, 0, 0)]
    for name, model in used.models.items():
        if name not in models:
            raise RacError(
                f"models.{name}: its config.json is not known to plan by; make it first: "
                f"snakemake --cores 1 resources/models/{name}"
            )
        shape = costs.shape(models[name], model.dtype)
        made = _of_model(used, name, shape, problems, device, prompt, length)
        rows += [_row(rule, name, jobs) for rule, jobs in made.items() if jobs]
    return [*rows, *(Row(rule, None, 1, 0, HOST, 0, 0, 0) for rule in ("summary", "report"))]


def known_models(config: Config) -> dict[str, dict]:
    """config.json of the models that are here (embedded, in a folder, or downloaded already).

    Of some of the hub's that are not here, rac/models/shapes.json holds the sizes.
    """
    found = {}
    shapes = read_json(SHAPES)
    for name, model in config.models.items():
        if model.hub in shapes:
            found[name] = shapes[model.hub]
        folder = WEIGHTS if model.embedded else model.path or Path("resources/models") / name
        if (folder / "config.json").exists():
            found[name] = read_json(folder / "config.json")
    return found


def known_rows(config: Config) -> dict[str, int]:
    """Rows of the datasets that say how many, or are made already."""
    rows = {name: dataset.rows for name, dataset in config.datasets.items() if dataset.rows}
    for name in config.datasets.keys() - rows.keys():
        made = Path("resources/datasets") / name / "meta.json"
        if made.exists():
            rows[name] = read_json(made)["rows"]
    return rows


def _of_model(
    config: Config,
    name: str,
    shape: Shape,
    problems: Mapping[str, int],
    device: Device,
    prompt: int,
    length: float,
) -> dict[str, list[Cost]]:
    """By rule, what each job for a model takes; `config` holds what the active run needs alone."""
    run, variants = config.runs[config.run], config.variant_cells()
    cells, evals, timed = matrix.plan(config, config.run)
    cells = [cell for cell in cells if cell.model == name]
    asked = [config.evals[evaluation] for cell, evaluation in evals if cell.model == name]
    heldout = [run.heldout.thoughts, run.heldout.text] if run.heldout else []

    def longest(name: str) -> int:
        source = config.sources[name]
        of_trace = prompt + source.max_new_tokens
        return {"text": source.window, "prompts": prompt}.get(source.kind, of_trace)

    def decode(batch: int, new: int, samples: float) -> Cost:
        return costs.decode(shape, batch, prompt, new, samples, device)

    def hessians(source: str) -> Cost:
        return costs.hessians(shape, config.sources[source], longest(source), device)

    def compress(cell: Cell) -> Cost:
        variant, sources, trace = variants[cell.variant][1], {}, 0
        if variant.needs_sequences and cell.calibration != "none":
            used = config.calibrations[cell.calibration].sources(config.sources)
            sources = {config.sources[name]: longest(name) for name in used}
        if variant.allocation_source:
            trace = round(
                prompt + length * config.sources[variant.allocation_source].max_new_tokens
            )
        return costs.compress(shape, variant, device, sources, trace)

    def answer(evaluation: Eval) -> Cost:
        rows = problems[evaluation.dataset]
        if output_type(evaluation.task) != SAMPLES:
            return costs.likelihoods(shape, prompt, rows * CHOICES, device)
        return decode(evaluation.batch, evaluation.max_new_tokens, rows * evaluation.samples)

    measured = [config.sources[source] for source in heldout]
    walked = matrix.measured_sources(config, name) if cells else []
    searched = matrix.searched_sources(config, name) - {*walked}
    generated = [config.sources[source] for source in matrix.generated_sources(config, name)]
    return {
        "model": [Cost(disk=shape.weights * shape.item)],
        "traces": [
            decode(
                source.batch,
                source.max_new_tokens,
                source.tokens / (prompt + length * source.max_new_tokens),
            )
            for source in generated
        ],
        "sources": [Cost()] * len({*walked, *searched}),
        "hessians": [hessians(source) for source in walked if source not in heldout[1:]],
        "compress": [compress(cell) for cell in cells if not cell.dense],
        "requests": [Cost()] * len({id(evaluation) for evaluation in asked}),
        "generate": [answer(evaluation) for evaluation in asked],
        "score": [Cost()] * len(asked),
        "diagnostics": [
            costs.diagnostics(shape, measured, max(map(longest, heldout)), device)
            for _ in (cells if heldout else [])
        ],
        "runtime": [
            costs.runtime(shape, config.workloads[run.workload], device)
            for cell in cells
            if run.workload and cell in timed
        ],
    }


def _row(rule: str, model: str, jobs: list[Cost]) -> Row:
    device, host, disk, flops, seconds = zip(*jobs, strict=True)
    hours = sum(seconds) / 3600
    return Row(rule, model, len(jobs), max(device), max(host), sum(disk), sum(flops), hours)


def table(rows: list[Row], device: Device = H100) -> str:
    """The rows as text, what does not fit on the device marked."""
    head = ("rule", "model", "jobs", "device GB", "host GB", "disk GB", "PFLOP", "hours")
    lines = [
        (
            row.rule,
            row.model or "",
            str(row.jobs),
            f"{row.device / 1e9:.2f}{'!' if row.device > device.memory else ' '}",
            f"{row.host / 1e9:.2f}",
            f"{row.disk / 1e9:.2f}",
            f"{row.flops / 1e15:.3g}",
            f"{row.hours:.2f}",
        )
        for row in rows
    ]
    jobs, disk, flops, hours = (
        sum(getattr(row, what) for row in rows) for what in ("jobs", "disk", "flops", "hours")
    )
    lines.append(
        ("", "all", f"{jobs}", "", "", f"{disk / 1e9:.2f}", f"{flops / 1e15:.3g}", f"{hours:.2f}")
    )
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *lines)
    ]
    notes = [
        f"Device: one {device.name}, {device.compute_share:.0%} of its flops and "
        f"{device.bandwidth_share:.0%} of its bandwidth assumed."
    ]
    if any(row.device > device.memory for row in rows):
        notes.append("! does not fit on it.")
    return "\n".join([*text, "", *notes]) + "\n"
