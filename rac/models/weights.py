"""Tensors of a Hugging Face folder, one at a time, without the seconds of transformers' import."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from rac.artifacts import read_json, sha256_file, sha256_json
from rac.errors import RacError


def files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model: those of the index, or the only one.

    Raises:
        RacError: no model there, or a file is missing.
    """
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.exists():
        try:
            names = set(read_json(index)["weight_map"].values())
        except (AttributeError, KeyError, TypeError):
            raise RacError(f"{index} does not say which file holds which weight") from None
    found = [folder / name for name in sorted(names)]
    for file in found:
        if not file.is_file():
            raise RacError(f"{file} is missing: {folder} is no whole Hugging Face folder")
    return found


def locate(folder: Path) -> dict[str, Path]:
    """Which file each tensor is in.

    Raises:
        RacError: a file is missing, cut or not safetensors.
    """
    located = {}
    for file in files(folder):
        with _opened(file) as stored:
            located.update(dict.fromkeys(stored.keys(), file))
    return located


def read(file: Path, name: str) -> torch.Tensor:
    """One tensor, in its stored dtype, on the CPU."""
    with _opened(file) as stored:
        return stored.get_tensor(name)


def overwrite(file: Path, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor in the place of a stored one of its dtype and shape; nothing else changes."""
    with file.open("r+b") as stream:
        header_size = int.from_bytes(stream.read(8), "little")
        start, end = json.loads(stream.read(header_size))[name]["data_offsets"]
        content = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        if len(content) != end - start:
            raise ValueError(f"{name} has {end - start} bytes in {file}, not {len(content)}")
        stream.seek(8 + header_size + start)
        stream.write(content)


def sha256(folder: Path) -> str:
    """The identity of a model: SHA-256 over its weight files, as in model.json."""
    return sha256_json({file.name: sha256_file(file) for file in files(folder)})


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
        "bytes_on_disk": sum(file.stat().st_size for file in files(folder)),
    }


def _opened(file: Path):
    try:
        return safe_open(file, "pt")
    except (OSError, SafetensorError) as error:
        raise RacError(f"{file} is damaged: {error}") from None
