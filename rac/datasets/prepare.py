"""Stage `dataset`: rows of problems or documents as data.jsonl, whatever they came from."""

import json
import math
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rac.artifacts import atomic_folder, sha256_file, write_jsonl
from rac.datasets import embedded, files, hub
from rac.datasets.files import Reader, Wanted
from rac.datasets.livecodebench import MARKS
from rac.datasets.overlap import overlapping
from rac.definitions import Columns, Dataset
from rac.errors import RacError
from rac.provenance import checked_sha256, hashes, provenance, write_record

OF_KIND = {"documents": ["text"], "problems": ["problem", "answer"], "programs": ["problem"]}
PROBLEM = Wanted({"problem": "problem"}, frozenset())


def prepare_dataset(
    dataset: Dataset,
    name: str,
    output: Path,
    without: Mapping[str, Path] | None = None,
    code: str | None = None,
) -> None:
    """Write resources/datasets/{name}: data.jsonl and meta.json.

    Rows have id, problem and answer (programs have none), or id and text, and keep the columns that they
    came with, which lm-eval tasks may ask for, or those of them that `keep` names. Problems of the datasets
    `without` are dropped and counted. `rows` of those that are left are taken in an order that hangs on
    `seed` only. The source is read twice: to choose, and then for the rows that are taken.

    Args:
        dataset: its definition.
        name: its name, for messages.
        output: the folder to write.
        without: the data.jsonl of datasets by their names.
        code: fingerprint of the code, for the record.

    Raises:
        RacError: a file, column or split is missing (names what is there), there are too few rows, a row
            does not hold text where it has to, or a dataset of `without` was changed.
    """
    read = embedded.read if dataset.embedded else files.read if dataset.path else hub.read
    reader, meta = read(dataset, name)
    columns = Columns() if dataset.embedded else dataset.columns
    order, dropped = _order(reader, columns, dataset, name, without or {})
    others = {other: checked_sha256(file) for other, file in (without or {}).items()}
    if not order or len(order) < (dataset.rows or 1):
        raise RacError(
            f"datasets.{name}: {dataset.rows or 1} rows are asked for, it has {len(order)}"
        )
    rows = _taken(reader, order[: dataset.rows], columns, dataset, name)
    repeated = [one for one, count in Counter(row["id"] for row in rows).items() if count > 1]
    if repeated:
        raise RacError(
            f"datasets.{name}: the id '{repeated[0]}' is that of several rows (as {len(repeated) - 1} "
            "more are); name another column in columns.id, or set it to null to number the rows"
        )
    with atomic_folder(output) as folder:
        write_jsonl(folder / "data.jsonl", rows)
        write_record(
            folder / "meta.json",
            {
                "rows": len(rows),
                "dropped": dropped,
            }
            | meta
            | hashes(folder, "data.jsonl")
            | provenance(
                "dataset",
                code,
                definition=dataset.model_dump(mode="json"),
                file=sha256_file(dataset.path) if dataset.path else None,
                without=others,
            ),
        )


def _order(
    reader: Reader, columns: Columns, dataset: Dataset, name: str, without: Mapping[str, Path]
) -> tuple[list[int], dict[str, int]]:
    """Numbers of the rows that may be taken, those first that are taken first; and how many were dropped."""
    main = OF_KIND[dataset.kind][0]
    given = getattr(columns, main)
    texts = reader(Wanted({given: f"columns.{main}"}, frozenset()))
    problems = [str(row[given]) if without else "" for row in texts]
    order, dropped = list(range(len(problems))), {}
    if dataset.rows is not None and dataset.embedded != "word-problems":  # those hang on the seed
        random.Random(dataset.seed).shuffle(order)
    for other, file in without.items():
        theirs = files.rows(file, f"datasets.{name}.without", PROBLEM)
        found = overlapping((problems[i] for i in order), (row["problem"] for row in theirs))
        order = [i for i, is_theirs in zip(order, found, strict=True) if not is_theirs]
        dropped[other] = sum(found)
        print(f"datasets.{name}: {sum(found)} problems of '{other}' dropped", flush=True)
    return order, dropped


def _taken(
    reader: Reader, order: list[int], columns: Columns, dataset: Dataset, name: str
) -> list[dict]:
    """The rows of these numbers in this order, with the names that columns have here."""
    asked = {column: getattr(columns, column) for column in OF_KIND[dataset.kind]}
    named = {column: given for column, given in asked.items() if given is not None}
    required = dict.fromkeys(dataset.keep or (), "keep")
    required |= {given: f"columns.{column}" for column, given in named.items()}
    others = None if dataset.keep is None else frozenset([columns.id] if columns.id else [])
    places = {number: place for place, number in enumerate(order)}
    taken: list[dict] = [{}] * len(order)
    for i, row in enumerate(reader(Wanted(required, others))):
        if i not in places:
            continue
        for column, given in named.items():
            if row[given] is None:
                raise RacError(
                    f"datasets.{name}: row {i} has null in column '{given}': name another one in "
                    f"columns.{column}" + (", or null to do without" if column == "answer" else "")
                )
        place = f"datasets.{name}: row {i}"
        known = row.get(columns.id) if columns.id else None
        texts = {"id": str(i) if known is None else _text(known, place, str(columns.id))}
        texts |= {column: _text(row[given], place, given) for column, given in named.items()}
        main = OF_KIND[dataset.kind][0]
        if not texts[main].strip():
            raise RacError(
                f"{place} has an empty text in column '{named[main]}': take the row out, or name another "
                f"column in columns.{main}"
            )
        row |= texts
        kept = {*row} if dataset.keep is None else {"id", *named, *dataset.keep, *MARKS}
        taken[places[i]] = {column: row[column] for column in row if column in kept}
        _check_written(taken[places[i]], place)
    return taken


def _text(value: Any, place: str, column: str) -> str:
    """A text, or a number as one; Python's way to write anything else is nobody's problem or answer.

    Raises:
        RacError: it is something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    kind = type(value).__name__
    found = {"float": f"the number {value}", "bytes": "binary data"}.get(kind, f"a {kind}")
    raise RacError(f"{place} has {found} in column '{column}', not text")


def _check_written(row: dict, place: str) -> None:
    """Refuse what JSON lines in UTF-8 cannot hold.

    Raises:
        RacError: names the column.
    """
    for column, value in row.items():
        try:
            json.dumps({column: value}, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise RacError(
                f"{place} has half of a character (a lone surrogate) in column {column!a}: put it right"
            ) from None
        except RecursionError:
            raise RacError(
                f"{place} is nested too deeply in column {column!a}: name the columns to keep in keep"
            ) from None
