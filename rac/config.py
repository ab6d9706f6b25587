"""What config.yaml may say: definitions, runs, and one clear line for whatever is wrong.

Names are identities: they stand in paths, so they are short, plain and checked here. What a name stands
for reaches the rules as `params`, so an edited definition recomputes what hangs on it and nothing else.
"""

import json
import re
from collections.abc import Collection
from datetime import date
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from rac.errors import RacError
from rac.schema import FolderName, Name, Strict, exactly_one, nearest
from rac.variants import Variant


class Sampling(Strict):
    """How the next token is drawn. Reasoning models are never decoded greedily."""

    temperature: float = Field(0.6, gt=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: PositiveInt | None = Field(None, description="the most probable tokens; all if left out")


class Model(Strict):
    """A dense model: the embedded reasoner, a Hugging Face folder, or a repository of the hub."""

    embedded: Literal["reasoner"] | None = None
    path: Path | None = Field(None, description="a Hugging Face folder")
    hub: str | None = Field(None, description="a repository of the hub, as owner/name")
    revision: str | None = Field(None, description="the commit of `hub`, 40 hexadecimal digits")
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    device: Literal["gpu", "cpu"] | None = Field(
        None, description="what its jobs ask for and see; a cpu in float32, else a gpu, if left out"
    )
    threads: PositiveInt | None = Field(
        None,
        description="CPU threads of a job that runs the model; if left out, all cores, or 4 beside a gpu",
    )
    engine: Literal["auto", "transformers", "vllm"] = Field(
        "auto",
        description="what samples; `auto`: vllm where its GPU build is installed, unless in float32",
    )
    tensor_parallel: PositiveInt = Field(1, description="vllm: GPUs that share each layer")
    spill: Path | None = Field(
        None, description="a folder of a fast disk, for hidden states that memory has no room for"
    )
    sampling: Sampling = Sampling()
    system: str | None = Field(None, description="a system prompt before every problem")
    thinking: bool | None = Field(
        None, description="the chat template's switch enable_thinking, where it has one"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "embedded", "path", "hub")
        _check_revision(self.hub, self.revision)
        return self


def _check_revision(hub: str | None, revision: str | None) -> None:
    if (hub is None) != (revision is None):
        raise ValueError("'revision' (a commit) goes with 'hub'")
    if revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(f"revision '{revision}' is not a commit (40 hexadecimal digits)")


class Columns(Strict):
    """Which columns of a foreign dataset hold what; only those that its users need."""

    problem: str = "problem"
    answer: str | None = Field(
        "answer", description="null where there is none to grade by, or the task reads it itself"
    )
    text: str = "text"
    id: str | None = Field("id", description="what tells rows apart; null numbers them")


class LiveCodeBench(Strict):
    """Which of LiveCodeBench's problems: a number means nothing without both."""

    release: str = Field(description="release_v1 to release_v6: the files that it is made of")
    start: date = Field(description="the first contest date")
    end: date = Field(description="the first contest date that is too late")


class Dataset(Strict):
    """Rows of problems (problem, answer), of programs to write (problem) or of documents (text)."""

    embedded: Literal["word-problems", "c4", "word-order"] | None = None
    path: Path | None = Field(None, description="a .jsonl, .jsonl.gz, .jsonl.zst or .parquet file")
    hub: str | None = Field(None, description="a dataset of the hub, as owner/name")
    revision: str | None = Field(None, description="the commit of `hub`, 40 hexadecimal digits")
    files: list[str] | None = Field(
        None, description="files of `hub`, or patterns such as data/train-*.parquet"
    )
    livecodebench: LiveCodeBench | None = Field(
        None, description="of hub livecodebench/code_generation_lite, in place of `files`"
    )
    split: str | None = Field(None, description="of `embedded`")
    kind: Literal["problems", "programs", "documents"] = "problems"
    columns: Columns = Columns()
    without: list[Name] = Field(
        [], description="datasets whose problems are dropped from this one, and counted"
    )
    rows: PositiveInt | None = Field(
        None, description="how many rows, in a seeded order; all if left out"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "embedded", "path", "hub")
        _check_revision(self.hub, self.revision)
        if self.files and self.livecodebench:
            raise ValueError("'livecodebench' names the files itself: leave 'files' out")
        if bool(self.files or self.livecodebench) != bool(self.hub):
            raise ValueError("'files' goes with 'hub'")
        if (self.split is None) != (self.embedded is None):
            raise ValueError("'split' goes with 'embedded'")
        if self.without and self.kind == "documents":
            raise ValueError("'without' is for datasets of problems")
        return self


class TracesOf(Strict):
    """Traces that are there already, or another model's: off-policy."""

    source: Name = Field(description="a source of traces")
    model: Name | None = Field(None, description="whose traces; the model's own if left out")


class Select(Strict):
    """Which traces are taken; those that meet all of it."""

    correct: bool | None = Field(None, description="by the answer; an unfinished trace is wrong")
    finished: bool | None = None
    tokens: tuple[int, int] | None = Field(None, description="fewest and most decode tokens")
    difficulty: tuple[float, float] | None = Field(
        None, description="lowest and highest share of a problem's traces that are wrong"
    )
    order: Literal["shortest", "longest"] | None = Field(None, description="those first")


class Source(Strict):
    """Token sequences that a Hessian is taken over."""

    kind: Literal["text", "prompts", "traces", "solutions"] = Field(
        description="`solutions`: prompts with the dataset's own solutions, for which no model is run"
    )
    dataset: Name
    tokens: PositiveInt = Field(
        description="the budget; the last sequence is cut to meet it exactly"
    )
    window: PositiveInt = Field(2048, description="text: tokens a sequence")
    prompt: str = Field("{problem}", description="prompts, traces: what the user says")
    max_new_tokens: PositiveInt = Field(8192, description="traces: where a thought is cut")
    batch: PositiveInt = Field(64, description="traces: samples generated together")
    samples: PositiveInt = Field(1, description="traces: of each problem")
    traces_of: TracesOf | None = Field(None, description="traces: of another source or model")
    select: Select | None = Field(None, description="traces: which of them")
    solution: str = Field("solution", description="solutions: the dataset's column")
    shards: PositiveInt = Field(
        1, description="jobs that share the work of its traces, and of its Hessians"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "{problem}" not in self.prompt:
            raise ValueError("'prompt' must contain {problem}")
        if self.kind != "traces" and (self.traces_of or self.select or self.samples > 1):
            raise ValueError("'samples', 'traces_of' and 'select' are for sources of kind 'traces'")
        if self.select and not self.traces_of:
            raise ValueError(
                "'select' chooses among traces that are there: name their source in 'traces_of'"
            )
        return self


class Calibration(Strict):
    """A weighted sum of stored Hessians, by source (`c4`) or by part of one (`traces.decode`)."""

    sum: dict[str, float] | None = Field(None, description="weights of the stored sums of x xᵀ")
    share: dict[str, float] | None = Field(None, description="shares of tokens; they add up to 1")

    @model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "sum", "share")
        weights = self.sum or self.share or {}
        if not weights or any(weight <= 0 for weight in weights.values()):
            raise ValueError("weights must be positive, and at least one source named")
        if self.share and abs(sum(self.share.values()) - 1) > 1e-6:
            raise ValueError(f"shares add up to {sum(self.share.values()):g}, not to 1")
        return self

    def sources(self, known: Collection[str]) -> list[str]:
        """The sources (of those that are `known`) whose Hessians it adds up."""
        keys = self.sum or self.share or {}
        return sorted({key if key in known else key.rpartition(".")[0] for key in keys})


class Eval(Strict):
    """A benchmark: an lm-eval task, its problems, and how many samples of each."""

    task: str = Field(description="the name of an lm-eval task")
    dataset: Name
    samples: PositiveInt = 1
    max_new_tokens: PositiveInt = 32768
    batch: PositiveInt = Field(64, description="samples generated together, the unit of resume")
    sandbox: Literal["bubblewrap", "rlimits"] = Field(
        "bubblewrap", description="what holds the programs that a model writes; rlimits is weaker"
    )
    shards: PositiveInt = Field(1, description="jobs that share the work of its generations")
    seed: int = 0


class Workload(Strict):
    """What run time is measured on, dense and compressed in turn."""

    batches: list[PositiveInt] = [1, 16]
    prompt_tokens: PositiveInt = 64
    new_tokens: PositiveInt = 128
    repeats: PositiveInt = 3


class Block(Strict):
    """All combinations of what is listed. The dense model is always there."""

    models: list[Name]
    calibrations: list[Name]
    variants: list[Name] = Field(
        description="variants, or single cells of one such as sparsegpt-0.5"
    )
    evals: list[Name] = []
    runtime: bool = Field(False, description="measure the run's workload on these cells")


class Heldout(Strict):
    """Sources that no calibration uses, to measure every cell on."""

    thoughts: Name = Field(description="a source of traces: loss and layer error on decode tokens")
    text: Name = Field(description="a source of text: loss on general text")


class Run(Strict):
    """A table: blocks of cells, and what to measure every cell on."""

    includes: list[Name] = Field([], description="runs whose blocks come before its own")
    cells: list[Block] = []
    heldout: Heldout | None = None
    workload: Name | None = Field(None, description="for the blocks that say `runtime: true`")


class Config(Strict):
    """config.yaml."""

    run: Name
    models: dict[FolderName, Model]
    datasets: dict[Name, Dataset]
    sources: dict[Name, Source]
    calibrations: dict[FolderName, Calibration]
    variants: dict[Name, Variant]
    evals: dict[FolderName, Eval]
    workloads: dict[Name, Workload] = {}
    runs: dict[Name, Run]

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
    def _names_are_defined(self) -> Self:
        def known(where: str, name: str, *kinds: Any) -> None:
            names = [known for kind in kinds for known in kind]
            if name not in names:
                raise ValueError(f"{where}: '{name}' is not defined{nearest(name, names)}")

        known("run", self.run, self.runs)
        for name, source in self.sources.items():
            known(f"sources.{name}.dataset", source.dataset, self.datasets)
            wanted = "documents" if source.kind == "text" else "problems"
            given = self.datasets[source.dataset].kind
            if (given == "documents") != (wanted == "documents"):
                raise ValueError(
                    f"sources.{name}: kind '{source.kind}' needs a dataset of kind '{wanted}', "
                    f"and '{source.dataset}' holds {self.datasets[source.dataset].kind}"
                )
            if source.traces_of:
                where, other = f"sources.{name}.traces_of", source.traces_of
                known(f"{where}.source", other.source, self.sources)
                if other.model:
                    known(f"{where}.model", other.model, self.models)
                first = self.sources[other.source]
                if first.kind != "traces" or first.traces_of or first.dataset != source.dataset:
                    raise ValueError(
                        f"{where}.source: '{other.source}' must be a source of traces that are "
                        f"generated, on dataset '{source.dataset}'"
                    )
            if source.select and self.datasets[source.dataset].columns.answer is None:
                raise ValueError(f"sources.{name}.select: '{source.dataset}' has no answers")
        for name, dataset in self.datasets.items():
            for apart in dataset.without:
                known(f"datasets.{name}.without", apart, self.datasets)
                if self.datasets[apart].kind == "documents" or self.datasets[apart].without:
                    raise ValueError(
                        f"datasets.{name}.without: '{apart}' must hold problems, and have no "
                        "'without' of its own"
                    )
        for name, evaluation in self.evals.items():
            known(f"evals.{name}.dataset", evaluation.dataset, self.datasets)
        for name, calibration in self.calibrations.items():
            for key in calibration.sum or calibration.share or {}:
                whole, _, part = key.rpartition(".")
                if key in self.sources or not whole:
                    known(f"calibrations.{name}", key, self.sources)
                else:
                    known(f"calibrations.{name}", whole, self.sources)
                    parts = source_parts(self.sources[whole].kind)
                    known(f"calibrations.{name}.{whole}", part, parts)
        for name, variant in self.variants.items():
            if searched := variant.allocation_source:
                where = f"variants.{name}.allocation.source"
                known(where, searched, self.sources)
                if (kind := self.sources[searched].kind) != "traces":
                    raise ValueError(
                        f"{where}: source '{searched}' is of kind '{kind}', not 'traces'"
                    )
        variants = self.variant_cells()
        for name, run in self.runs.items():
            if not run.cells:
                raise ValueError(f"runs.{name}: it has no cells")
            for i, block in enumerate(run.cells):
                where = f"runs.{name}.cells[{i}]"
                for listed in ("models", "calibrations", "evals"):
                    for entry in getattr(block, listed):
                        known(f"{where}.{listed}", entry, getattr(self, listed))
                for entry in block.variants:
                    known(f"{where}.variants", entry, self.variants, variants)
                if block.runtime and run.workload is None:
                    raise ValueError(f"{where}: 'runtime' needs runs.{name}.workload")
            if run.workload:
                known(f"runs.{name}.workload", run.workload, self.workloads)
            if run.heldout:
                for role, kind in (("thoughts", "traces"), ("text", "text")):
                    given = getattr(run.heldout, role)
                    known(f"runs.{name}.heldout.{role}", given, self.sources)
                    if self.sources[given].kind != kind:
                        raise ValueError(
                            f"runs.{name}.heldout.{role}: source '{given}' is of kind "
                            f"'{self.sources[given].kind}', not '{kind}'"
                        )
            self._check_held_out(name, run, variants)
        return self

    def _check_held_out(
        self, name: str, run: Run, variants: dict[str, tuple[str, Variant]]
    ) -> None:
        """What is measured on must not have been calibrated on: neither problems nor held-out rows."""
        seen = {
            self.sources[source].dataset: (f"calibration '{calibration}'", source)
            for block in run.cells
            for calibration in block.calibrations
            for source in self.calibrations[calibration].sources(self.sources)
        }
        for single in (single for block in run.cells for single in self.singles(block)):
            if source := variants[single][1].allocation_source:
                seen[self.sources[source].dataset] = f"variant '{single}'", source
        for entry in (entry for block in run.cells for entry in block.evals):
            dataset = self.evals[entry].dataset
            if dataset in seen:
                raise ValueError(
                    f"runs.{name}: eval '{entry}' asks dataset '{dataset}', which source "
                    f"'{seen[dataset][1]}' calibrates on"
                )
            for other in sorted(seen):
                of = self.datasets[other]
                apart = of.kind == "documents" or of.embedded or dataset in of.without
                if not apart:
                    raise ValueError(
                        f"datasets.{other}.without: add '{dataset}', so that no problem that eval "
                        f"'{entry}' asks is calibrated on"
                    )
        for held in (run.heldout.thoughts, run.heldout.text) if run.heldout else ():
            if self.sources[held].dataset in seen:
                who, source = seen[self.sources[held].dataset]
                raise ValueError(
                    f"runs.{name}.heldout: {who} uses source '{source}' or its "
                    "dataset, which are to be held out"
                )


def source_parts(kind: str) -> tuple[str, ...]:
    """The parts that a source's Hessians are stored in."""
    return {"text": ("text",), "prompts": ("prompt",)}.get(kind, ("prompt", "decode"))


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
    elif not message.startswith(("give", "'")):
        message = f"{message} (found: {str(error['input'])[:80]})" if where else message
    return " ".join((f"{where}: {message}" if where else message).split())


def validate(values: Any, file: str = "config.yaml") -> Config:
    """Check what was read from `file`.

    Raises:
        RacError: one line that says where, what, and the nearest right word.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise RacError(f"{file}: {_line(error.errors()[0])}") from None


def schema() -> str:
    """The JSON schema of config.yaml, for editors."""
    return json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
