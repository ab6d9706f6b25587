"""Tensors of a Hugging Face folder, one at a time, without the seconds of transformers' import."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rac.artifacts import sha256_json, write_json
from rac.errors import RacError
from rac.models.checkpoint import INDEX, weight_names


class Header(NamedTuple):
    """What a file says of a tensor in it."""

    file: Path
    dtype: str  # as safetensors has it: BF16, F8_E4M3, …
    shape: list[int]


def files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model.

    Raises:
        RacError: no model there, or a file is missing.
    """
    folder = Path(folder)
    found = [folder / name for name in weight_names(folder)]
    for file in found:
        if not file.is_file():
            raise RacError(f"{file} is missing: {folder} is no whole Hugging Face folder")
    return found


def headers(folder: Path) -> dict[str, Header]:
    """What the files say of each tensor.

    Raises:
        RacError: a file is missing, cut or not safetensors.
    """
    found = {}
    for file in files(folder):
        with _opened(file) as stored:
            for name in stored.keys():  # noqa: SIM118
                tensor = stored.get_slice(name)
                found[name] = Header(file, tensor.get_dtype(), tensor.get_shape())
    return found


def locate(folder: Path) -> dict[str, Path]:
    """Which file each tensor is in.

    Raises:
        RacError: as `headers`.
    """
    return {name: header.file for name, header in headers(folder).items()}


def read(file: Path, name: str) -> torch.Tensor:
    """One tensor, in its stored dtype, on the CPU."""
    with _opened(file) as stored:
        return stored.get_tensor(name)


def rewrite(
    model: Path, folder: Path, blocks: Iterable[dict[str, dict[str, torch.Tensor]]]
) -> None:
    """Write the weight files of `model` to `folder` with some tensors replaced.

    What a block brings waits in a file of its own, so that memory holds one block or one file.

    Args:
        model: the Hugging Face folder to read.
        folder: where to write files of the same names, and the index if there is one.
        blocks: by the name of a stored tensor, those that take its place, by their names.
    """
    waiting: dict[str, tuple[Path, list[str]]] = {}
    for i, block in enumerate(blocks):
        spool = folder / f".block-{i:03d}.safetensors"
        save_file({k: v.contiguous() for new in block.values() for k, v in new.items()}, spool)
        waiting |= {name: (spool, list(new)) for name, new in block.items()}
    weight_map: dict[str, str] = {}
    total = 0
    for file in files(model):
        tensors: dict[str, torch.Tensor] = {}
        with _opened(file) as stored:
            for name in stored.keys():  # noqa: SIM118
                spool, names = waiting.pop(name, (file, [name]))
                tensors |= {new: read(spool, new) for new in names}
            save_file(tensors, folder / file.name, stored.metadata())
        weight_map |= dict.fromkeys(tensors, file.name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if waiting:
        raise ValueError(f"{model} stores no tensor {next(iter(waiting))}")
    if (model / INDEX).exists():
        metadata = {"total_size": total}
        write_json(folder / INDEX, {"metadata": metadata, "weight_map": weight_map})
    for spool in folder.glob(".block-*.safetensors"):
        spool.unlink()


def identity(folder: Path, sha256: Mapping[str, str]) -> str:
    """The identity of a model, given the SHA-256 of its files: theirs over those of the weights."""
    return sha256_json({file.name: sha256[file.name] for file in files(folder)})


def size(folder: Path) -> dict:
    """Parameters stored (tied ones once), those that are not zero, bytes of the weight files."""
    parameters = nonzero = 0
    for name, file in locate(folder).items():
        tensor = read(file, name)
        parameters += tensor.numel()
        nonzero += int(tensor.count_nonzero())
    return {
        "parameters": parameters,
        "nonzero_parameters": nonzero,
        "bytes_on_disk": bytes_on_disk(folder),
    }


def bytes_on_disk(folder: Path) -> int:
    """Bytes of the weight files."""
    return sum(file.stat().st_size for file in files(folder))


def _opened(file: Path):
    try:
        return safe_open(file, "pt")
    except (OSError, SafetensorError) as error:
        raise RacError(f"{file} is damaged: {error}") from None
