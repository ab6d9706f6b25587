"""config.yaml as a whole: definitions that fit together, and one clear line for whatever is wrong.

Names are identities: they stand in paths, so they are short, plain and checked here. What a name stands
for reaches the rules as `params`, so an edited definition recomputes what hangs on it and nothing else.
"""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from rac.definitions import (
    Block,
    Calibration,
    Dataset,
    Eval,
    Model,
    Run,
    Source,
    Workload,
    source_parts,
)
from rac.errors import RacError
from rac.schema import FolderName, Name, Strict, nearest
from rac.variants import Variant
from rac.yaml_nodes import nodes


class Config(Strict):
    """config.yaml."""

    run: Name = Field(
        description="the active one of `runs`; `--config run=NAME` on the command line"
    )
    models: dict[FolderName, Model] = Field(description="what is compressed")
    datasets: dict[Name, Dataset] = Field(
        description="what they think about, and what they are tested on"
    )
    sources: dict[Name, Source] = Field(description="what Hessians are taken over")
    calibrations: dict[FolderName, Calibration] = Field(description="how Hessians are added up")
    variants: dict[Name, Variant] = Field(description="what is done to the weights")
    evals: dict[FolderName, Eval] = Field(description="what answers are scored on")
    workloads: dict[Name, Workload] = Field({}, description="what run time is measured on")
    runs: dict[Name, Run] = Field(description="tables: which cells, measured on what")

    @model_validator(mode="before")
    @classmethod
    def _include(cls, values: Any) -> Any:
        """Give a run the blocks of those that it includes; what is misspelt is for later checks."""
        runs = values.get("runs") if isinstance(values, dict) else None
        if not isinstance(runs, dict):
            return values

        def blocks(name: Any, way: tuple[str, ...]) -> list:
            if not isinstance(name, str):
                raise ValueError(f"runs.{way[-1]}.includes: '{name}' is no name of a run")
            if name in way:
                raise ValueError(f"runs.{name}.includes: it includes itself")
            run = runs.get(name)
            if not isinstance(run, dict):
                raise ValueError(
                    f"runs.{way[-1]}.includes: '{name}' is not defined{nearest(name, runs)}"
                )
            included = run.get("includes") or []
            if not isinstance(included, list):
                raise ValueError(f"runs.{name}.includes: it must be a list of runs")
            own = run.get("cells") or []
            return [block for other in included for block in blocks(other, (*way, name))] + (
                own if isinstance(own, list) else [own]
            )

        whole = {
            name: {**run, "includes": [], "cells": blocks(name, ())}
            if isinstance(run, dict) and run.get("includes")
            else run
            for name, run in runs.items()
        }
        return {**values, "runs": whole}

    def variant_cells(self) -> dict[str, tuple[str, Variant]]:
        """Every single variant: name → (pattern as `rac.solve` takes it, definition of one sparsity)."""
        cells: dict[str, tuple[str, Variant]] = {}
        for name, variant in self.variants.items():
            kind = "structured" if variant.solver == "structured" else "unstructured"
            if not variant.sparsity:
                cells[name] = (variant.pattern if variant.solver else "dense", variant)
            for sparsity in variant.sparsity:
                single = f"{name}-{sparsity:g}"
                if single in cells or single in self.variants:
                    raise ValueError(f"variants.{name}: '{single}' stands for two variants")
                one = variant.model_copy(update={"sparsity": [sparsity]})
                cells[single] = (f"{kind} {sparsity:g}", one)
        return cells

    def singles(self, block: Block) -> list[str]:
        """The single variants that a block names, one by one or by their family's name."""
        chosen = [
            single
            for entry in block.variants
            for single in (self.expanded(entry) if entry in self.variants else [entry])
        ]
        return list(dict.fromkeys(chosen))

    def expanded(self, variant: str) -> list[str]:
        """The single variants that a variant stands for: one a sparsity."""
        return [f"{variant}-{s:g}" for s in self.variants[variant].sparsity] or [variant]

    @model_validator(mode="after")
    def _check(self) -> Self:
        _known("run", self.run, self.runs)
        for name, source in self.sources.items():
            _check_source(self, name, source)
        for name, dataset in self.datasets.items():
            for apart in dataset.without:
                _known(f"datasets.{name}.without", apart, self.datasets)
                if self.datasets[apart].kind == "documents" or self.datasets[apart].without:
                    raise ValueError(
                        f"datasets.{name}.without: '{apart}' must hold problems, and have no "
                        "'without' of its own"
                    )
        for name, evaluation in self.evals.items():
            _known(f"evals.{name}.dataset", evaluation.dataset, self.datasets)
        for name, calibration in self.calibrations.items():
            _check_calibration(self, name, calibration)
        for name, variant in self.variants.items():
            if searched := variant.allocation_source:
                _known_source(self, f"variants.{name}.allocation.source", searched, "traces")
        variants = self.variant_cells()
        for name, run in self.runs.items():
            _check_run(self, name, run, variants)
            _check_held_out(self, name, run, variants)
        return self


def _known(where: str, name: str, *kinds: Collection[str]) -> None:
    """Refuse a name that nothing of these kinds has."""
    names = [known for kind in kinds for known in kind]
    if name not in names:
        raise ValueError(f"{where}: '{name}' is not defined{nearest(name, names)}")


def _known_source(config: Config, where: str, name: str, kind: str) -> None:
    """Refuse what is no source of a kind."""
    _known(where, name, config.sources)
    if (given := config.sources[name].kind) != kind:
        raise ValueError(f"{where}: source '{name}' is of kind '{given}', not '{kind}'")


def _check_source(config: Config, name: str, source: Source) -> None:
    """Its dataset, and the source whose traces it takes."""
    _known(f"sources.{name}.dataset", source.dataset, config.datasets)
    wanted = "documents" if source.kind == "text" else "problems"
    given = config.datasets[source.dataset].kind
    if (given == "documents") != (wanted == "documents"):
        raise ValueError(
            f"sources.{name}: kind '{source.kind}' needs a dataset of kind '{wanted}', "
            f"and '{source.dataset}' holds {given}"
        )
    if source.traces_of:
        where, other = f"sources.{name}.traces_of", source.traces_of
        _known(f"{where}.source", other.source, config.sources)
        if other.model:
            _known(f"{where}.model", other.model, config.models)
        first = config.sources[other.source]
        if first.kind != "traces" or first.traces_of or first.dataset != source.dataset:
            raise ValueError(
                f"{where}.source: '{other.source}' must be a source of traces that are "
                f"generated, on dataset '{source.dataset}'"
            )
        if source.tokens > first.tokens + first.max_new_tokens:  # drawing ends once they are met
            raise ValueError(
                f"sources.{name}.tokens: {source.tokens} are more than '{other.source}' draws, "
                f"{first.tokens} and the rest of a sample: lower it, or raise "
                f"sources.{other.source}.tokens"
            )
    dataset, select = config.datasets[source.dataset], source.select
    for key in ("correct", "difficulty"):
        if select and getattr(select, key) is not None and not dataset.has_answers:
            raise ValueError(
                f"sources.{name}.select.{key}: '{source.dataset}' has no answers to tell it by"
            )
    kept = {*(dataset.keep or ()), "id", "problem", *(["answer"] if dataset.has_answers else [])}
    if source.kind == "solutions" and dataset.keep is not None and source.solution not in kept:
        raise ValueError(
            f"sources.{name}.solution: '{source.dataset}' keeps no column '{source.solution}': add it "
            f"to datasets.{source.dataset}.keep"
        )


def _check_calibration(config: Config, name: str, calibration: Calibration) -> None:
    """The sources, or parts of sources, that it adds up."""
    for key in calibration.sum or calibration.share or {}:
        whole, _, part = key.rpartition(".")
        if key in config.sources or not whole:
            _known(f"calibrations.{name}", key, config.sources)
        else:
            _known(f"calibrations.{name}", whole, config.sources)
            parts = source_parts(config.sources[whole].kind)
            _known(f"calibrations.{name}.{whole}", part, parts)


def _check_run(
    config: Config, name: str, run: Run, variants: dict[str, tuple[str, Variant]]
) -> None:
    """The cells that it lists, and what it measures them on."""
    if not run.cells:
        raise ValueError(f"runs.{name}: it has no cells")
    for i, block in enumerate(run.cells):
        where = f"runs.{name}.cells[{i}]"
        for listed in ("models", "calibrations", "evals"):
            for entry in getattr(block, listed):
                _known(f"{where}.{listed}", entry, getattr(config, listed))
        for entry in block.variants:
            _known(f"{where}.variants", entry, config.variants, variants)
        if not block.models:
            raise ValueError(f"{where}.models: name at least one")
        needing = [name for name in config.singles(block) if variants[name][1].needs_hessian]
        if needing and not block.calibrations:
            raise ValueError(f"{where}.calibrations: '{needing[0]}' needs one; name at least one")
        if block.runtime and run.workload is None:
            raise ValueError(f"{where}: 'runtime' needs runs.{name}.workload")
    if run.workload:
        _known(f"runs.{name}.workload", run.workload, config.workloads)
    if run.heldout:
        for role, kind in (("thoughts", "traces"), ("text", "text")):
            _known_source(config, f"runs.{name}.heldout.{role}", getattr(run.heldout, role), kind)


def _calibrated_on(
    config: Config, block: Block, variants: dict[str, tuple[str, Variant]]
) -> dict[str, tuple[str, str]]:
    """The datasets that cells of a block are made from → by whom and by which source."""
    seen = {
        config.sources[source].dataset: (f"calibration '{calibration}'", source)
        for calibration in block.calibrations
        for source in config.calibrations[calibration].sources(config.sources)
    }
    for single in config.singles(block):
        if source := variants[single][1].allocation_source:
            seen[config.sources[source].dataset] = f"variant '{single}'", source
    return seen


def _share_rows(config: Config, one: str, other: str) -> bool:
    """Whether two datasets take their rows from one place, and neither leaves out the other's."""
    if one == other:
        return True
    first, second = config.datasets[one], config.datasets[other]
    if other in first.without or one in second.without:
        return False

    def place(of: Dataset) -> tuple:
        seed = of.seed if of.embedded == "word-problems" else None  # which are made by it
        path = of.path and of.path.resolve()
        files = frozenset(of.files or ())
        return of.embedded, of.split, seed, path, of.hub, files, of.livecodebench

    return place(first) == place(second)


def _check_apart(config: Config, name: str, entry: str, seen: dict[str, tuple[str, str]]) -> None:
    """What an eval asks must not be what its cells are calibrated on."""
    dataset = config.evals[entry].dataset
    for other in sorted(seen):
        if _share_rows(config, dataset, other):
            rows = "" if other == dataset else f", with the rows of dataset '{other}'"
            raise ValueError(
                f"runs.{name}: eval '{entry}' asks dataset '{dataset}'{rows}, which source "
                f"'{seen[other][1]}' calibrates on"
            )
        of = config.datasets[other]
        apart = of.kind == "documents" or of.embedded or dataset in of.without
        if not apart:
            raise ValueError(
                f"datasets.{other}.without: add '{dataset}', so that no problem that eval "
                f"'{entry}' asks is calibrated on"
            )


def _check_held_out(
    config: Config, name: str, run: Run, variants: dict[str, tuple[str, Variant]]
) -> None:
    """What is measured on must not have been calibrated on: neither problems nor held-out rows."""
    seen: dict[str, tuple[str, str]] = {}
    for block in run.cells:
        of_block = _calibrated_on(config, block, variants)
        for entry in block.evals:
            _check_apart(config, name, entry, of_block)
        seen |= of_block
    for held in (run.heldout.thoughts, run.heldout.text) if run.heldout else ():
        for dataset, (who, source) in sorted(seen.items()):
            if _share_rows(config, config.sources[held].dataset, dataset):
                raise ValueError(
                    f"runs.{name}.heldout: {who} uses source '{source}', whose rows are those of "
                    f"'{held}', which are to be held out"
                )


def _model_at(location: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The model class whose key an error at `location` is about."""
    model: Any = Config
    for step in location[:-1]:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(str(step))
            model = field.annotation if field else None
        else:  # inside a dict or list: go on with what it holds
            model = get_args(model)[-1] if get_args(model) else None
        models = [kind for kind in get_args(model) if isinstance(kind, type)]
        if models and issubclass(models[0], BaseModel) and type(None) in models:
            model = models[0]
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _line(error: Any) -> str:
    """One line for the first thing that pydantic found: where, what, and the nearest right word."""
    location, message = error["loc"], error["msg"].removeprefix("Value error, ")
    where = ".".join(str(step) for step in location if step != "[key]")
    if error["type"] == "extra_forbidden":
        model = _model_at(location)
        message = f"unknown key{nearest(str(location[-1]), model.model_fields if model else [])}"
    elif error["type"] == "literal_error":
        allowed = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        message = f"'{error['input']}' is not known{nearest(str(error['input']), allowed)}"
    elif error["type"] == "missing":
        message = "this key is missing"
    elif error["type"] == "string_type" and isinstance(error["input"], bool | int | float):
        found = error["input"]
        if isinstance(found, bool):  # of a key, pydantic's location has 0 or 1
            where = where.removesuffix(f".{found:d}") if location[-1] == "[key]" else where
            reads = f"yes, no, on and off as true or false (found: {str(found).lower()})"
        else:
            reads = f"{found} as a number"
        message = f"text is wanted, and YAML reads {reads}: put it in quotes"
    elif not message.startswith(("give", "'")):
        message = f"{message} (found: {str(error['input'])[:80]})" if where else message
    return " ".join((f"{where}: {message}" if where else message).split())


def read(file: Path) -> Any:
    """What a YAML file holds.

    Raises:
        RacError: it cannot be read, or a key is twice in one place, where YAML would take the last.
    """
    import yaml

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(file.read_text(encoding="utf-8"))
        document = loader.get_single_node()
        for node in nodes(document):
            if isinstance(node, yaml.MappingNode):
                _refuse_twice([key for key, _ in node.value], file)
        return loader.construct_document(document) if document else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RacError(f"{file} cannot be read: {error}") from None


def _refuse_twice(keys: list[Any], file: Path) -> None:
    names: set[str] = set()
    for key in keys:
        if str(key.value) in names and key.value != "<<":
            line = key.start_mark.line + 1
            raise RacError(f"{file}, line {line}: '{key.value}' is there already: join the two")
        names.add(str(key.value))


def validate(values: Any, *files: str | Path) -> Config:
    """Check what was read from `files`, each laid over those before it; config.yaml if none is named.

    Raises:
        RacError: one line that says where, what, and the nearest right word.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        place = " with ".join(map(str, files)) or "config.yaml"
        raise RacError(f"{place}: {_line(error.errors()[0])}") from None


def schema() -> str:
    """The JSON schema of config.yaml, for editors."""
    return json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
