"""The README.md of a compressed checkpoint: what it is, how it was made, what not to expect."""

import importlib.metadata
import json

from rac import __version__
from rac.config import Calibration, Variant

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- compressed
- pruned
- sparse
- {solver}
---

# {model}, {pattern}, by {solver}

The dense model `{model}` with {sparsity:.2%} of the weights of its compressed layers set to
zero ({nonzero_parameters:,} of {parameters:,} stored parameters are not zero). Compressed
are the linear layers of {scope}; all else is as it was. It loads like the dense model:

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("PATH OF THIS FOLDER")
```

**Zeros alone make it neither smaller on disk nor faster**: they are stored and multiplied like
other numbers. Whether it still solves what the dense model solves has to be measured; a low layer
error does not promise it.

## How it was made

- solver: {solver}, pattern `{pattern}`{options}
- calibration: {calibration}
- dense weights: SHA-256 `{dense_sha256}`
- these weights: SHA-256 `{weights_sha256}`
- rac {version}, torch {torch}

## Errors

{errors}

| layer | rows | columns | zeros | relative error |
|---|---|---|---|---|
{rows}
"""


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
            "calibration": _calibration(record, calibration),
            "scope": _scope(variant),
            "version": __version__,
            "torch": importlib.metadata.version("torch"),
            "errors": _errors(record),
            "rows": "\n".join(rows),
        }
    )


def _error(error: float | None) -> str:
    return "–" if error is None else f"{error:.4g}"


def _scope(variant: Variant) -> str:
    blocks, projections = variant.scope.blocks, variant.scope.projections
    kind = "attention and mlp" if projections == "all" else projections
    return f"{kind} in {'all decoder blocks' if blocks == 'all' else f'decoder blocks {blocks}'}"


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
