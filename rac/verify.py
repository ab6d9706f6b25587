"""Every artefact against the hashes that were written with it: after a copy, a crash or a doubt."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from rac import sources
from rac.artifacts import read_json, read_jsonl, sha256_file
from rac.errors import RacError
from rac.provenance import is_whole

FOLDERS = ("resources", "results")
AGAIN = "delete it to have it made again"


class Finding(NamedTuple):
    """A file that was looked at, and what is wrong with it."""

    file: Path
    wrong: str | None


def verify(folder: Path) -> Iterator[Finding]:
    """Look at every artefact below `folder`; part files of unfinished stages are left out.

    Files that a record names are compared with its SHA-256; records and sequences hold a hash of themselves,
    and rows a checksum; other JSON and safetensors files must be readable.

    Args:
        folder: the project, with resources/ and results/.
    """
    files = sorted(
        file
        for name in FOLDERS
        for file in (folder / name).rglob("*")
        if file.is_file() and not _unfinished(file.relative_to(folder))
    )
    seen = set()
    for record in (file for file in files if file.suffix == ".json"):
        try:
            content = read_json(record)
        except RacError as error:
            yield Finding(record, str(error))
            continue
        whole = not isinstance(content, dict) or is_whole(content)
        yield Finding(
            record, None if whole else f"{record} was changed after it was written; {AGAIN}"
        )
        hashes = content.get("sha256") if isinstance(content, dict) else None
        for name, expected in hashes.items() if isinstance(hashes, dict) else ():
            file = record.parent / name
            seen.add(file)
            yield Finding(file, _differs(file, expected, record.name))
    for file in (file for file in files if file not in seen):
        if file.name.endswith((".jsonl.zst", ".safetensors")):
            yield Finding(file, _unreadable(file))


def _unfinished(file: Path) -> bool:
    return any(
        part.startswith(".") or part == "work" or part.endswith(".work") for part in file.parts
    )


def _differs(file: Path, expected: str, record: str) -> str | None:
    if not file.is_file():
        return f"{file} is missing; delete {file.parent} to have it made again"
    if sha256_file(file) != expected:
        return (
            f"{file} is not the file that its {record} was written for; "
            f"delete {file.parent} to have it made again"
        )
    return None


def _unreadable(file: Path) -> str | None:
    try:
        if file.name == "sequences.safetensors":
            sources.read(file)
        elif file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                pass
        else:
            read_jsonl(file)
    except RacError as error:
        return str(error)
    except SafetensorError as error:
        return f"{file} is damaged: {error}; {AGAIN}"
    return None
