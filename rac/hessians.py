"""Stage `hessians`: accumulate H = Σ x xᵀ, store it, and combine stored ones into a calibration.

Sums over tokens add, so every source's Hessians are stored once, in parts (prompt, decode, text),
and a calibration is a weighted sum of parts: no forward pass for a new mixture. For the same reason a
source may be cut into shards, and the Hessians of its shards added.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rac import blocks, linear, sources
from rac.artifacts import atomic_folder, read_json, sha256_file, sha256_files
from rac.calibration import Part, weigh
from rac.definitions import Calibration, source_parts
from rac.errors import RacError
from rac.inputs import Inputs, count_tokens, sum_inputs
from rac.models import checkpoint
from rac.models.skeleton import skeleton
from rac.progress import progress
from rac.provenance import changed, hashes, is_whole, provenance, write_record

# ---- accumulate and store


def accumulate(
    model: Path,
    sequences: Path,
    dtype: str,
    output: Path,
    batch_tokens: int | None = None,
    shard: tuple[int, int] = (0, 1),
    spill: Path | None = None,
) -> None:
    """Run the dense model over a source, block by block, and store the Hessian of every group.

    Stored are, for each group and part, `{group}/{part}`, Σ x xᵀ, and `{group}/{part}.absmax`, the
    largest |x| of each column. In memory are one block, its sums (4 × columns² bytes a group and
    part), one batch, and every sequence's hidden states on their way to the next block.

    Args:
        model: folder of the dense model, made by the `model` stage.
        sequences: the source's sequences.safetensors.
        dtype: the model's (float32, bfloat16, float16); Hessians are float32.
        output: folder to write: layer-000.safetensors … (one a block, the last of the output
            embedding) and index.json.
        batch_tokens: how many tokens, padding included, are run together; by default what suits the
            device, `rac.blocks.BATCH_TOKENS`. Halved where memory turns out to be short.
        shard: (i, n): only sequences i, i + n, i + 2n, …; `add` makes the whole of all n.
        spill: a folder of a disk for hidden states to wait on; in memory without.

    Raises:
        RacError: an input is missing, damaged or of another model, an activation is not finite, or
            the source has fewer sequences than shards.
    """
    checkpoint.check(model)
    metadata = sources.metadata_for(sequences, model)
    number, count = shard
    read = sources.read(sequences)
    if not 0 <= number < count or len(read) < count:
        raise RacError(
            f"{sequences} has {len(read)} sequences: no shard {number} of {count}; lower the source's "
            f"'shards' to {len(read)} or fewer"
        )
    read = read[number::count]
    groups = linear.groups(skeleton(model, dtype))
    parts = source_parts(metadata["kind"])
    index = {
        "model": metadata["model"],
        "sequences": sha256_file(sequences),
        "kind": metadata["kind"],
        "dtype": dtype,
        "shard": [number, count],
        "parts": {part: {"tokens": n} for part, n in count_tokens(read, parts).items()},
        "groups": [{**group, "file": _file_of(group["block"])} for group in groups],
    }
    longest = max(len(sequence.token_ids) for sequence in read)

    def store(tokens: int) -> None:
        with atomic_folder(output) as folder:
            _walk(model, dtype, read, tokens, spill, groups, parts, folder)
            _save_index(folder, index | {"batch_tokens": tokens})

    blocks.within_memory(store, batch_tokens, longest)


def _walk(
    model: Path,
    dtype: str,
    read: list[sources.Sequence],
    batch_tokens: int,
    spill: Path | None,
    groups: list[dict],
    parts: tuple[str, ...],
    folder: Path,
) -> None:
    """Write the layer files of all blocks to `folder`."""
    total, done = sum(len(sequence.token_ids) for sequence in read), 0
    steps = groups[-1]["block"] + 1
    with progress("hessians", total) as advance:

        def passed(tokens):  # through one block of several
            nonlocal done
            advance((done + tokens) // steps - done // steps)
            done += tokens

        for step in blocks.walk(model, dtype, read, batch_tokens, spill):
            of_block = [group for group in groups if group["block"] == step.index]
            inputs = sum_inputs(step, of_block, read, parts, advance=passed)
            for name, _ in (key for key, x in inputs.items() if not x.is_finite()):
                raise RacError(f"{name} of {model} gets activations that are not finite in {dtype}")
            _save(folder, step.index, inputs)
            del inputs  # before the next block's


def add(folders: list[Path], output: Path) -> None:
    """Add the Hessians of all shards of a source; the order of `folders` does not matter.

    Raises:
        RacError: a folder is damaged or of another source, model or dtype than the first, or a shard
            is missing or there twice.
    """
    indexes = {Path(folder): _read_index(folder) for folder in folders}
    first, one = next(iter(indexes.items()))
    for folder, index in indexes.items():
        for key in ("model", "sequences", "kind", "dtype", "groups"):
            if index[key] != one[key]:
                raise RacError(f"{folder} and {first} are no shards of one whole: other {key}")
    numbers = sorted(tuple(index["shard"]) for index in indexes.values())
    count = one["shard"][1]
    if len(folders) != len(indexes) or numbers != [(i, count) for i in range(count)]:
        given = ", ".join(f"{i} of {n}" for i, n in numbers)
        raise RacError(f"all {count} shards are to be added, each once; given: {given}")
    in_order = sorted(indexes.items(), key=lambda item: item[1]["shard"])
    parts: dict[str, list[Term]] = {
        part: [
            Term(Part("", part, 1, index["parts"][part]["tokens"]), folder, index)
            for folder, index in in_order
        ]
        for part in one["parts"]
    }
    with atomic_folder(output) as folder:
        stored = itertools.chain.from_iterable(parts.values())
        for block in checked(stored, sorted({group["block"] for group in one["groups"]})):
            inputs = {}
            for part, terms in parts.items():
                absmax = combine_absmax(terms, block)
                for name, hessian in combine(terms, block).items():
                    inputs[name, part] = Inputs(hessian, absmax[name])
            _save(folder, block, inputs)
        tokens = {
            part: {"tokens": sum(t.of.tokens for t in terms)} for part, terms in parts.items()
        }
        shards = [sha256_file(of / "index.json") for of, _ in in_order]
        least = min(index["batch_tokens"] for index in indexes.values())
        whole = {"shard": [0, 1], "parts": tokens, "batch_tokens": least}
        _save_index(folder, one | whole, shards)


def _file_of(block: int) -> str:
    return f"layer-{block:03d}.safetensors"


def _save(folder: Path, block: int, inputs: dict[tuple[str, str], Inputs]) -> None:
    tensors = {}
    for (name, part), x in inputs.items():
        tensors[f"{name}/{part}"] = x.hessian.cpu()
        tensors[f"{name}/{part}.absmax"] = x.absmax.cpu()
    save_file(tensors, folder / _file_of(block))


def _save_index(folder: Path, index: dict, shards: list[str] | None = None) -> None:
    inputs = {key: index[key] for key in ("model", "sequences", "dtype", "batch_tokens")}
    made = provenance("hessians", **inputs, shards=shards)
    write_record(folder / "index.json", index | hashes(folder) | made)


# ---- read and combine


class Term(NamedTuple):
    """The stored sums of a part of a source."""

    of: Part
    folder: Path
    header: dict  # its index.json


def terms(calibration: Calibration, folders: dict[str, Path], model: str) -> dict[str, list[Term]]:
    """The stored sums that a calibration adds up, as `rac.calibration.weigh`.

    Args:
        calibration: its definition.
        folders: source → folder of its stored Hessians.
        model: weights_sha256 of the model that they must be of.

    Raises:
        RacError: a source or part is missing, damaged, of another model or over other layers.
    """
    indexes = {source: _whole_index(folder, model) for source, folder in folders.items()}
    tokens = {
        source: {part: said["tokens"] for part, said in index["parts"].items()}
        for source, index in indexes.items()
    }
    found = {
        key: [Term(part, folders[part.source], indexes[part.source]) for part in parts]
        for key, parts in weigh(calibration, tokens).items()
    }
    first = next(iter(found.values()))[0]
    for term in (term for of_key in found.values() for term in of_key):
        if term.header["groups"] != first.header["groups"]:
            raise RacError(f"{term.folder} and {first.folder} hold Hessians of different layers")
    return found


def _whole_index(folder: Path, model: str) -> dict:
    """The index of a source's Hessians, all of them and of this model."""
    index = _read_index(folder)
    if index["model"] != model:
        raise RacError(
            f"{folder}/index.json: these Hessians are of another model; delete the folder"
        )
    if index["shard"] != [0, 1]:
        number, count = index["shard"]
        raise RacError(f"{folder} is shard {number} of {count}: add up all of them first")
    return index


def checked(of_calibrations: Iterable[Term], blocks: Iterable[int]) -> Iterator[int]:
    """Each block, when all that is stored of it is found to be what was written; then `combine` may read it.

    The next ones' files are hashed by other threads meanwhile: SHA-256 takes longer than a solve on a GPU.

    Args:
        of_calibrations: of `terms`; of several calibrations, whose files are hashed once.
        blocks: their numbers, in the order in which they are read.

    Raises:
        RacError: a file is missing, or its hash is not what its index says.
    """
    headers = {term.folder: term.header for term in of_calibrations}
    blocks = list(blocks)
    hashed = sha256_files(folder / _file_of(block) for block in blocks for folder in headers)
    for block in blocks:
        for folder, header in headers.items():
            try:
                file, digest = next(hashed)
            except FileNotFoundError as error:
                raise RacError(
                    f"{error.filename} is missing; delete {folder} to have it made again"
                ) from None
            if digest != header["sha256"].get(file.name):
                raise RacError(changed(file, folder / "index.json", folder))
        yield block


def combine(of_calibration: list[Term], block: int) -> dict[str, torch.Tensor]:
    """The calibration's Hessians of one block: group name → float32 [columns, columns].

    Args:
        of_calibration: of `terms`.
        block: its number, of `checked`.

    Raises:
        RacError: a file is damaged, or a shape is not what its index says.
    """
    combined: dict[str, torch.Tensor] = {}
    for term, group, hessian in _stored(of_calibration, block):
        hessian *= term.of.weight
        if group in combined:
            combined[group] += hessian
        else:
            combined[group] = hessian
    return combined


def combine_absmax(of_calibration: list[Term], block: int) -> dict[str, torch.Tensor]:
    """The largest |x| over the calibration's terms of one block: group name → float32 [columns].

    A term of no weight does not count. Arguments are those of `combine`.

    Raises:
        RacError: a file is damaged, or a shape is not what its index says.
    """
    combined: dict[str, torch.Tensor] = {}
    counted = [term for term in of_calibration if term.of.weight]
    for _, group, absmax in _stored(counted, block, ".absmax"):
        combined[group] = torch.maximum(combined.get(group, absmax), absmax)
    return combined


def _stored(
    terms: list[Term], block: int, suffix: str = ""
) -> Iterator[tuple[Term, str, torch.Tensor]]:
    """What the files of the terms hold of the groups of a block: term, group, tensor."""
    for term in terms:
        file = term.folder / _file_of(block)
        try:
            with safe_open(file, "pt") as stored:
                for group in term.header["groups"]:
                    if group["block"] == block:
                        tensor = stored.get_tensor(f"{group['name']}/{term.of.part}{suffix}")
                        shape = [group["columns"]] * (1 if suffix else 2)
                        if list(tensor.shape) != shape:
                            raise RacError(
                                f"{file}: {group['name']} is {list(tensor.shape)}, not {shape}"
                            )
                        yield term, group["name"], tensor
        except SafetensorError as error:
            raise RacError(f"{file} is damaged: {error}; delete the folder") from None


def _read_index(folder: Path) -> dict:
    file = Path(folder) / "index.json"
    keys = {"model", "sequences", "kind", "dtype", "shard", "parts", "groups", "sha256"}
    index = read_json(file)
    if not isinstance(index, dict) or not keys <= index.keys():
        raise RacError(f"{file} is no index of Hessians; delete the folder to have it made again")
    if not is_whole(index):
        raise RacError(f"{file} was changed after it was written; delete the folder")
    return index
