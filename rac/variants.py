"""What config.yaml may say of a variant: what is done to the weights of a model."""

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rac.schema import Name, PositiveInt, Share, Strict, nearest


class Scope(Strict):
    """Which linear layers are compressed; the others stay dense."""

    blocks: str = Field(
        "all",
        description="`all`, `first-third`, `middle-third`, `last-third`, or a range such as `0-11`",
    )
    projections: Literal["all", "attention", "mlp"] = Field("all", description="of a block")
    lm_head: bool = Field(False, description="the output embedding too, where it is not tied")

    @model_validator(mode="after")
    def _check(self) -> Self:
        span = re.fullmatch(r"(\d+)-(\d+)", self.blocks)
        thirds = ["first-third", "middle-third", "last-third"]
        if not span and self.blocks not in ["all", *thirds]:
            near = nearest(self.blocks, ["all", *thirds])
            raise ValueError(f"'{self.blocks}' is not known, nor a range such as '0-11'{near}")
        if span and int(span[1]) > int(span[2]):
            raise ValueError(f"'{self.blocks}' is an empty range")
        return self


class Quantize(Strict):
    """Fewer bits for the weights of the layers in scope, after pruning if there is any."""

    scheme: Literal["w4a16", "w8a8", "fp8"] = Field(
        description="bits of weights and activations; fp8: 8 of both, as floats"
    )
    method: Literal["gptq", "rtn", "joint"] = Field(
        "gptq",
        description="`gptq`, `rtn` (round to nearest), or `joint`: in sparsegpt's own column loop",
    )
    group: PositiveInt = Field(128, description="w4a16: columns of a row that share a scale")
    smooth: float | None = Field(
        None,
        gt=0,
        le=1,
        description="w8a8, fp8: strength of SmoothQuant, such as 0.8; none if left out",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.smooth and self.scheme == "w4a16":
            raise ValueError("'smooth' is for schemes that round activations: w8a8 and fp8")
        return self


class Allocation(Strict):
    """Which layers get more zeros and which fewer, at the same total."""

    method: Literal["owl", "evopress"] = Field(
        description="`owl`: by outliers of a block; `evopress`: a search over layers"
    )
    source: Name | None = Field(
        None, description="evopress: traces that the divergence from the dense model is taken on"
    )
    sequences: PositiveInt = Field(16, description="evopress: how many of its traces, the first")
    step: Share = Field(0.05, description="evopress: from one level of sparsity to the next")
    generations: PositiveInt = Field(60, description="evopress: of the search")
    seed: int = Field(0, description="evopress: of the search")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.method == "evopress") != (self.source is not None):
            raise ValueError("'source' (of traces) goes with method 'evopress', and it alone")
        return self


class Reconstruct(Strict):
    """Kept weights fitted again, so that attention and MLP give what the dense ones give."""

    steps: PositiveInt = Field(200, description="of Adam, one batch of sequences each")
    learning_rate: float = Field(
        0.0003, gt=0, le=1e6, description="at the start; it falls linearly to 0"
    )


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
    allocation: Allocation | None = Field(
        None, description="unstructured: shares of zeros by layer; uniform if left out"
    )
    reconstruct: Reconstruct | None = Field(
        None, description="a fit of the kept weights, block by block; none if left out"
    )
    propagation: Literal["dense", "sequential"] = Field(
        "dense",
        description="what a block's Hessians are of: the dense model, or the compressed blocks before it",
    )
    quantize: Quantize | None = Field(None, description="fewer bits; none if left out")
    scope: Scope = Field(Scope(), description="layers that are compressed")
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

    @field_validator("pattern", mode="before")
    @classmethod
    def _is_no_time(cls, value: Any) -> Any:
        if isinstance(value, int):
            raise ValueError("write it in quotes, '2:4': YAML reads 2:4 as minutes and seconds")
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
        if self.solver == "structured" and (n_of_m or self.scope.lm_head):
            raise ValueError("'structured' goes with 'sparsity': no n:m, no scope.lm_head")
        if self.solver == "structured" and self.quantize and self.quantize.smooth:
            raise ValueError("'structured' goes without quantize.smooth")
        if self.solver == "structured" and self.scope.blocks != "all":
            raise ValueError("'structured' narrows all blocks alike: leave scope.blocks out")
        by_hessian = self.solver in ("wanda", "sparsegpt", "alps")
        if self.allocation and (not by_hessian or n_of_m or self.scope.lm_head):
            raise ValueError(
                "'allocation' goes with pattern 'unstructured' of wanda, sparsegpt and alps, "
                "without scope.lm_head"
            )
        if self.reconstruct and (
            self.solver in (None, "structured") or self.quantize or self.scope.lm_head
        ):
            raise ValueError(
                "'reconstruct' needs a solver that makes zeros, no 'quantize' and no scope.lm_head"
            )
        if self.propagation == "sequential" and (
            self.solver == "structured" or not self.needs_hessian
        ):
            raise ValueError(
                "propagation 'sequential' is for solvers that take a Hessian, other than structured"
            )

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
        by_hessian = self.quantize and (self.quantize.method != "rtn" or self.quantize.smooth)
        pruned_by_hessian = self.solver not in (None, "magnitude")
        return bool(by_hessian or self.reconstruct or pruned_by_hessian)

    @property
    def allocation_source(self) -> str | None:
        """The source of traces that its shares of zeros are searched on."""
        return self.allocation.source if self.allocation else None

    @property
    def needs_sequences(self) -> bool:
        """Whether the calibration's sequences are run again, beside its Hessians."""
        return self.reconstruct is not None or self.propagation == "sequential"

    @property
    def needs_stored(self) -> bool:
        """Whether a calibration's stored Hessians are read; sequential ones are made on the way."""
        return self.propagation == "dense" or self.allocation is not None
