"""What config.yaml may say: definitions, runs, and one clear line for whatever is wrong.

Names are identities: they stand in paths, so they are short, plain and checked here. What a name stands
for reaches the rules as `params`, so an edited definition recomputes what hangs on it and nothing else.
"""

import difflib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from rac.errors import RacError

NEEDS_HESSIAN = {"magnitude": False, "wanda": True, "sparsegpt": True, "alps": True}

# Folders beside those of models, calibrations and evals.
STAGE_FOLDERS = {
    *("figures", "benchmarks", "traces", "sources", "hessians", "requests"),
    *("checkpoint", "runtime", "diagnostics"),
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _name(value: str) -> str:
    if not NAME.fullmatch(value) or value in {"none", "dense"}:
        raise ValueError(
            f"'{value}' cannot be a name: use letters, digits, '.', '_' and '-', starting with a letter "
            "or digit ('none' and 'dense' are taken)"
        )
    return value


def _beside_stages(value: str) -> str:
    if value in STAGE_FOLDERS:
        raise ValueError(f"'{value}' cannot be a name here: a stage's folder is called so")
    return value


Name = Annotated[str, AfterValidator(_name)]
FolderName = Annotated[Name, AfterValidator(_beside_stages)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Strict(BaseModel):
    """Every part of the configuration: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sampling(Strict):
    """How the next token is drawn. Reasoning models are never decoded greedily."""

    temperature: float = Field(0.6, gt=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)


def _exactly_one(part: BaseModel, *keys: str) -> None:
    given = [key for key in keys if getattr(part, key) is not None]
    if len(given) != 1:
        wanted = ", ".join(f"'{key}'" for key in keys)
        raise ValueError(f"give exactly one of {wanted} (found {len(given)})")


class Model(Strict):
    """A dense model: the embedded reasoner, a Hugging Face folder, or a repository of the hub."""

    embedded: Literal["reasoner"] | None = None
    path: Path | None = Field(None, description="a Hugging Face folder")
    hub: str | None = Field(None, description="a repository of the hub, as owner/name")
    revision: str | None = Field(None, description="the commit of `hub`, 40 hexadecimal digits")
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    threads: PositiveInt | None = Field(
        None, description="CPU threads of a job that runs the model; all cores if left out"
    )
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _check(self) -> Self:
        _exactly_one(self, "embedded", "path", "hub")
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
    answer: str = "answer"
    text: str = "text"


class Dataset(Strict):
    """Rows of problems (problem, answer) or of documents (text)."""

    embedded: Literal["word-problems", "c4"] | None = None
    path: Path | None = Field(None, description="a .jsonl, .jsonl.gz, .jsonl.zst or .parquet file")
    hub: str | None = Field(None, description="a dataset of the hub, as owner/name")
    revision: str | None = Field(None, description="the commit of `hub`, 40 hexadecimal digits")
    subset: str | None = Field(None, description="the hub dataset's configuration")
    split: str = "train"
    kind: Literal["problems", "documents"] = "problems"
    columns: Columns = Columns()
    rows: PositiveInt | None = Field(
        None, description="how many rows, in a seeded order; all if left out"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        _exactly_one(self, "embedded", "path", "hub")
        _check_revision(self.hub, self.revision)
        return self


class Source(Strict):
    """Token sequences that a Hessian is taken over."""

    kind: Literal["text", "prompts", "traces"]
    dataset: Name
    tokens: PositiveInt = Field(
        description="the budget; the last sequence is cut to meet it exactly"
    )
    window: PositiveInt = Field(2048, description="text: tokens a sequence")
    prompt: str = Field("{problem}", description="prompts, traces: what the user says")
    max_new_tokens: PositiveInt = Field(8192, description="traces: where a thought is cut")
    batch: PositiveInt = Field(64, description="traces: samples generated together")
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "{problem}" not in self.prompt:
            raise ValueError("'prompt' must contain {problem}")
        return self


class Calibration(Strict):
    """A weighted sum of stored Hessians, by source (`c4`) or by part of one (`traces.decode`)."""

    sum: dict[str, float] | None = Field(None, description="weights of the stored sums of x xᵀ")
    share: dict[str, float] | None = Field(None, description="shares of tokens; they add up to 1")

    @model_validator(mode="after")
    def _check(self) -> Self:
        _exactly_one(self, "sum", "share")
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


class Scope(Strict):
    """Which linear layers are compressed; the others stay dense."""

    blocks: str = Field(
        "all",
        description="`all`, `first-third`, `middle-third`, `last-third`, or a range such as `0-11`",
    )
    projections: Literal["all", "attention", "mlp"] = "all"
    lm_head: bool = Field(False, description="the output embedding too, where it is not tied")

    @model_validator(mode="after")
    def _check(self) -> Self:
        span = re.fullmatch(r"(\d+)-(\d+)", self.blocks)
        thirds = ["first-third", "middle-third", "last-third"]
        if not span and self.blocks not in ["all", *thirds]:
            near = _nearest(self.blocks, ["all", *thirds])
            raise ValueError(f"'{self.blocks}' is not known, nor a range such as '0-11'{near}")
        if span and int(span[1]) > int(span[2]):
            raise ValueError(f"'{self.blocks}' is an empty range")
        return self


class Quantize(Strict):
    """Fewer bits for the weights of the layers in scope, after pruning if there is any."""

    scheme: Literal["w4a16", "w8a8", "fp8"]
    method: Literal["gptq", "rtn", "joint"] = Field(
        "gptq",
        description="`gptq`, `rtn` (round to nearest), or `joint`: in sparsegpt's own column loop",
    )
    group: PositiveInt = Field(128, description="w4a16: columns of a row that share a scale")


class Variant(Strict):
    """What is done to the weights. A list of sparsities expands into one cell each."""

    solver: Literal["magnitude", "wanda", "sparsegpt", "alps", "structured"] | None = Field(
        None, description="what prunes; left out where weights are quantized only"
    )
    pattern: str = Field(
        "unstructured", description="`unstructured`, or n:m (n kept of m in a row)"
    )
    sparsity: list[Share] = Field(
        [], description="shares of zeros; structured: of neurons and attention groups removed"
    )
    multiple: PositiveInt = Field(
        128, description="structured: the width that is left is a multiple of this"
    )
    quantize: Quantize | None = None
    scope: Scope = Scope()
    damping: float = Field(0.01, gt=0, lt=1, description="share of the Hessian's mean diagonal")
    block: PositiveInt = Field(
        128, description="sparsegpt, gptq: columns whose mask is chosen together"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("sparsity"), (int, float)):
            return {**value, "sparsity": [value["sparsity"]]}
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        kept = re.fullmatch(r"(\d+):(\d+)", self.pattern)
        if self.pattern != "unstructured" and not kept:
            raise ValueError(
                f"pattern '{self.pattern}' is neither 'unstructured' nor n:m such as '2:4'"
            )
        if kept and not 0 < int(kept[1]) < int(kept[2]) <= 32:
            raise ValueError(f"pattern '{self.pattern}' needs 0 < n < m <= 32")
        if kept and self.sparsity:
            raise ValueError(f"pattern '{self.pattern}' fixes the sparsity: leave 'sparsity' out")
        if self.solver is None:
            self._check_unpruned(bool(kept))
        elif not kept and not self.sparsity:
            raise ValueError("pattern 'unstructured' needs 'sparsity', such as 0.5 or [0.4, 0.5]")
        self._check_combinations(bool(kept))
        return self

    def _check_unpruned(self, n_of_m: bool) -> None:
        if self.quantize is None:
            raise ValueError("give 'solver', or 'quantize', or both")
        if n_of_m or self.sparsity:
            raise ValueError("'pattern' and 'sparsity' need a 'solver'")

    def _check_combinations(self, n_of_m: bool) -> None:
        if self.quantize and self.quantize.method == "joint" and self.solver != "sparsegpt":
            raise ValueError("quantize.method 'joint' is a part of solver 'sparsegpt'")
        if self.quantize and self.scope.lm_head:
            raise ValueError(
                "'quantize' leaves scope.lm_head out: vLLM loads a dense lm_head alone"
            )
        if self.solver == "structured" and (n_of_m or self.scope.lm_head or self.quantize):
            raise ValueError(
                "'structured' goes with 'sparsity' alone: no n:m, no scope.lm_head, no quantize"
            )
        if self.solver == "structured" and self.scope.blocks != "all":
            raise ValueError("'structured' narrows all blocks alike: leave scope.blocks out")

    @property
    def sparsity_asked(self) -> float:
        """The share of zeros, or of the width, that a single variant asks for."""
        if self.sparsity:
            return self.sparsity[0]
        if self.solver is None:
            return 0.0
        kept, of = map(int, self.pattern.split(":"))
        return (of - kept) / of

    @property
    def needs_hessian(self) -> bool:
        """Whether a calibration makes a difference to it."""
        rounded = self.quantize is None or self.quantize.method == "rtn"
        return not rounded or self.solver not in (None, "magnitude")


class Eval(Strict):
    """A benchmark: an lm-eval task, its problems, and how many samples of each."""

    task: str = Field(description="the name of an lm-eval task")
    dataset: Name
    samples: PositiveInt = 1
    max_new_tokens: PositiveInt = 32768
    batch: PositiveInt = Field(64, description="samples generated together, the unit of resume")
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

    cells: Annotated[list[Block], Field(min_length=1)]
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
                raise ValueError(f"{where}: '{name}' is not defined{_nearest(name, names)}")

        known("run", self.run, self.runs)
        for name, source in self.sources.items():
            known(f"sources.{name}.dataset", source.dataset, self.datasets)
            wanted = "documents" if source.kind == "text" else "problems"
            if self.datasets[source.dataset].kind != wanted:
                raise ValueError(
                    f"sources.{name}: kind '{source.kind}' needs a dataset of kind '{wanted}', "
                    f"and '{source.dataset}' holds {self.datasets[source.dataset].kind}"
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
        variants = self.variant_cells()
        for name, run in self.runs.items():
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
            self._check_held_out(name, run)
        return self

    def _check_held_out(self, name: str, run: Run) -> None:
        """What is measured on must not have been calibrated on: neither problems nor held-out rows."""
        seen = {
            self.sources[source].dataset: (calibration, source)
            for block in run.cells
            for calibration in block.calibrations
            for source in self.calibrations[calibration].sources(self.sources)
        }
        for entry in (entry for block in run.cells for entry in block.evals):
            dataset = self.evals[entry].dataset
            if dataset in seen:
                raise ValueError(
                    f"runs.{name}: eval '{entry}' asks dataset '{dataset}', which source "
                    f"'{seen[dataset][1]}' calibrates on"
                )
        for held in (run.heldout.thoughts, run.heldout.text) if run.heldout else ():
            if self.sources[held].dataset in seen:
                calibration, source = seen[self.sources[held].dataset]
                raise ValueError(
                    f"runs.{name}.heldout: calibration '{calibration}' uses source '{source}' or its "
                    "dataset, which are to be held out"
                )


def source_parts(kind: str) -> tuple[str, ...]:
    """The parts that a source's Hessians are stored in."""
    return {"text": ("text",), "prompts": ("prompt",), "traces": ("prompt", "decode")}[kind]


def _nearest(word: str, words: Any) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return (
        f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(sorted(words)) or 'none'}"
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
        message = f"unknown key{_nearest(str(location[-1]), model.model_fields if model else [])}"
    elif error["type"] == "literal_error":
        allowed = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        message = f"'{error['input']}' is not known{_nearest(str(error['input']), allowed)}"
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
