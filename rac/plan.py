"""What a run will take, before anything starts: jobs, memory, disk and hours of every rule."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rac import costs, matrix, resources
from rac.artifacts import read_json
from rac.config import Config
from rac.costs import H100, HOST, Cost, Device, Shape
from rac.engines import choose
from rac.errors import RacError
from rac.models.reasoner import WEIGHTS
from rac.provenance import read_record
from rac.resources import Assumed

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
        engine = choose(model.engine, model.dtype, model.device)
        assumed = Assumed(device, prompt, length, engine, model.tensor_parallel)
        made = _of_model(used, name, shape, problems, assumed)
        rows += [_row(rule, name, jobs) for rule, jobs in made.items() if jobs]
    return [*rows, *(Row(rule, None, 1, 0, HOST, 0, 0, 0) for rule in ("summary", "report"))]


def known_models(config: Config, names: Iterable[str] | None = None) -> dict[str, dict]:
    """config.json of the models (or of some) that are here: embedded, in a folder, or downloaded.

    Of some of the hub's that are not here, rac/models/shapes.json holds the sizes.
    """
    found = {}
    shapes = read_json(SHAPES)
    for name in config.models if names is None else names:
        model = config.models[name]
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
            rows[name] = read_record(made)["rows"]
    return rows


def _of_model(
    config: Config,
    name: str,
    shape: Shape,
    problems: Mapping[str, int],
    assumed: Assumed,
) -> dict[str, list[Cost]]:
    """By rule, what each job for a model takes; `config` holds what the active run needs alone."""
    run = config.runs[config.run]
    cells, evals, timed = matrix.plan(config, config.run)
    cells = [cell for cell in cells if cell.model == name]
    asked = [evaluation for cell, evaluation in evals if cell.model == name]
    heldout = [run.heldout.thoughts, run.heldout.text] if run.heldout else []
    walked = matrix.measured_sources(config, name) if cells else []
    stored = [source for source in walked if source not in heldout[1:]]
    searched = matrix.searched_sources(config, name) - {*walked}
    generated = matrix.generated_sources(config, name)

    def job(rule: str, **wildcards: str) -> Cost:
        return resources.cost(config, shape, problems, assumed, rule, wildcards)

    def shards(rule: str, count: int, **wildcards: str) -> list[Cost]:
        return [job(rule, **wildcards)] * count if count > 1 else []

    return {
        "model": [Cost(disk=shape.weights * shape.item)],
        "traces_shard": [
            shard
            for name in generated
            for shard in shards("traces_shard", config.sources[name].shards, source=name)
        ],
        "traces": [job("traces", source=source) for source in generated],
        "sources": [Cost()] * len({*walked, *searched}),
        "hessians_shard": [
            shard
            for name in stored
            for shard in shards("hessians_shard", config.sources[name].shards, source=name)
        ],
        "hessians": [job("hessians", source=source) for source in stored],
        "compress": [
            job("compress", calibration=cell.calibration, variant=cell.variant)
            for cell in cells
            if not cell.dense
        ],
        "requests": [Cost()] * len({*asked}),
        "generate_shard": [
            shard
            for name in asked
            for shard in shards("generate_shard", config.evals[name].shards, eval=name)
        ],
        "generate": [job("generate", eval=evaluation) for evaluation in asked],
        "score": [Cost()] * len(asked),
        "diagnostics": [
            job("diagnostics", thoughts=heldout[0]) for _ in (cells if heldout else [])
        ],
        "losses": [
            job("losses", thoughts=heldout[0], text=heldout[1]) for _ in (cells if heldout else [])
        ],
        "overlaps": [Cost()] * len(matrix.masked(config, name)),
        "runtime": [
            job("runtime", workload=run.workload)
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
