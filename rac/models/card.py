"""The README.md of a compressed checkpoint: what it is, how it was made, what not to expect."""

import importlib.metadata
import json

from rac import __version__
from rac.definitions import Calibration
from rac.linear import projection
from rac.variants import Variant

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- compressed
{tags}
---

# {model}, {title}

The dense model `{model}`{what}. Compressed are the linear layers of {scope}; all else is as it was.
It holds {parameters:,} parameters, {nonzero_parameters:,} of them not zero. It loads like the dense model:

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("PATH OF THIS FOLDER")
```

{promise} Whether it still solves what the dense model solves has to be measured; a low layer
error does not promise it.

## How it was made

- solver: {solver}, pattern `{pattern}`{options}
- calibration: {calibration}
{more}- dense weights: SHA-256 `{dense_sha256}`
- these weights: SHA-256 `{weights_sha256}`
- rac {version}, torch {torch}

## Errors

{errors}

| layer | rows | columns | zeros | relative error |
|---|---|---|---|---|
{rows}
"""


PROMISES = {
    "pruned": "**Zeros alone make it neither smaller on disk nor faster**: they are stored and multiplied\n"
    "like other numbers.",
    "structured": "It is a plain smaller dense model: smaller on disk, and less to multiply.",
    "quantized": "It is smaller on disk. It is faster only where an engine multiplies these numbers as they "
    "are\n(vLLM does); transformers turns them back into the dense dtype first.",
}


def write(record: dict, calibration: Calibration | None, variant: Variant) -> str:
    """The card of a checkpoint; the same checkpoint has the same card.

    Args:
        record: what compression.json holds.
        calibration: its definition; None where the solver uses none.
        variant: the solver's definition.
    """
    options = f", damping {variant.damping:g}, blocks of {variant.block} columns"
    rows = (
        f"| {layer['name']} | {layer['rows']} | {layer['columns']} | {layer['sparsity']:.2%} | "
        f"{_error(layer['relative_error'])} |"
        for layer in record["layers"]
    )
    return CARD.format_map(
        record
        | {
            "options": options if variant.solver == "sparsegpt" else "",
            "tags": "\n".join(f"- {tag}" for tag in _tags(variant)),
            "title": _title(record, variant),
            "what": _what(record, variant),
            "promise": PROMISES[_kind(variant)],
            "calibration": _calibration(record, calibration),
            "more": "".join(f"- {line}\n" for line in _more(record, variant)),
            "scope": _scope(record, variant),
            "version": __version__,
            "torch": importlib.metadata.version("torch"),
            "errors": _errors(record),
            "rows": "\n".join(rows),
        }
    )


def _kind(variant: Variant) -> str:
    if variant.quantize:
        return "quantized"
    return "structured" if variant.solver == "structured" else "pruned"


def _tags(variant: Variant) -> list[str]:
    """What a hub sorts models by."""
    pruned = [variant.solver, "pruned"] if variant.solver else []
    if variant.solver and variant.solver != "structured":
        pruned.append("sparse")
    return [*pruned, *([variant.quantize.scheme, "compressed-tensors"] if variant.quantize else [])]


def _title(record: dict, variant: Variant) -> str:
    parts = [f"{record['pattern']}, by {variant.solver}"] if variant.solver else []
    if variant.quantize:
        parts.append(f"{variant.quantize.scheme}, by {variant.quantize.method}")
    return ", ".join(parts)


def _what(record: dict, variant: Variant) -> str:
    share = f"{record['sparsity']:.2%} of the weights of its compressed layers"
    said = ""
    if variant.solver:
        removed = "removed" if variant.solver == "structured" else "set to zero"
        said = f" with {share} {removed}"
    if variant.quantize:
        said += f"{' and' if said else ' with'} the weights rounded to {variant.quantize.scheme}"
    return said


def _more(record: dict, variant: Variant) -> list[str]:
    """What is not as usual."""
    lines = []
    if variant.propagation == "sequential":
        lines.append("each block was solved by what the compressed blocks before it give")
    if variant.allocation:
        lines.append(f"shares of zeros differ between layers, by {variant.allocation.method}")
    if variant.reconstruct:
        gains = record["reconstruction"]
        before, after = (
            sum(part[key] for part in gains) / len(gains) for key in ("before", "after")
        )
        lines.append(
            "kept weights were fitted again to the outputs of attention and MLP: mean relative error "
            f"{after:.4g} instead of {before:.4g}"
        )
    if variant.quantize and variant.quantize.smooth:
        lines.append(
            f"activations were smoothed by SmoothQuant, strength {variant.quantize.smooth:g}"
        )
    return lines


def _error(error: float | None) -> str:
    return "–" if error is None else f"{error:.4g}"


def _scope(record: dict, variant: Variant) -> str:
    """What was compressed, by the layers that were: a width may have been left whole."""
    names = [layer["name"] for layer in record["layers"]]
    of_blocks = [name for name in names if any(part.isdigit() for part in name.split("."))]
    kinds = " and ".join(sorted({projection(name) for name in of_blocks}))
    blocks = variant.scope.blocks
    said = f"{kinds} in {'all decoder blocks' if blocks == 'all' else f'decoder blocks {blocks}'}"
    return said + (", and of the output embedding" if len(of_blocks) < len(names) else "")


def _calibration(record: dict, calibration: Calibration | None) -> str:
    if calibration is None:
        return "none; the solver looks at the weights alone"
    definition = json.dumps(calibration.model_dump(exclude_none=True))
    tokens = ", ".join(
        f"{n:,} tokens of `{key}`" for key, n in record["calibration_tokens"].items()
    )
    return f"`{record['calibration']}` = `{definition}`: {tokens}"


def _errors(record: dict) -> str:
    if record["relative_error"] is None:
        return "No relative errors: they need a calibration."
    lines = [
        "The relative error of a layer is the share of its output's energy that is lost on the "
        f"calibration tokens; the mean over layers is {record['relative_error']:.4g}."
    ]
    return "\n".join(lines + [f"- warning: {warning}" for warning in record["warnings"]])
