"""What config.yaml may define: models, datasets, sources, calibrations, evals, workloads and runs.

Each definition checks itself here; whether they fit together is `rac.config`'s to say. Variants, which are
larger, are in `rac.variants`.
"""

import re
from collections.abc import Collection
from datetime import date
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from rac.schema import Few, Name, PositiveInt, Strict, exactly_one


class Sampling(Strict):
    """How the next token is drawn. Reasoning models are never decoded greedily."""

    temperature: float = Field(0.6, gt=0, le=2, description="what logits are divided by")
    top_p: float = Field(
        0.95, ge=1e-6, le=1, description="the most probable tokens that have this share together"
    )
    top_k: PositiveInt | None = Field(None, description="the most probable tokens; all if left out")


class Model(Strict):
    """A dense model: the embedded reasoner, a Hugging Face folder, or a repository of the hub."""

    embedded: Literal["reasoner"] | None = Field(
        None, description="the reasoner of this repository"
    )
    path: Path | None = Field(None, description="a Hugging Face folder")
    hub: str | None = Field(None, description="a repository of the hub, as owner/name")
    revision: str | None = Field(None, description="the commit of `hub`, 40 hexadecimal digits")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="what it runs in"
    )
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
    sampling: Sampling = Field(Sampling(), description="of thoughts and answers")
    system: str | None = Field(None, description="a system prompt before every problem")
    thinking: bool | None = Field(
        None, description="the chat template's switch enable_thinking, where it has one"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        exactly_one(self, "embedded", "path", "hub")
        _check_revision(self.hub, self.revision)
        return self

    @property
    def chat(self) -> "Chat":
        """What is said beside a problem."""
        return Chat(system=self.system, thinking=self.thinking)


class Chat(Strict):
    """What a model is told beside a problem, by its chat template; keys as in a model's definition."""

    system: str | None = None
    thinking: bool | None = None


def _check_revision(hub: str | None, revision: str | None) -> None:
    if (hub is None) != (revision is None):
        raise ValueError("'revision' (a commit) goes with 'hub'")
    if hub is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", hub, re.ASCII):
        raise ValueError(f"hub '{hub}' is not owner/name")
    if revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(f"revision '{revision}' is not a commit (40 hexadecimal digits)")


class Columns(Strict):
    """Which columns of a foreign dataset hold what; only those that its users need."""

    problem: str = Field("problem", description="what is asked")
    answer: str | None = Field(
        "answer", description="null where there is none to grade by, or the task reads it itself"
    )
    text: str = Field("text", description="of a document")
    id: str | None = Field("id", description="what tells rows apart; null numbers them")


Release = Literal[
    "release_v1", "release_v2", "release_v3", "release_v4", "release_v5", "release_v6"
]


class LiveCodeBench(Strict):
    """Which of LiveCodeBench's problems: a number means nothing without both."""

    release: Release = Field(description="the files that it is made of")
    start: date = Field(description="the first contest date")
    end: date = Field(description="the first contest date that is too late")


class Dataset(Strict):
    """Rows of problems (problem, answer), of programs to write (problem) or of documents (text)."""

    embedded: Literal["word-problems", "c4", "word-order"] | None = Field(
        None, description="one of this repository"
    )
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
    kind: Literal["problems", "programs", "documents"] = Field(
        "problems", description="`programs`: problems that a program answers, without a gold answer"
    )
    columns: Columns = Field(Columns(), description="what its columns are called")
    keep: list[str] | None = Field(
        None, description="columns to keep beside those of `columns`; all that it has, if left out"
    )
    without: list[Name] = Field(
        [], description="datasets whose problems are dropped from this one, and counted"
    )
    rows: PositiveInt | None = Field(
        None, description="how many rows, in a seeded order; all if left out"
    )
    seed: int = Field(0, description="of the order; embedded: of the problems")

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
        if self.embedded and self.keep is not None:
            raise ValueError("'keep' is for datasets of files: embedded rows are small")
        if self.without and self.kind == "documents":
            raise ValueError("'without' is for datasets of problems")
        return self

    @property
    def has_answers(self) -> bool:
        """Whether every row has an answer to grade by."""
        return self.kind == "problems" and self.columns.answer is not None


class TracesOf(Strict):
    """Traces that are there already, or another model's: off-policy."""

    source: Name = Field(description="a source of traces")
    model: Name | None = Field(None, description="whose traces; the model's own if left out")


class Select(Strict):
    """Which traces are taken; those that meet all of it."""

    correct: bool | None = Field(None, description="by the answer; an unfinished trace is wrong")
    finished: bool | None = Field(None, description="by the end of the thought and of the answer")
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
    dataset: Name = Field(description="what they are of")
    tokens: PositiveInt = Field(
        description="the budget; the last sequence is cut to meet it exactly"
    )
    window: PositiveInt = Field(2048, description="text: tokens a sequence")
    prompt: str = Field("{problem}", description="prompts, traces: what the user says")
    max_new_tokens: PositiveInt = Field(8192, description="traces: where a thought is cut")
    batch: PositiveInt = Field(64, description="traces: samples generated together")
    samples: Few = Field(1, description="traces: of each problem")
    traces_of: TracesOf | None = Field(None, description="traces: of another source or model")
    select: Select | None = Field(None, description="traces: which of them")
    solution: str = Field("solution", description="solutions: the dataset's column")
    shards: Few = Field(
        1, description="jobs that share the work of its traces, and of its Hessians"
    )
    seed: int = Field(0, description="traces: that the samples' own seeds hang on")

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
    dataset: Name = Field(description="its problems")
    samples: Few = Field(1, description="of each problem")
    max_new_tokens: PositiveInt = Field(32768, description="where an answer is cut")
    batch: PositiveInt = Field(64, description="samples generated together, the unit of resume")
    sandbox: Literal["bubblewrap", "rlimits"] = Field(
        "bubblewrap", description="what holds the programs that a model writes; rlimits is weaker"
    )
    shards: Few = Field(1, description="jobs that share the work of its generations")
    seed: int = Field(0, description="that the samples' own seeds hang on")


class Workload(Strict):
    """What run time is measured on, dense and compressed in turn."""

    batches: list[PositiveInt] = Field([1, 16], min_length=1, description="sequences together")
    prompt_tokens: PositiveInt = Field(64, description="of each sequence")
    new_tokens: PositiveInt = Field(128, description="of each sequence")
    repeats: PositiveInt = Field(3, description="of each measurement, after one to warm up")


class Block(Strict):
    """All combinations of what is listed. The dense model is always there."""

    models: list[Name] = Field(description="of `models`")
    calibrations: list[Name] = Field(description="of `calibrations`")
    variants: list[Name] = Field(
        description="variants, or single cells of one such as sparsegpt-0.5"
    )
    evals: list[Name] = Field([], description="of `evals`")
    runtime: bool = Field(False, description="measure the run's workload on these cells")


class Heldout(Strict):
    """Sources that no calibration uses, to measure every cell on."""

    thoughts: Name = Field(description="a source of traces: loss and layer error on decode tokens")
    text: Name = Field(description="a source of text: loss on general text")


class Run(Strict):
    """A table: blocks of cells, and what to measure every cell on."""

    includes: list[Name] = Field([], description="runs whose blocks come before its own")
    cells: list[Block] = Field([], description="blocks, one after the other")
    heldout: Heldout | None = Field(
        None, description="what losses and layer errors are measured on; not measured if left out"
    )
    workload: Name | None = Field(None, description="for the blocks that say `runtime: true`")


def source_parts(kind: str) -> tuple[str, ...]:
    """The parts that a source's Hessians are stored in."""
    return {"text": ("text",), "prompts": ("prompt",)}.get(kind, ("prompt", "decode"))
