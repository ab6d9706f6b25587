"""Datasets from a file of the user's own: JSON lines (also gzip or zstandard) or parquet.

Rows are read one after the other, and of parquet only the columns that are asked for, so that memory holds
what is taken of a file and not the file.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rac.definitions import Dataset
from rac.errors import RacError, one_line

if TYPE_CHECKING:
    import pyarrow

BATCH = 16  # rows of a parquet file that become Python objects together


class Wanted(NamedTuple):
    """Columns of a file."""

    required: Mapping[str, str]  # those that every row must have → where config.yaml names them
    others: frozenset[str] | None  # those that a row may lack; None for all that there are


# Gives the same rows each time, as they stand in the files.
Reader = Callable[[Wanted], Iterator[dict]]


def check(dataset: Dataset, name: str) -> None:
    """Refuse a file that is not there.

    Raises:
        RacError: with the path.
    """
    if dataset.path is not None and not dataset.path.is_file():
        raise RacError(f"datasets.{name}.path: {dataset.path} is missing")


def read(dataset: Dataset, name: str) -> tuple[Reader, dict]:
    """What reads the rows of `dataset.path`, and its origin.

    Raises:
        RacError: the file is missing; when it is read, as `rows`.
    """
    path = dataset.path
    assert path is not None
    check(dataset, name)

    def reader(wanted: Wanted) -> Iterator[dict]:
        return rows(path, f"datasets.{name}.path", wanted)

    return reader, {"origin": str(path), "licence": "unknown"}


def rows(path: Path, key: str, wanted: Wanted) -> Iterator[dict]:
    """The rows of a file as they stand in it, with the columns that are wanted and there.

    Args:
        path: .jsonl, .jsonl.gz, .jsonl.zst, .json.gz (a row a line too, as C4 has it) or .parquet.
        key: where config.yaml asks for it, for messages.
        wanted: its columns.

    Raises:
        RacError: the file is damaged or of another kind, or a row lacks a required column.
    """
    import pyarrow

    suffixes = "".join(path.suffixes[-2:])
    if suffixes.endswith(".parquet"):
        every = _of_parquet(path, wanted)
    elif suffixes.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz")):
        every = _of_lines(path)
    else:
        raise RacError(
            f"{key}: {path} is none of .jsonl, .jsonl.gz, .jsonl.zst, .json.gz, .parquet"
        )
    names = {*wanted.required, *(wanted.others or ())}
    try:
        for i, (row, there) in enumerate(every):
            for column, said in wanted.required.items():
                if column not in row:
                    raise RacError(
                        f"{key}: row {i} of {path.name} has no column '{column}' (it has: "
                        f"{', '.join(there)}); say which one is meant in {said}"
                    )
            yield row if wanted.others is None else {n: row[n] for n in row if n in names}
    except FileNotFoundError:
        raise RacError(f"{key}: {path} is missing") from None
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise RacError(f"{key}: {path} is damaged: {error}") from None


def _of_parquet(path: Path, wanted: Wanted) -> Iterator[tuple[dict, list[str]]]:
    """Rows with no other columns than those wanted, and the names of all columns of the file."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        there = file.schema_arrow.names
        names = {*wanted.required, *(wanted.others or ())}
        columns = there if wanted.others is None else [name for name in there if name in names]
        first = 0
        for group in range(file.num_row_groups):  # all at once, it would hold the whole file
            for batch in file.iter_batches(BATCH, row_groups=[group], columns=columns):
                yield from ((row, there) for row in _objects(batch, first))
                first += batch.num_rows


def _objects(batch: "pyarrow.RecordBatch", first: int) -> list[dict]:
    """The rows of a batch as Python objects.

    Args:
        first: number of its first row, for messages.

    Raises:
        ValueError: Python has no such value, as for a date after the year 9999; names row and column.
    """
    try:
        return batch.to_pylist()
    except (OverflowError, ValueError):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for i, value in enumerate(column, first):
                try:
                    value.as_py()
                except (OverflowError, ValueError) as error:
                    raise ValueError(
                        f"row {i} has in column '{name}' what Python cannot hold ({one_line(error)}); "
                        "name the columns that are to be read in keep"
                    ) from None
        raise


def _of_lines(path: Path) -> Iterator[tuple[dict, list[str]]]:
    """Rows and the names of their columns; blank lines are skipped."""
    import pyarrow

    with io.BufferedReader(pyarrow.input_stream(path, compression="detect")) as stream:
        for i, line in enumerate(line for line in stream if line.strip()):
            try:
                row = json.loads(line)
            except RecursionError:
                raise ValueError(f"row {i} is nested too deeply") from None
            except ValueError as error:
                raise ValueError(f"row {i} is not JSON: {one_line(error)}") from None
            if not isinstance(row, dict):
                raise ValueError(f"row {i} is not a JSON object")
            yield row, list(row)
