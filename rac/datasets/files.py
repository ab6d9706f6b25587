"""Datasets from a file of the user's own: JSON lines (also gzip or zstandard) or parquet."""

from typing import Literal

from rac.artifacts import parse_jsonl
from rac.config import Dataset
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
    suffixes = "".join(path.suffixes[-2:])
    if suffixes.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        try:
            rows = pyarrow.parquet.read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowException) as error:
            raise RacError(f"datasets.{name}.path: {path} is damaged: {error}") from None
    elif suffixes.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        try:
            rows = parse_jsonl(path.read_bytes(), COMPRESSIONS.get(path.suffix))
        except (OSError, ValueError) as error:
            raise RacError(f"datasets.{name}.path: {path} is damaged: {error}") from None
    else:
        raise RacError(
            f"datasets.{name}.path: {path} is none of .jsonl, .jsonl.gz, .jsonl.zst, .parquet"
        )
    return rows, {"origin": str(path), "licence": "unknown"}
