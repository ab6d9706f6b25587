"""Datasets from every kind of file, and one line for whatever is wrong with one."""

import gzip
import json
import random

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from rac.artifacts import read_json, read_jsonl, sha256_file
from rac.config import Dataset
from rac.datasets.prepare import prepare_dataset
from rac.errors import RacError

ROWS = [{"id": f"q{i}", "problem": f"What is {i}\u2028+ {i}?", "answer": 2 * i} for i in range(6)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
WRITERS = {
    "d.jsonl": lambda file: file.write_bytes(LINES),
    "d.v1.jsonl.gz": lambda file: file.write_bytes(gzip.compress(LINES + b"\n")),
    "d.jsonl.zst": lambda file: file.write_bytes(zstandard.compress(LINES)),
    "d.parquet": lambda file: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file),
}


def prepare(folder, name="mine", **definition):
    prepare_dataset(Dataset.model_validate(definition), name, folder)
    return read_jsonl(folder / "data.jsonl")


def failing(folder, **definition) -> str:
    with pytest.raises(RacError) as error:
        prepare(folder, **definition)
    assert not folder.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    WRITERS[name](tmp_path / name)
    rows = prepare(tmp_path / "out", path=tmp_path / name)
    assert rows == [row | {"answer": str(row["answer"])} for row in ROWS]
    meta = read_json(tmp_path / "out" / "meta.json")
    assert (meta["rows"], meta["origin"]) == (6, str(tmp_path / name))
    assert meta["sha256"] == sha256_file(tmp_path / "out" / "data.jsonl")


@pytest.mark.parametrize("name", WRITERS)
def test_a_cut_file_is_one_line_that_does_not_ask_to_delete_it(tmp_path, name):
    WRITERS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:-9])
    message = failing(tmp_path / "out", path=tmp_path / name)
    assert message.startswith(f"datasets.mine.path: {tmp_path / name} is damaged: ")
    assert "delete" not in message


def test_a_missing_file_and_a_foreign_kind_are_one_line(tmp_path):
    assert "is missing" in failing(tmp_path / "out", path=tmp_path / "absent.jsonl")
    (tmp_path / "d.csv").write_text("problem,answer\n")
    assert "is none of .jsonl, .jsonl.gz" in failing(tmp_path / "out", path=tmp_path / "d.csv")
    (tmp_path / "d.jsonl").write_text("[1]\n")
    assert "not a JSON object" in failing(tmp_path / "out", path=tmp_path / "d.jsonl")


def test_columns_are_renamed_and_the_others_kept(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"q": "1?", "a": 1, "level": 3}\n{"q": "2?", "a": 2}\n')
    columns = {"problem": "q", "answer": "a"}
    rows = prepare(tmp_path / "out", path=tmp_path / "d.jsonl", columns=columns)
    assert rows == [
        {"q": "1?", "a": 1, "level": 3, "id": "0", "problem": "1?", "answer": "1"},
        {"q": "2?", "a": 2, "id": "1", "problem": "2?", "answer": "2"},
    ]


def test_rows_without_an_id_get_their_number(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"id": null, "text": "a"}\n{"id": null, "text": "b"}\n')
    rows = prepare(tmp_path / "out", path=tmp_path / "d.jsonl", kind="documents")
    assert [row["id"] for row in rows] == ["0", "1"]


def test_a_wrong_column_names_those_that_are_there(tmp_path):
    WRITERS["d.jsonl"](tmp_path / "d.jsonl")
    message = failing(tmp_path / "out", path=tmp_path / "d.jsonl", columns={"problem": "question"})
    assert "row 0 has no column 'question' (it has: id, problem, answer)" in message
    assert "columns.problem" in message
    message = failing(tmp_path / "out", path=tmp_path / "d.jsonl", kind="documents")
    assert "no column 'text'" in message


def test_too_few_rows_are_one_line(tmp_path):
    WRITERS["d.jsonl"](tmp_path / "d.jsonl")
    message = failing(tmp_path / "out", path=tmp_path / "d.jsonl", rows=7)
    assert message == "datasets.mine: 7 rows are asked for, it has 6"
    (tmp_path / "d.jsonl").write_bytes(b"")
    assert "1 rows are asked for, it has 0" in failing(tmp_path / "o", path=tmp_path / "d.jsonl")


def test_some_rows_are_taken_in_an_order_that_hangs_on_the_seed(tmp_path):
    WRITERS["d.jsonl"](tmp_path / "d.jsonl")

    def ids(**definition):
        rows = prepare(tmp_path / "out", path=tmp_path / "d.jsonl", **definition)
        return [row["id"] for row in rows]

    order = [row["id"] for row in ROWS]
    random.Random(3).shuffle(order)
    assert ids(rows=4, seed=3) == order[:4]
    assert ids(rows=2, seed=3) == order[:2]
    assert ids(rows=6, seed=4) != order


def test_embedded_datasets(tmp_path):
    problems = prepare(tmp_path / "p", embedded="word-problems", split="test", rows=5)
    assert len(problems) == 5 and {"id", "problem", "answer"} <= set(problems[0])
    web = {"embedded": "c4", "kind": "documents", "split": "heldout"}
    documents = prepare(tmp_path / "t", **web)
    assert set(documents[0]) == {"id", "text"}
    some = prepare(tmp_path / "s", **web, rows=3, seed=1)
    assert len(some) == 3 and some != documents[:3]
    assert all(row in documents for row in some)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"embedded": "c4", "split": "heldout"}, "set kind: documents"),
        (
            {"embedded": "c4", "kind": "documents", "split": "tset"},
            "'tset' is none of calibration, heldout",
        ),
        ({"embedded": "word-problems", "split": "test"}, "set rows"),
        ({"embedded": "c4", "kind": "documents", "split": "heldout", "rows": 10**6}, "it has"),
    ],
)
def test_wrong_definitions_of_embedded_datasets_are_one_line(tmp_path, definition, message):
    assert message in failing(tmp_path / "out", **definition)


def test_an_unreachable_hub_names_the_way_without_a_network(tmp_path, monkeypatch):
    def offline(*arguments, **keywords):
        raise ConnectionError("Couldn't reach 'a/b'\non the Hub")

    monkeypatch.setattr("datasets.load_dataset", offline)
    message = failing(tmp_path / "out", hub="a/b", revision="0" * 40)
    assert "cannot read a/b@000" in message and "(Couldn't reach 'a/b' on the Hub)" in message
    assert "give that file as datasets.mine.path" in message
