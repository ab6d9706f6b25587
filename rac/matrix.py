"""The cell matrix: what a run consists of, and where each artefact of it lies.

A cell is (model, calibration, variant); with an eval it is a row of results/summary.csv. Imports no torch:
the Snakefile asks this module for names, paths and definitions, and holds no logic itself.
"""

import os
from typing import NamedTuple

from rac import __version__
from rac.artifacts import sha256_json
from rac.config import Config
from rac.evaluate.task_files import SAMPLES, output_type
from rac.fingerprint import CHOSEN, STAGES, fingerprint
from rac.variants import Variant

# Keys that say how jobs run, and not what they compute.
EXECUTION = {
    "models": {"device", "threads", "spill", "tensor_parallel"},
    "sources": {"shards"},
    "evals": {"shards"},
}
ANSWER_FILES = ("generations", "scores", "requests", "problems")
# Files of a cell that a row of the table is made from.
KINDS = ("compression", "metrics", "generation", "scores", "diagnostics", "losses", "runtime")
# Of these, the folders of a cell that hold a file for each held-out data or workload.
PER_FILE = ("diagnostics", "losses", "runtime")


class Cell(NamedTuple):
    """One compressed model, or the dense one as (model, none, dense)."""

    model: str
    calibration: str
    variant: str

    @property
    def folder(self) -> str:
        """results/{model}/{calibration}/{variant}"""
        return f"results/{self.model}/{self.calibration}/{self.variant}"

    @property
    def dense(self) -> bool:
        """Whether this is the dense model."""
        return self.variant == "dense"

    @property
    def checkpoint(self) -> str:
        """The cell's Hugging Face folder; the dense cell's is the model itself."""
        return f"resources/models/{self.model}" if self.dense else f"{self.folder}/checkpoint"


def dense_cell(model: str) -> Cell:
    """The cell of the uncompressed model."""
    return Cell(model, "none", "dense")


class Plan(NamedTuple):
    """What a run asks for, in the order of the table: dense first, then as config.yaml lists them."""

    cells: list[Cell]
    evals: list[tuple[Cell, str]]
    timed: set[Cell]


def plan(config: Config, run: str) -> Plan:
    """Expand the blocks of `run`; a cell that several blocks name is one cell."""
    variants = config.variant_cells()
    cells: dict[Cell, None] = {}
    evals: dict[tuple[Cell, str], None] = {}
    timed: set[Cell] = set()
    for block in config.runs[run].cells:
        for model in block.models:
            combined = [dense_cell(model)]
            for variant in config.singles(block):
                needs = variants[variant][1].needs_hessian
                calibrations = block.calibrations if needs else ["none"]
                combined += [Cell(model, calibration, variant) for calibration in calibrations]
            for cell in combined:
                cells[cell] = None
                evals.update({(cell, name): None for name in block.evals})
                if block.runtime and not cell.dense:
                    timed.add(cell)
    models = list(config.models)
    ordered = sorted(cells, key=lambda cell: (models.index(cell.model), not cell.dense))
    place = {cell: i for i, cell in enumerate(ordered)}
    return Plan(ordered, sorted(evals, key=lambda pair: place[pair[0]]), timed)


def _quantization(variant: Variant | None) -> str | None:
    """The scheme, and how it was rounded: `w4a16 gptq`."""
    if variant is None or variant.quantize is None:
        return None
    return f"{variant.quantize.scheme} {variant.quantize.method}"


def used(config: Config, kind: str) -> set[str]:
    """The models, calibrations or evals that the active run's blocks name."""
    return {name for block in config.runs[config.run].cells for name in getattr(block, kind)}


def measured_sources(config: Config, model: str | None = None) -> list[str]:
    """The sources whose sequences the active run's models (or one) are run on, as config.yaml orders them."""
    run = config.runs[config.run]
    sources = {
        source
        for block in run.cells
        if model is None or model in block.models
        for name in block.calibrations
        for source in config.calibrations[name].sources(config.sources)
    }
    if run.heldout:
        sources |= {run.heldout.thoughts, run.heldout.text}
    return [name for name in config.sources if name in sources]


def searched_sources(config: Config, model: str | None = None) -> set[str]:
    """The sources of traces that shares of zeros are searched on in the active run (of one model)."""
    cells = config.variant_cells()
    blocks = [b for b in config.runs[config.run].cells if model is None or model in b.models]
    singles = {single for block in blocks for single in config.singles(block)}
    return {found for single in singles if (found := cells[single][1].allocation_source)}


def generated_sources(config: Config, model: str) -> list[str]:
    """The sources of traces that a model generates for the active run, for itself or for others."""
    found = set()
    for user in used(config, "models"):
        for name in {*measured_sources(config, user), *searched_sources(config, user)}:
            source = config.sources[name]
            maker = (source.traces_of and source.traces_of.model) or user
            if source.kind == "traces" and maker == model:
                found.add(source.traces_of.source if source.traces_of else name)
    return [name for name in config.sources if name in found]


def restrict(config: Config) -> Config:
    """Only the definitions that the active run's numbers hang on."""
    run = config.runs[config.run]
    blocks = run.cells
    sources = {*measured_sources(config), *searched_sources(config)}
    singles = {name for block in blocks for name in config.singles(block)}
    variants = {name for name in config.variants if singles & set(config.expanded(name))}
    others = [other for name in sources if (other := config.sources[name].traces_of)]
    sources |= {other.source for other in others}
    models = used(config, "models") | {other.model for other in others if other.model}
    datasets = {config.sources[name].dataset for name in sources}
    datasets |= {config.evals[name].dataset for name in used(config, "evals")}
    datasets |= {other for name in datasets for other in config.datasets[name].without}
    kept: dict[str, set[str]] = {
        "models": models,
        "datasets": datasets,
        "sources": sources,
        "calibrations": used(config, "calibrations"),
        "variants": variants,
        "evals": used(config, "evals"),
        "workloads": {run.workload} if run.workload else set(),
        "runs": {config.run},
    }
    values = config.model_dump(mode="json")
    for kind, names in kept.items():
        values[kind] = {name: value for name, value in values[kind].items() if name in names}
    return Config.model_validate(values)


def defining(config: Config) -> dict:
    """The definitions that the active run's numbers hang on, without the keys that say how jobs run."""
    exclude = {kind: {"__all__": keys} for kind, keys in EXECUTION.items()}
    return restrict(config).model_dump(mode="json", exclude=exclude)


def identity(config: Config) -> str:
    """Hash of the definitions that the active run's numbers hang on."""
    return sha256_json(defining(config))[:16]


def code_version() -> str:
    """Version of the package and fingerprint of the code that makes the numbers."""
    shown = {"summary", "report"}
    names = [name for stage, names in STAGES.items() if stage not in shown for name in names]
    return f"{__version__}+{fingerprint(*names, *sorted(CHOSEN))}"


def files_of(row: dict) -> list[str]:
    """The files of a cell that a row of the table is made from."""
    return [str(row[kind]) for kind in KINDS if row[kind]]


def job_names(row: dict) -> dict[str, str]:
    """What a row's jobs are called in the names of their logs and benchmark files, beside its cell."""
    named = {kind: row[kind] for kind in PER_FILE if row[kind]}
    found = {kind: os.path.basename(path).removesuffix(".json") for kind, path in named.items()}
    return found | ({"eval": row["eval"]} if row["eval"] else {})


def jobs(config: Config) -> dict[Cell, set[str]]:
    """The cells of the active run, and what their jobs are called (`job_names`)."""
    found: dict[Cell, set[str]] = {}
    for row in summary_cells(config):
        cell = Cell(row["model"], row["calibration"], row["variant"])
        found.setdefault(cell, set()).update(job_names(row).values())
    return found


def downloads(config: Config) -> list[str]:
    """Every file and folder of the active run that the network may be needed for."""
    used = restrict(config)
    datasets = [f"resources/datasets/{name}/data.jsonl" for name in used.datasets]
    return datasets + [f"resources/models/{name}" for name in used.models]


def summary_files(config: Config) -> list[str]:
    """Every file that the table of the active run is made from."""
    rows = summary_cells(config)
    files = [str(row["dense_scores"]) for row in rows if row["dense_scores"]]
    files += [file for row in rows for file in files_of(row) if file != row["compression"]]
    files += [cell.checkpoint for cell in plan(config, config.run).cells]
    return list(dict.fromkeys(files))


def summary_cells(config: Config) -> list[dict]:
    """A dict a row of the table: what the cell is, and where its artefacts lie (None if not asked for)."""
    run = config.runs[config.run]
    cells, evals, timed = plan(config, config.run)
    variants = config.variant_cells()
    heldout = run.heldout
    both = f"{heldout.thoughts}+{heldout.text}" if heldout else None
    rows = []
    for cell in cells:
        pattern, variant = variants.get(cell.variant, ("", None))
        names: list[str | None] = [name for other, name in evals if other == cell]
        for name in names or [None]:
            scored = f"{cell.folder}/{name}" if name else None
            dense = f"{dense_cell(cell.model).folder}/{name}/scores.jsonl.zst"
            rows.append(
                cell._asdict()
                | {
                    "solver": (variant.solver if variant else None) or "none",
                    "pattern": pattern,
                    "quantization": _quantization(variant),
                    "sparsity_asked": variant.sparsity_asked if variant else None,
                    "dense": cell.dense,
                    "eval": name,
                    "dense_scores": dense if name and not cell.dense else None,
                    "scores": f"{scored}/scores.jsonl.zst" if name else None,
                    "metrics": f"{scored}/metrics.json" if name else None,
                    "generation": f"{scored}/generation.json" if name else None,
                    "compression": None if cell.dense else f"{cell.checkpoint}/compression.json",
                    "diagnostics": f"{cell.folder}/diagnostics/{heldout.thoughts}.json"
                    if heldout
                    else None,
                    "losses": f"{cell.folder}/losses/{both}.json" if both else None,
                    "runtime": f"{cell.folder}/runtime/{run.workload}.json"
                    if cell in timed
                    else None,
                    "model_json": f"resources/models/{cell.model}/model.json",
                }
            )
    return rows


def masked(config: Config, model: str) -> dict[str, list[str]]:
    """Variant → calibrations (two or more) of a model in the active run whose zeros can be compared.

    Only the variant that the page looks at: of those with most calibrations, the one nearest to 50 % zeros.
    """
    variants = config.variant_cells()
    calibrations: dict[str, list[str]] = {}
    for cell in plan(config, config.run).cells:
        if cell.model == model and cell.calibration != "none":
            calibrations.setdefault(cell.variant, []).append(cell.calibration)
    found = {}
    for variant, of_variant in calibrations.items():
        definition = variants[variant][1]
        has_zeros = definition.solver not in (None, "structured") and not definition.quantize
        if has_zeros and len(of_variant) > 1:
            found[variant] = of_variant

    def order(variant: str) -> tuple[int, float]:
        return -len(found[variant]), abs(variants[variant][1].sparsity_asked - 0.5)

    return {variant: found[variant] for variant in sorted(found, key=order)[:1]}


def report_cells(config: Config) -> dict[str, list[dict]]:
    """What the page shows beside the table: diagnostics, losses and generations by cell, sources by model."""
    run = config.runs[config.run]
    rows = summary_cells(config)
    keys = ("model", "calibration", "variant", "eval")
    once = {(row["model"], row["calibration"], row["variant"]): row for row in rows}.values()
    return {
        "diagnostics": [
            {key: row[key] for key in keys[:3]} | {"path": row["diagnostics"]}
            for row in once
            if row["diagnostics"]
        ],
        "losses": [
            {key: row[key] for key in keys[:3]} | {"tokens": token_file(row["losses"])}
            for row in once
            if row["losses"]
        ],
        "generations": [
            {key: row[key] for key in keys}
            | {
                "generations": f"{os.path.dirname(row['scores'])}/generations.jsonl.zst",
                "scores": row["scores"],
                "requests": f"results/{row['model']}/requests/{row['eval']}/requests.jsonl.zst",
                "problems": f"resources/datasets/{config.evals[row['eval']].dataset}/data.jsonl",
            }
            for row in rows
            if row["eval"] and output_type(config.evals[row["eval"]].task) == SAMPLES
        ],
        "sources": [
            {"model": model, "source": name, "index": f"results/{model}/hessians/{name}/index.json"}
            for model in config.models
            if model in used(config, "models")
            for name in measured_sources(config, model)
            if run.heldout is None or name != run.heldout.text
        ],
        "overlaps": [
            {"model": model, "variant": variant, "path": f"results/{model}/overlaps/{variant}.csv"}
            for model in config.models
            if model in used(config, "models")
            for variant in masked(config, model)
        ],
    }


def token_file(losses: str) -> str:
    """Where the errors of every token lie, beside the losses."""
    return f"{losses.removesuffix('.json')}.tokens.jsonl.zst"


def report_files(config: Config) -> list[str]:
    """Every file that the page is made from, beside the table."""
    cells = report_cells(config)
    files = [row["path"] for row in cells["diagnostics"]]
    files += [row["tokens"] for row in cells["losses"]]
    files += [row["path"] for row in cells["overlaps"]]
    files += [row[key] for row in cells["generations"] for key in ANSWER_FILES]
    files += [os.path.dirname(row["index"]) for row in cells["sources"]]
    return list(dict.fromkeys(files))
