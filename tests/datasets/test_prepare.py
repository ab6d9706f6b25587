"""Datasets from every kind of file, and one line for whatever is wrong with one."""

import gzip
import json
import os
import random
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from rac.artifacts import read_json, read_jsonl, sha256_file, write_jsonl
from rac.datasets.prepare import prepare_dataset
from rac.definitions import Dataset
from rac.errors import RacError
from rac.provenance import write_record
from tests import hub_server

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
    assert meta["sha256"] == {"data.jsonl": sha256_file(tmp_path / "out" / "data.jsonl")}


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


def test_ids_that_repeat_are_refused_and_may_be_left_out(tmp_path):
    row = '{{"id": "{}", "title": "{}", "text": "a"}}\n'
    (tmp_path / "d.jsonl").write_text("".join(row.format(i, n) for n, i in enumerate("abbcc")))
    given = {"path": tmp_path / "d.jsonl", "kind": "documents"}
    message = failing(tmp_path / "out", **given)
    assert "the id 'b' is that of several rows (as 1 more are)" in message
    for column, ids in ((None, "01234"), ("title", "01234")):
        rows = prepare(tmp_path / str(column), **given, columns={"id": column})
        assert [row["id"] for row in rows] == list(ids)


def test_a_wrong_column_names_those_that_are_there(tmp_path):
    WRITERS["d.jsonl"](tmp_path / "d.jsonl")
    message = failing(tmp_path / "out", path=tmp_path / "d.jsonl", columns={"problem": "question"})
    assert "row 0 of d.jsonl has no column 'question' (it has: id, problem, answer)" in message
    assert "columns.problem" in message
    message = failing(tmp_path / "out", path=tmp_path / "d.jsonl", kind="documents")
    assert "no column 'text'" in message


@pytest.mark.parametrize("name", WRITERS)
def test_only_the_columns_that_are_kept_are_written(tmp_path, name):
    WRITERS[name](tmp_path / name)
    for keep, columns in (([], {"id", "problem"}), (["answer"], {"id", "problem", "answer"})):
        given = {"path": tmp_path / name, "kind": "programs", "keep": keep}
        rows = prepare(tmp_path / "out", **given)
        assert [set(row) for row in rows] == [columns] * 6
        assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    message = failing(tmp_path / "o", path=tmp_path / name, keep=["level"])
    assert f"row 0 of {name} has no column 'level' (it has: id, problem, answer)" in message
    assert message.endswith("say which one is meant in keep")


def test_of_a_parquet_file_nothing_else_is_read(tmp_path, monkeypatch):
    rows = [row | {"long": "x" * 1000, "uuid": f"u{i}"} for i, row in enumerate(ROWS)]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet", row_group_size=2
    )
    asked, batches = [], pyarrow.parquet.ParquetFile.iter_batches

    def spied(file, size, row_groups, columns):
        asked.extend([columns] if row_groups == [0] else [])
        return batches(file, size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", spied)
    given = {"path": tmp_path / "d.parquet", "columns": {"id": "uuid"}}
    kept = prepare(tmp_path / "out", **given, keep=[], rows=4)
    assert asked == [["problem"], ["problem", "answer", "uuid"]]
    whole = prepare(tmp_path / "whole", **given, rows=4)
    assert asked[-1] == ["id", "problem", "answer", "long", "uuid"]
    columns = ("id", "problem", "answer")
    assert kept == [{column: row[column] for column in columns} for row in whole]
    assert all(row["long"] for row in whole)


MEASURE = """
import re, sys
from pathlib import Path
from rac.datasets.prepare import prepare_dataset
from rac.definitions import Dataset
import pyarrow.parquet
def peak():  # resource.getrusage's is at least the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
before = peak()
file, keep = sys.argv[1:]
dataset = Dataset(path=file, rows=5, **({"keep": []} if keep else {}))
prepare_dataset(dataset, "mine", Path("out"))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["d.jsonl", "d.parquet"])
def test_memory_holds_what_is_taken_and_not_the_file(tmp_path, name):
    rows = [{"id": str(i), "problem": "?", "answer": 1, "long": f"{i}" * 10**5} for i in range(900)]
    if name == "d.jsonl":
        write_jsonl(tmp_path / name, rows)
    else:
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, tmp_path / name, row_group_size=5, compression="none")
    sizes = []
    for keep in ("keep", ""):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, tmp_path / name, keep],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        sizes.append(int(done.stdout))
    assert max(sizes) < 100, sizes  # MiB; all rows are 257


def test_a_null_is_told_apart_from_a_column_that_is_not_there(tmp_path):
    rows = [ROWS[0], ROWS[1] | {"answer": None}, ROWS[2]]
    write_jsonl(tmp_path / "d.jsonl", rows)
    message = failing(tmp_path / "out", path=tmp_path / "d.jsonl")
    assert message == (
        "datasets.mine: row 1 has null in column 'answer': name another one in columns.answer, or null "
        "to do without"
    )
    without = prepare(tmp_path / "out", path=tmp_path / "d.jsonl", columns={"answer": None})
    assert [row["id"] for row in without] == ["q0", "q1", "q2"]
    write_jsonl(tmp_path / "d.jsonl", [ROWS[0] | {"problem": None}])
    message = failing(tmp_path / "o", path=tmp_path / "d.jsonl")
    assert message.endswith(
        "row 0 has null in column 'problem': name another one in columns.problem"
    )


@pytest.mark.parametrize("column", ["id", "problem", "answer"])
@pytest.mark.parametrize(
    ("value", "said", "names"),
    [
        ([{"role": "user", "content": "2+2?"}], "a list", ["d.jsonl", "d.parquet"]),
        ({"a": 1}, "a dict", ["d.jsonl", "d.parquet"]),
        (True, "a bool", ["d.jsonl", "d.parquet"]),
        (float("nan"), "the number nan", ["d.jsonl", "d.parquet"]),
        (float("-inf"), "the number -inf", ["d.jsonl", "d.parquet"]),
        (b"2+2?", "binary data", ["d.parquet"]),
    ],
)
def test_what_is_no_text_is_not_made_one(tmp_path, column, value, said, names):
    for name in names:
        table = pyarrow.Table.from_pylist([ROWS[0] | {column: value}])
        if name == "d.parquet":
            pyarrow.parquet.write_table(table, tmp_path / name)
        else:
            write_jsonl(tmp_path / name, table.to_pylist())
        message = failing(tmp_path / "out", path=tmp_path / name)
        assert message == f"datasets.mine: row 0 has {said} in column '{column}', not text"


@pytest.mark.parametrize("text", ["", " \n\t"])
@pytest.mark.parametrize(("kind", "main"), [("problems", "problem"), ("documents", "text")])
def test_an_empty_problem_or_document_is_refused(tmp_path, kind, main, text):
    row = {"given": "a", "answer": ""}  # an answer may be empty: then no response is right
    write_jsonl(tmp_path / "d.jsonl", [row, row | {"given": text}])
    given = {"path": tmp_path / "d.jsonl", "kind": kind, "columns": {main: "given"}}
    message = failing(tmp_path / "out", **given)
    assert message == (
        "datasets.mine: row 1 has an empty text in column 'given': take the row out, or name another "
        f"column in columns.{main}"
    )


@pytest.mark.parametrize("column", ["problem", "id", "level"])
def test_half_of_a_character_is_one_line(tmp_path, column):
    line = json.dumps(ROWS[0] | {column: "x \ud800 y"}).encode()
    (tmp_path / "d.jsonl").write_bytes(line)
    message = failing(tmp_path / "out", path=tmp_path / "d.jsonl")
    assert message == (
        "datasets.mine: row 0 has half of a character (a lone surrogate) in column "
        f"'{column}': put it right"
    )


@pytest.mark.parametrize("depth", [300, 5000, 200_000])
def test_deep_nesting_is_one_line_or_read(tmp_path, depth):
    row = json.dumps(ROWS[0])[:-1] + f', "more": {"[" * depth}{"]" * depth}}}\n'
    (tmp_path / "d.jsonl").write_text(row)
    given = {"path": tmp_path / "d.jsonl"}
    if depth == 300:
        assert len(prepare(tmp_path / "out", **given)) == 1
    else:
        message = failing(tmp_path / "out", **given)
        assert message.startswith("datasets.mine") and "row 0 is nested too deeply" in message


@pytest.mark.parametrize("kind", [pyarrow.timestamp("us"), pyarrow.duration("s"), pyarrow.date64()])
def test_a_date_that_python_cannot_hold_is_one_line(tmp_path, kind):
    rows = ROWS * 4
    table = pyarrow.Table.from_pylist([row | {"id": str(i)} for i, row in enumerate(rows)])
    dates = pyarrow.array([0] * 20 + [2**62] + [0] * 3, pyarrow.int64()).view(kind)
    file = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(table.append_column("when", dates), file, row_group_size=7)
    message = failing(tmp_path / "out", path=file)
    assert message.startswith(f"datasets.mine.path: {file} is damaged: row 20 has in column 'when'")
    assert message.endswith("name the columns that are to be read in keep")
    assert len(prepare(tmp_path / "out", path=file, keep=[])) == 24


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

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("rac.hub.WAITS", ())
    asked = {"hub": "a/b", "revision": "0" * 40, "files": ["*.parquet"]}
    assert failing(tmp_path / "out", **asked) == (
        "datasets.mine: a/b@000000000000: Couldn't reach 'a/b' on the Hub; without a network, give "
        "the rows as a file: datasets.mine.path"
    )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of this machine with one dataset, o/n, in two parquet files."""
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    for i, part in enumerate((ROWS[:4], ROWS[4:])):
        table = pyarrow.Table.from_pylist(part)
        pyarrow.parquet.write_table(table, folder / f"data/train-{i:05d}-of-00002.parquet")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Numbers\n")
    (folder / "data/test.json.gz").write_bytes(gzip.compress(LINES))
    with hub_server.running() as hub:
        hub.repositories["datasets/o/n"] = folder
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
        for name in ("ETAG", "DOWNLOAD"):  # patience on a busy machine
            monkeypatch.setenv(f"HF_HUB_{name}_TIMEOUT", "120")
        yield hub


def by_command(folder, **definition):
    """The verb in a process of its own: huggingface_hub reads its settings once."""
    spec = json.dumps(definition)
    command = [
        sys.executable,
        "-m",
        "rac",
        "dataset",
        "--spec",
        spec,
        "--name",
        "mine",
        "--code",
        "f00d",
    ]
    return subprocess.run([*command, "--output", folder], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["data/train-*.parquet"], ROWS),
        (["data/train-00001-*"], ROWS[4:]),
        (["data/test.json.gz"], ROWS),
    ],
)
def test_chosen_files_of_a_pinned_dataset(hub, tmp_path, files, expected):
    asked = {"hub": "o/n", "revision": hub.commit, "files": files}
    assert by_command(tmp_path / "out", **asked).returncode == 0
    rows = read_jsonl(tmp_path / "out/data.jsonl")
    assert rows == [row | {"answer": str(row["answer"])} for row in expected]
    meta = read_json(tmp_path / "out/meta.json")
    assert meta["origin"] == f"o/n@{hub.commit} {' '.join(files)}"
    assert meta["licence"] == "mit"
    if files == ["data/train-00001-*"]:
        assert not any("train-00000" in name for name in hub.asked)


def test_files_that_are_not_there_are_one_line(hub, tmp_path):
    asked = {"hub": "o/n", "revision": hub.commit, "files": ["train.parquet"]}
    done = by_command(tmp_path / "out", **asked)
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    message = "rac: error: datasets.mine: o/n holds no file train.parquet"
    assert done.stderr.splitlines()[-1] == message


def test_problems_of_another_dataset_are_dropped_and_counted(tmp_path):
    long = "A train leaves at nine and another one at ten; how far apart are they at noon on Monday"
    theirs = tmp_path / "resources/test/data.jsonl"
    theirs.parent.mkdir(parents=True)
    write_jsonl(theirs, [{"problem": "What is 2+2 ?"}, {"problem": f"Read this. {long}?"}])
    problems = ["what is $2 + 2$", f"{long.upper()}? Explain.", "What is 2+3?", "Another train."]
    rows = [{"id": str(i), "problem": text, "answer": "1"} for i, text in enumerate(problems)]
    write_jsonl(tmp_path / "d.jsonl", rows)
    dataset = Dataset(path=tmp_path / "d.jsonl", without=["test"])
    prepare_dataset(dataset, "mine", tmp_path / "out", {"test": theirs})
    assert [row["id"] for row in read_jsonl(tmp_path / "out/data.jsonl")] == ["2", "3"]
    assert read_json(tmp_path / "out/meta.json")["dropped"] == {"test": 2}
    write_record(theirs.with_name("meta.json"), {"sha256": {"data.jsonl": "of other rows"}})
    with pytest.raises(RacError, match="data.jsonl is not the file that its meta.json was written"):
        prepare_dataset(dataset, "mine", tmp_path / "again", {"test": theirs})
    assert not (tmp_path / "again").exists()
    theirs.unlink()
    with pytest.raises(RacError, match=r"datasets.mine.without: .*data.jsonl is missing$"):
        prepare_dataset(dataset, "mine", tmp_path / "out", {"test": theirs})


def test_a_dataset_may_have_no_answers(tmp_path):
    write_jsonl(tmp_path / "d.jsonl", [{"id": "a", "prompt": "Write a program."}])
    columns = {"problem": "prompt", "answer": None}
    (row,) = prepare(tmp_path / "out", path=tmp_path / "d.jsonl", columns=columns)
    assert row == {"id": "a", "prompt": "Write a program.", "problem": "Write a program."}


def test_livecodebench_is_a_release_and_a_window(hub, tmp_path):
    folder = tmp_path / "lcb"
    folder.mkdir()
    for name, day in (("test.jsonl", "2023-05-07"), ("test2.jsonl", "2024-02-03")):
        row = {"question_id": name, "question_content": "Add.", "contest_date": f"{day}T00:00:00"}
        write_jsonl(folder / name, [row])
    hub.repositories["datasets/o/lcb"] = folder
    window = {"release": "release_v2", "start": "2024-01-01", "end": "2024-03-01"}
    asked = {"hub": "o/lcb", "revision": hub.commit, "livecodebench": window, "kind": "programs"}
    columns = {"problem": "question_content"}
    done = by_command(tmp_path / "out", **asked, columns=columns)
    assert done.returncode == 0, done.stderr
    (row,) = read_jsonl(tmp_path / "out/data.jsonl")
    assert (row["id"], row["problem"]) == ("test2.jsonl", "Add.")
    marks = ("release_v2", "2024-01-01/2024-03-01", "2024-02-03")
    assert (row["release"], row["window"], row["date"]) == marks
    assert "contest_date" in row
    assert "release_v2 2024-01-01 to 2024-03-01" in read_json(tmp_path / "out/meta.json")["origin"]
    done = by_command(tmp_path / "kept", **asked, columns=columns, keep=[])
    assert done.returncode == 0, done.stderr
    (row,) = read_jsonl(tmp_path / "kept/data.jsonl")
    assert set(row) == {"id", "problem", "release", "window", "date"}
