"""A narrower model: the dense architecture, with fewer MLP neurons and attention groups in each block.

An attention group is a key-value head with the query heads that share it. All blocks get the same
widths, so the result is a plain smaller model: other numbers in config.json, smaller tensors of the
same names.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import torch

from rac import solvers
from rac.solvers import structured

# Checked to compute the same with fewer heads and an explicit head_dim.
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


class Widths(NamedTuple):
    """What every block keeps; None is all, where a kind is not asked for or too small to share out."""

    mlp: int | None  # neurons
    kv_heads: int | None  # key-value heads, each with its query heads


class Narrowed(NamedTuple):
    """What takes the place of a block's tensors."""

    tensors: dict[str, torch.Tensor]  # by the stored tensors' names, in their dtypes, on the CPU
    layers: list[dict]  # an entry a changed layer, as compression.json has them, with `warnings`
    columns: dict[str, torch.Tensor]  # of the layers that lost some: those that are kept
    floors: dict[str, float]  # of these, the errors of keeping the columns of largest norm
    removed: tuple[int, int]  # numbers that went, and how many of them were not zero


class _Shape(NamedTuple):
    hidden: int
    neurons: int
    heads: int
    kv_heads: int
    head_dim: int


def widths(config: dict, share: float, projections: str, multiple: int) -> Widths:
    """The widths that remain when a share of neurons and attention groups is removed.

    Neurons are rounded to the nearest multiple, at least one and fewer than there were. Of groups at
    most the share goes, rounded down. A Llama's heads must divide its hidden size, or transformers
    refuses the configuration: then as many groups go as are allowed.

    Args:
        config: config.json of the dense model.
        share: to remove, above 0 and below 1.
        projections: `all`, `mlp` or `attention`.
        multiple: of neurons kept.

    Raises:
        ValueError: the architecture is not known, or nothing would be removed.
    """
    shape = _shape(config)
    kept = 1 - Fraction(str(share))  # exact: as a float, 0.29 of 100 would be 28
    mlp = kv_heads = None
    if projections != "attention" and shape.neurons > multiple:
        nearest = math.floor(kept * shape.neurons / multiple + Fraction(1, 2))
        mlp = min(max(nearest, 1), (shape.neurons - 1) // multiple) * multiple
    if projections != "mlp":
        allowed = (
            number
            for number in range(math.ceil(kept * shape.kv_heads), shape.kv_heads)
            if config["model_type"] != "llama" or not shape.hidden % (number * _queries(shape))
        )
        kv_heads = next(allowed, None)
    if mlp is None and kv_heads is None:
        asked = " or ".join(_kept_whole(shape, Widths(None, None), projections, multiple))
        raise ValueError(f"structured {share:g} of {asked} removes nothing: ask for a larger share")
    return Widths(mlp, kv_heads)


def kept_whole(
    config: dict, widths: Widths, share: float, projections: str, multiple: int
) -> list[str]:
    """A warning for each kind that was asked for and that `widths` leaves as it is; arguments as there."""
    kept = _kept_whole(_shape(config), widths, projections, multiple)
    return [f"structured {share:g} of {what} removes nothing: all are kept" for what in kept]


def _kept_whole(shape: _Shape, widths: Widths, projections: str, multiple: int) -> list[str]:
    whole = {
        "mlp": (widths.mlp, f"{shape.neurons} neurons in multiples of {multiple}"),
        "attention": (widths.kv_heads, f"{shape.kv_heads} attention groups"),
    }
    return [
        what
        for kind, (width, what) in whole.items()
        if width is None and projections in ("all", kind)
    ]


def narrowed(config: dict, widths: Widths) -> dict:
    """The config.json of the narrower model.

    The size of a head stays, and is said, because it no longer is hidden size / heads. vLLM's own
    Qwen2 would not listen (as of 0.32), so there it is told to run transformers' implementation.
    """
    shape, config = _shape(config), dict(config)
    if widths.mlp is not None:
        config["intermediate_size"] = widths.mlp
    if widths.kv_heads is not None:
        config["num_attention_heads"] = widths.kv_heads * _queries(shape)
        config["num_key_value_heads"] = widths.kv_heads
        config["head_dim"] = shape.head_dim
        if config["model_type"] == "qwen2":
            config["architectures"] = ["TransformersForCausalLM"]
    return config


def block(
    read: Callable[[str], torch.Tensor | None],
    layers: list[str],
    hessians: dict[str, torch.Tensor],
    config: dict,
    widths: Widths,
    *,
    damping: float = 0.01,
) -> Narrowed:
    """Narrow one decoder block.

    The Hessian of the layer that a width goes into (`down_proj`, `o_proj`) decides what goes, and that
    layer is re-fitted. The layers that make the width (`gate_proj` and `up_proj`; `q_proj`, `k_proj` and
    `v_proj`) lose the rows of what went, and their biases the entries.

    Args:
        read: a stored tensor by its name, None if there is none.
        layers: names of the block's linear layers, as in model.json.
        hessians: Σ x xᵀ by layer name, of `down_proj` and `o_proj` as far as they change.
        config: config.json of the dense model.
        widths: from `widths`.
        damping: as in `structured.prepare`.

    Raises:
        ValueError: a layer, tensor or Hessian is missing or does not fit, or there is no solution.
    """
    tensors: dict[str, torch.Tensor] = {}
    columns: dict[str, torch.Tensor] = {}
    floors: dict[str, float] = {}
    entries = []
    removed = [0, 0]

    def replace(name: str, before: torch.Tensor, after: torch.Tensor) -> None:
        tensors[name] = after
        removed[0] += before.numel() - after.numel()
        removed[1] += int(before.count_nonzero()) - int(after.count_nonzero())

    for part in _parts(_shape(config), widths):
        name = _name(layers, part.output)
        dense = _weight(read, name, part.units * part.unit, dim=1)
        if name not in hessians:
            raise ValueError(f"there is no Hessian of {name}")
        try:
            kept, weight, solved, floors[name] = _solve(name, dense, hessians[name], part, damping)
        except ValueError as error:
            raise ValueError(f"layer {name}: {error}") from None
        for projection, rows in part.inputs.items():
            layer = _name(layers, projection)
            whole = _weight(read, layer, part.units * rows, dim=0)
            places = _places(kept, rows)
            replace(f"{layer}.weight", whole, whole[places])
            bias = read(f"{layer}.bias")
            if bias is not None:
                replace(f"{layer}.bias", bias, bias[places])
            entries.append(_entry(layer, whole, whole[places]))
        replace(f"{name}.weight", dense, weight)
        columns[name] = _places(kept, part.unit)
        entries.append(_entry(name, dense, weight) | solved)
    return Narrowed(tensors, entries, columns, floors, (removed[0], removed[1]))


class _Part(NamedTuple):
    """Layers that lose the same units."""

    output: str  # the projection that loses columns
    unit: int  # so many a unit
    inputs: dict[str, int]  # the projections that lose rows: so many a unit
    units: int
    keep: int


def _parts(shape: _Shape, widths: Widths) -> list[_Part]:
    parts = []
    if widths.kv_heads is not None:
        queries, own = _queries(shape) * shape.head_dim, shape.head_dim
        inputs = {"q_proj": queries, "k_proj": own, "v_proj": own}
        parts.append(_Part("o_proj", queries, inputs, shape.kv_heads, widths.kv_heads))
    if widths.mlp is not None:
        inputs = {"gate_proj": 1, "up_proj": 1}
        parts.append(_Part("down_proj", 1, inputs, shape.neurons, widths.mlp))
    return parts


def _solve(
    name: str, dense: torch.Tensor, hessian: torch.Tensor, part: _Part, damping: float
) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any], float]:
    """The units kept, the weight in the dense dtype, what compression.json says of them, and the floor."""
    full = dense.to(hessian.device, torch.float32)
    prepared = structured.prepare(hessian, damping=damping)
    kept, refitted, damping = structured.remove(full, prepared, part.unit, part.keep)
    weight = refitted.to(dense.dtype)
    if not weight.isfinite().all():
        raise ValueError(f"the re-fitted weight does not fit in {dense.dtype}")
    whole = torch.zeros_like(full).index_copy(1, _places(kept, part.unit), weight.float())
    energy = solvers.energy(full, hessian)
    error = solvers.lost_share(full, whole, hessian, energy)
    largest = structured.by_magnitude(full, part.unit, part.keep)
    floor = solvers.lost_share(full, full * largest, hessian, energy)
    warnings = above_floor(name, error, floor)
    stated = error if math.isfinite(error) else None
    solved = {"relative_error": stated, "damping": damping, "warnings": warnings}
    return kept.cpu(), weight.cpu(), solved, floor


def above_floor(name: str, error: float, floor: float) -> list[str]:
    """A warning where keeping the columns of largest norm would do better than what a layer lost."""
    if error <= floor:
        return []
    return [
        f"{name}: relative error {error:.4g} is above that of keeping the columns of largest norm, "
        f"{floor:.4g}"
    ]


def _entry(name: str, dense: torch.Tensor, weight: torch.Tensor) -> dict[str, Any]:
    return {
        "name": name,
        "rows": dense.shape[0],
        "columns": dense.shape[1],
        "kept_rows": weight.shape[0],
        "kept_columns": weight.shape[1],
        "relative_error": None,
        "damping": None,
        "warnings": [],
    }


def _places(kept: torch.Tensor, unit: int) -> torch.Tensor:
    """Units as the places of their entries: [keep] → [keep · unit]."""
    return (kept[:, None] * unit + torch.arange(unit, device=kept.device)).flatten()


def _name(layers: list[str], projection: str) -> str:
    found = [name for name in layers if name.rpartition(".")[2] == projection]
    if len(found) != 1:
        raise ValueError(f"a block has {len(found)} layers {projection}, not one: {layers}")
    return found[0]


def _weight(
    read: Callable[[str], torch.Tensor | None], name: str, size: int, dim: int
) -> torch.Tensor:
    weight = read(f"{name}.weight")
    if weight is None or weight.ndim != 2 or weight.shape[dim] != size:
        found = "missing" if weight is None else list(weight.shape)
        raise ValueError(
            f"{name}.weight is {found}; config.json says {('rows', 'columns')[dim]} {size}"
        )
    return weight


def _shape(config: dict) -> _Shape:
    """The sizes in config.json.

    Raises:
        ValueError: the architecture is not one that can be narrowed.
    """
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise ValueError(
            f"model_type '{kind}' cannot be narrowed; known are {', '.join(MODEL_TYPES)}"
        )
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    return _Shape(hidden, config["intermediate_size"], heads, kv_heads, head_dim)


def _queries(shape: _Shape) -> int:
    return shape.heads // shape.kv_heads
