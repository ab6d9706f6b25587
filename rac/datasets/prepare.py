"""Stage `dataset`: rows of problems or documents as data.jsonl, whatever they came from."""

import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rac.artifacts import atomic_folder, read_jsonl, sha256_file, write_jsonl
from rac.datasets import embedded, files, hub
from rac.datasets.overlap import overlapping
from rac.definitions import Dataset
from rac.errors import RacError
from rac.provenance import hashes, provenance, write_record


def prepare_dataset(
    dataset: Dataset, name: str, output: Path, without: Mapping[str, Path] | None = None
) -> None:
    """Write resources/datasets/{name}: data.jsonl and meta.json.

    Rows have id, problem and answer (programs have none), or id and text, and keep the columns that they
    came with, which lm-eval tasks may ask for. Problems of the datasets `without` are dropped and counted.
    `rows` of those that are left are taken in an order that hangs on `seed` only.

    Raises:
        RacError: a file, column or split is missing, or there are too few rows; names what is there.
    """
    if dataset.embedded:
        rows, meta = embedded.read(dataset, name)
    else:
        raw, meta = files.read(dataset, name) if dataset.path else hub.read(dataset, name)
        rows = _rename(raw, dataset, name)
    if dataset.rows is not None and dataset.embedded != "word-problems":  # those hang on the seed
        random.Random(dataset.seed).shuffle(rows)
    dropped = {}
    for other, file in (without or {}).items():
        theirs = [row["problem"] for row in read_jsonl(file)]
        found = overlapping((row["problem"] for row in rows), theirs)
        rows = [row for row, is_theirs in zip(rows, found, strict=True) if not is_theirs]
        dropped[other] = sum(found)
        print(f"datasets.{name}: {sum(found)} problems of '{other}' dropped", flush=True)
    if not rows or len(rows) < (dataset.rows or 1):
        raise RacError(
            f"datasets.{name}: {dataset.rows or 1} rows are asked for, it has {len(rows)}"
        )
    rows = rows[: dataset.rows]
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
                "definition": dataset.model_dump(mode="json"),
            }
            | meta
            | hashes(folder, "data.jsonl")
            | provenance(
                "dataset", without={n: sha256_file(f) for n, f in (without or {}).items()}
            ),
        )


def _rename(raw: list[dict], dataset: Dataset, name: str) -> list[dict]:
    columns_of = {"documents": ["text"], "problems": ["problem", "answer"], "programs": ["problem"]}
    wanted = columns_of[dataset.kind]
    asked = {column: getattr(dataset.columns, column) for column in wanted}
    columns = {column: given for column, given in asked.items() if given is not None}
    rows = []
    for i, row in enumerate(raw):
        for column, given in columns.items():
            if given not in row or row[given] is None:
                raise RacError(
                    f"datasets.{name}: row {i} has no column '{given}' (it has: "
                    f"{', '.join(map(str, row))}); say which one is meant in columns.{column}"
                )
        named = {column: str(row[given]) for column, given in columns.items()}
        known = row.get(dataset.columns.id) if dataset.columns.id else None
        rows.append(row | {"id": str(i if known is None else known)} | named)
    return rows
