"""Stage `compress`: a dense checkpoint and Hessians in, a compressed checkpoint out.

It works on stored tensors, one block at a time. The model is run only where a variant asks for it: a search
for shares of zeros, a fit of kept weights, or Hessians of compressed blocks.
"""

import itertools
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from rac import allocation, blocks, compress_block, hessians, linear, propagation
from rac.artifacts import atomic_folder, read_json, sha256_file, write_json, write_text
from rac.calibration import Part, token_weights, weigh
from rac.compress_block import Changed
from rac.definitions import Calibration
from rac.errors import RacError, one_line
from rac.models import card, checkpoint, narrow, weights
from rac.progress import progress
from rac.propagation import Arrived
from rac.provenance import hashes, provenance, write_record
from rac.variants import Quantize, Variant

COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
CARD = "README.md"
MADE_ANEW = (*checkpoint.RECORDS, checkpoint.INDEX)


def compress(
    model: Path,
    stored: dict[str, Path],
    calibration: Calibration | None,
    variant: Variant,
    pattern: str,
    names: dict[str, str],
    output: Path,
    sequences: Mapping[str, Path] | None = None,
    dtype: str = "float32",
    spill: Path | None = None,
    code: str | None = None,
) -> None:
    """Compress the linear layers of a model's decoder blocks, and write a Hugging Face folder.

    Weights are solved for in float32 and stored in the dtype they came in, which errors are of.

    Args:
        model: folder of the dense model, made by the `model` stage.
        stored: source → folder of its Hessians; empty where none are read.
        calibration: how to add them up; None for magnitude.
        variant: the solver and its options.
        pattern: as `rac.solve` takes it.
        names: `model`, `calibration` and `variant`, for the record.
        output: folder to write, with compression.json and a model card.
        sequences: source → its sequences.safetensors, for variants that run them through the model.
        dtype: what the model runs in then.
        spill: a folder of a disk for hidden states to wait on then; in memory without.
        code: fingerprint of the code, for the record.

    Raises:
        RacError: an input is missing, damaged or does not fit, or a layer has no solution.
    """
    start = time.perf_counter()
    sequences = sequences or {}
    checkpoint.check(model)
    dense_sha256 = checkpoint.identity(model)
    groups = read_json(model / "model.json").get("linear_groups")
    if not groups:
        raise RacError(
            f"{model}/model.json has no 'linear_groups'; delete the folder to have it made again"
        )
    try:
        scoped = linear.in_scope(groups, variant.scope)
    except ValueError as error:
        raise RacError(f"{model}: {error}") from None
    terms: list[hessians.Term] = []
    parts: dict[str, list[Part]] = {}
    if calibration and variant.needs_stored:
        by_key = hessians.terms(calibration, stored, dense_sha256)
        terms = list(itertools.chain.from_iterable(by_key.values()))
        parts = {key: [term.of for term in of_key] for key, of_key in by_key.items()}
    elif calibration:
        parts = weigh(calibration, propagation.tokens(sequences))
    of_tokens = token_weights(itertools.chain.from_iterable(parts.values()))
    config = read_json(model / "config.json")
    widths: narrow.Widths | None = None
    unchanged: list[str] = []
    if variant.solver == "structured":
        widths, unchanged = _widths(config, variant)
    located = weights.locate(model)
    for name in sorted(_names(scoped)):
        if f"{name}.weight" not in located:
            raise RacError(
                f"{model}: no file holds {name}.weight, which model.json lists; if one does by an older "
                "name, save it again by transformers' save_pretrained(folder, save_original_format=False)"
            )
    walked = {}
    if variant.needs_sequences:
        walked = {name: compress_block.sequences_of(name, sequences) for name, _ in of_tokens}

    patterns = {name: pattern for group in scoped for name in group["layers"]}
    said: dict | None = None  # of the shares of zeros

    def write(batch_tokens: int | None = None) -> None:
        nonlocal patterns, said

        def walk() -> Iterator[dict[str, Arrived]]:
            return propagation.walk(model, dtype, walked, batch_tokens, spill)

        def solved() -> Iterator[Changed]:
            for inputs in compress_block.inputs(scoped, terms, of_tokens, variant, walk):
                if widths:
                    block = compress_block.narrow_all(
                        model, located, inputs, variant, config, widths
                    )
                else:
                    block = compress_block.solve(model, located, inputs, variant, patterns, groups)
                for layer in block.layers:
                    warnings.extend(layer.pop("warnings"))
                    found.append(layer)
                fitted.extend(block.fitted)
                removed.append(block.removed)
                done(len(block.layers))
                yield block.changed

        found: list[dict] = []
        warnings = list(unchanged)
        fitted: list[dict] = []
        removed: list[tuple[int, int]] = []
        with atomic_folder(output) as folder:
            if variant.allocation and said is None:  # once, however often memory is short later
                try:
                    patterns, said = _allocate(
                        model, located, scoped, terms, variant, sequences, dtype, folder
                    )
                except torch.OutOfMemoryError as error:  # no fewer tokens at once would help
                    raise RacError(f"memory is short for 'allocation': {one_line(error)}") from None
            _copy(model, folder)
            with progress("compress", len(_names(scoped)), "layers") as done:
                done(0)  # a block is a step
                weights.rewrite(model, folder, solved())
            stored_config = narrow.narrowed(config, widths) if widths else config
            if widths:
                write_json(folder / "config.json", stored_config)
            if variant.quantize:
                dense = _names(groups) - _names(scoped)
                _write_quantized_config(folder, stored_config, variant.quantize, sorted(dense))
            of_files = hashes(folder)
            record = {
                **names,
                "solver": variant.solver or "none",
                "pattern": pattern,
                "quantization": variant.quantize.model_dump() if variant.quantize else None,
                "scope": variant.scope.model_dump(),
                "propagation": variant.propagation,
                "batch_tokens": batch_tokens,
                "allocation": said,
                "reconstruction": fitted or None,
                "sparsity_asked": variant.sparsity_asked,
                **_totals(found),
                "calibration_tokens": {
                    key: sum(part.tokens for part in of_key) for key, of_key in parts.items()
                },
                **_sizes(model, folder, found, removed, variant),
                "dense_sha256": dense_sha256,
                "weights_sha256": weights.identity(folder, of_files["sha256"]),
                "warnings": warnings,
                "seconds": time.perf_counter() - start,
            }
            made = provenance(
                "compress",
                code,
                model=dense_sha256,
                dtype=dtype,
                variant=variant.model_dump(mode="json"),
                calibration=calibration.model_dump(mode="json") if calibration else None,
                hessians={name: sha256_file(path / "index.json") for name, path in stored.items()},
                sequences={name: sha256_file(path) for name, path in (sequences or {}).items()},
            )
            write_text(folder / CARD, card.write(record, calibration, variant))
            of_files["sha256"] |= hashes(folder, CARD)["sha256"]
            write_record(folder / "compression.json", record | of_files | made)

    if walked:
        blocks.within_memory(write, None, propagation.longest(walked))
    else:
        write()


def _copy(model: Path, folder: Path) -> None:
    """Copy what makes the folder a model, the weights apart."""
    for file in sorted({file for kind in COPIED for file in model.glob(kind)}):
        if file.name not in MADE_ANEW:
            shutil.copyfile(file, folder / file.name)


def _names(groups: list[dict]) -> set[str]:
    """All the layers of groups."""
    return {name for group in groups for name in group["layers"]}


def _write_quantized_config(folder: Path, config: dict, asked: Quantize, ignore: list[str]) -> None:
    """config.json of the dense model, with how the layers that are not ignored are stored."""
    from rac.models import quantized

    said = quantized.quantization_config(asked.scheme, asked.group, ignore)
    write_json(folder / "config.json", config | {"quantization_config": said})


def _widths(config: dict, variant: Variant) -> tuple[narrow.Widths, list[str]]:
    """The widths that a structured variant leaves, and warnings of what it should narrow and does not."""
    asked = variant.sparsity_asked, variant.scope.projections, variant.multiple
    try:
        widths = narrow.widths(config, *asked)
    except ValueError as error:
        raise RacError(f"solver structured: {error}") from None
    return widths, narrow.kept_whole(config, widths, *asked)


def _allocate(
    model: Path,
    located: Mapping[str, Path],
    scoped: list[dict],
    terms: list[hessians.Term],
    variant: Variant,
    sequences: Mapping[str, Path],
    dtype: str,
    scratch: Path,
) -> tuple[dict[str, str], dict]:
    """A pattern for each layer, and what the record says of how they were found."""
    asked, target = variant.allocation, variant.sparsity_asked
    assert asked
    if asked.source is None:
        return allocation.by_owl(model, located, scoped, terms, target)
    traces = compress_block.sequences_of(asked.source, sequences)
    return allocation.by_evopress(
        model, located, scoped, terms, target, variant, asked, traces, dtype, scratch
    )


def _sizes(
    model: Path,
    folder: Path,
    layers: list[dict],
    removed: list[tuple[int, int]],
    variant: Variant,
) -> dict:
    """Parameters, those that are not zero, and bytes; packed ones are counted as numbers."""
    if not variant.quantize:
        return weights.size(folder)
    dense = weights.size(model)
    gone, nonzero = (sum(counts) for counts in zip(*removed, strict=True))
    zeroed = sum(layer["zeroed"] for layer in layers)
    return dense | {
        "parameters": dense["parameters"] - gone,
        "nonzero_parameters": dense["nonzero_parameters"] - nonzero - zeroed,
        "bytes_on_disk": weights.bytes_on_disk(folder),
    }


def _totals(layers: list[dict]) -> dict:
    """Share of zeros over all the layers' weights, the layers, and the mean of their errors."""
    sizes = [layer["rows"] * layer["columns"] for layer in layers]
    zeros = sum(layer["sparsity"] * size for layer, size in zip(layers, sizes, strict=True))
    errors = [layer["relative_error"] for layer in layers if layer["relative_error"] is not None]
    return {
        "sparsity": zeros / sum(sizes),
        "layers": layers,
        "relative_error": sum(errors) / len(errors) if errors else None,
    }
