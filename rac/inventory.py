"""The artefacts of a run beside those of its cells: what cells share, and shards of work.

Where cells' own lie: `rac.matrix`. Imports no torch.
"""

from typing import NamedTuple

from rac import matrix
from rac.config import Config

# Folders of results/ that are made anew for the active run.
OF_RUN = ("figures", "benchmarks", "preview")


class Shared(NamedTuple):
    """An artefact that cells hang on, or that hangs on several, and the files that tell of its making."""

    name: str
    path: str
    log: str
    benchmark: str
    shards: tuple[str, ...] = ()


def shared(config: Config) -> list[Shared]:
    """What the cells of the active run hang on, in the order in which it is made."""
    used, heldout = matrix.restrict(config), config.runs[config.run].heldout
    text = heldout.text if heldout else None  # no Hessians are taken over it
    found = [
        Shared(
            f"dataset {name}",
            f"resources/datasets/{name}/data.jsonl",
            f"logs/datasets/{name}.log",
            f"results/benchmarks/dataset/{name}.tsv",
        )
        for name in used.datasets
    ]
    for model in used.models:
        found.append(
            Shared(
                f"{model}",
                f"resources/models/{model}",
                f"logs/models/{model}.log",
                f"results/{model}/benchmarks/model.tsv",
            )
        )
        measured = (
            matrix.measured_sources(config, model) if model in matrix.used(config, "models") else []
        )
        searched = matrix.searched_sources(config, model) - {*measured}
        evals = {
            name for cell, name in matrix.plan(config, config.run).evals if cell.model == model
        }
        for stage, names in (
            ("traces", matrix.generated_sources(config, model)),
            ("sources", [*measured, *sorted(searched)]),
            ("hessians", [name for name in measured if name != text]),
            ("requests", [name for name in config.evals if name in evals]),
        ):
            for name in names:
                count = config.sources[name].shards if stage in ("traces", "hessians") else 1
                found.append(
                    Shared(
                        f"{model} {stage} {name}",
                        _MADE.get(stage, "results/{model}/{stage}/{name}").format(
                            model=model, stage=stage, name=name
                        ),
                        f"logs/{model}/{stage}/{name}.log",
                        f"results/{model}/benchmarks/{stage}/{name}.tsv",
                        tuple(shards(model, stage, name, count)),
                    )
                )
    return found


def of_cells(config: Config) -> list[Shared]:
    """What is made from the cells of the active run, in the order in which it is made."""
    overlaps = [
        Shared(
            f"{row['model']} overlaps {row['variant']}",
            row["path"],
            f"logs/{row['model']}/overlaps/{row['variant']}.log",
            f"results/{row['model']}/benchmarks/overlaps/{row['variant']}.tsv",
        )
        for row in matrix.report_cells(config)["overlaps"]
    ]
    return overlaps + [
        Shared(name, f"results/{file}", f"logs/{name}.log", f"results/benchmarks/{name}.tsv")
        for name, file in (("summary", "summary.csv"), ("report", "report.html"))
    ]


# Where a stage's folder is there before its work is done, what is there after it.
_MADE = {
    "traces": "results/{model}/{stage}/{name}/traces.jsonl.zst",
    "sources": "results/{model}/{stage}/{name}/sequences.safetensors",
    "requests": "results/{model}/{stage}/{name}/requests.jsonl.zst",
}


def generation_shards(config: Config) -> list[str]:
    """The shards of all generations of the active run."""
    return [
        shard
        for cell, name in matrix.plan(config, config.run).evals
        for shard in shards(
            *(cell.model, "generate", f"{cell.calibration}/{cell.variant}/{name}"),
            config.evals[name].shards,
        )
    ]


def shards(model: str, stage: str, name: str, count: int) -> list[str]:
    """The folders of the shards that an artefact's work is cut into; none where one job does it all."""
    folder = f"results/{model}/shards/{stage}/{name}"
    return [f"{folder}/{number}" for number in range(count)] if count > 1 else []
