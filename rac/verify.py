"""Every artefact against the hashes that were written with it: after a copy, a crash or a doubt."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rac.artifacts import read_json, sha256_files
from rac.errors import RacError
from rac.provenance import RECORD, WHOLE, changed, is_whole

FOLDERS = ("resources", "results")
# What a stage makes: each such file is a record, or one names it.
MADE = (".json", ".jsonl", ".zst", ".safetensors", ".csv", ".html", ".svg", ".pdf")


class Finding(NamedTuple):
    """A file that was looked at, and what is wrong with it."""

    file: Path
    wrong: str | None
    unit: (
        Path | None
    )  # the file or folder that a rule makes it with; a file that no record names has none


def verify(folder: Path) -> Iterator[Finding]:
    """Look at every artefact below `folder`; part files of unfinished stages are left out.

    A record holds a hash of itself, and names the files that it is of with their SHA-256. A file that no
    record names is wrong too.

    Args:
        folder: the project, with resources/ and results/.

    Raises:
        RacError: it has neither, or a folder in it cannot be read.
    """
    roots = [folder / name for name in FOLDERS if (folder / name).is_dir()]
    if not roots:
        raise RacError(f"{folder} has neither resources/ nor results/: there is nothing to compare")
    files = sorted(
        file
        for root in roots
        for file in _below(root)
        if file.is_file() and not _unfinished(file.relative_to(folder))
    )
    contents: dict[Path, Any] = {}
    damaged: dict[Path, str] = {}
    for file in (file for file in files if file.suffix == ".json"):
        try:
            contents[file] = read_json(file)
        except RacError as error:
            damaged[file] = str(error)
    named = {
        record.parent / name: (record, expected)
        for record, content in contents.items()
        if isinstance(content, dict) and isinstance(content.get("sha256"), dict)
        for name, expected in content["sha256"].items()
    }
    unclear = {file.parent for file in damaged.keys() - named.keys()}  # what they named is unknown
    there = {file for file in named if file.is_file() and os.access(file, os.R_OK)}
    hashed = sha256_files(sorted(there))
    for file in sorted({*files, *named}):
        if file in named:
            digest = next(hashed)[1] if file in there else None
            unit = _unit(file, named[file][0])
            yield Finding(file, _differs(file, *named[file], digest, unit), unit)
        elif file in damaged:
            yield Finding(file, damaged[file], _unit(file, file))
        elif isinstance(contents.get(file), dict) and RECORD in contents[file]:
            unit = _unit(file, file)
            said = f"{file} was changed after it was written; delete {unit} to have it made again"
            yield Finding(file, None if is_whole(contents[file]) else said, unit)
        elif file.suffix in MADE and file.parent not in unclear:
            said = f"{file} has no record: none names it; delete it to have it made again"
            yield Finding(file, said, None)


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise RacError(f"cannot read {error.filename}: {error.strerror}")

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names)


def _unfinished(file: Path) -> bool:
    return any(
        part.startswith(".") or part == "work" or part.endswith(".work") for part in file.parts
    )


def _unit(file: Path, record: Path) -> Path:
    """What a rule makes as one: a folder, or the file by itself."""
    return file.parent if record.name in WHOLE or file.parent.name == "figures" else file


def _differs(file: Path, record: Path, expected: str, digest: str | None, unit: Path) -> str | None:
    if digest is None and file.is_file():
        return f"{file} cannot be read"
    if digest is None:
        return f"{file} is missing" + (
            f"; delete {unit} to have it made again" if unit != file else ""
        )
    return changed(file, record, unit) if digest != expected else None
