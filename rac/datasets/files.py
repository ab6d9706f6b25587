"""Datasets from a file of the user's own: JSON lines (also gzip or zstandard) or parquet."""

from pathlib import Path
from typing import Literal

from rac.artifacts import parse_jsonl
from rac.definitions import Dataset
from rac.errors import RacError

COMPRESSIONS: dict[str, Literal["zst", "gz"]] = {".zst": "zst", ".gz": "gz"}


def check(dataset: Dataset, name: str) -> None:
    """Refuse a file that is not there.

    Raises:
        RacError: with the path.
    """
    if dataset.path is not None and not dataset.path.is_file():
        raise RacError(f"datasets.{name}.path: {dataset.path} is missing")


def read(dataset: Dataset, name: str) -> tuple[list[dict], dict]:
    """All rows of `dataset.path` as they stand in it, and its origin.

    Raises:
        RacError: the file is missing, damaged or of another kind.
    """
    path = dataset.path
    assert path is not None
    check(dataset, name)
    return rows(path, f"datasets.{name}.path"), {"origin": str(path), "licence": "unknown"}


def rows(path: Path, key: str) -> list[dict]:
    """All rows of a file as they stand in it.

    Args:
        path: .jsonl, .jsonl.gz, .jsonl.zst, .json.gz (a row a line too, as C4 has it) or .parquet.
        key: where config.yaml asks for it, for messages.

    Raises:
        RacError: the file is damaged or of another kind.
    """
    suffixes = "".join(path.suffixes[-2:])
    if suffixes.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise RacError(f"{key}: {path} is damaged: {error}") from None
    if not suffixes.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz")):
        raise RacError(
            f"{key}: {path} is none of .jsonl, .jsonl.gz, .jsonl.zst, .json.gz, .parquet"
        )
    try:
        return parse_jsonl(path.read_bytes(), COMPRESSIONS.get(path.suffix))
    except (OSError, ValueError) as error:
        raise RacError(f"{key}: {path} is damaged: {error}") from None
