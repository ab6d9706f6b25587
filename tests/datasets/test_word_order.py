"""Passages in four orders of their words, once the right one."""

from collections import Counter

import pytest

from rac.artifacts import read_jsonl
from rac.datasets.prepare import prepare_dataset
from rac.datasets.word_order import problems
from rac.definitions import Dataset
from rac.errors import RacError
from rac.models.reasoner import text


def test_passages_follow_each_other_and_go_on_in_their_own_words():
    words = [f"w{i}" for i in range(67)]
    rows = list(problems(["too short", " ".join(words)], seed=0))
    assert [row["id"] for row in rows] == ["1-0", "1-20", "1-40"]
    said = " ".join(f"{row['problem']} {row['answer']}" for row in rows)
    assert said.split() == words[:60]
    for row in rows:
        assert len(set(row["choices"])) == 4 and row["answer"] in row["choices"]
        assert len({frozenset(Counter(choice.split()).items()) for choice in row["choices"]}) == 1
    assert rows == list(problems(["too short", " ".join(words)], seed=0))
    assert rows != list(problems(["too short", " ".join(words)], seed=1))


def test_words_that_hardly_differ_are_no_problem():
    assert list(problems(["one two " * 10, "one " * 25], seed=0)) == []


def test_the_embedded_rows_are_of_held_out_text_and_the_answer_stands_anywhere(tmp_path):
    given = {"embedded": "word-order", "split": "heldout"}
    prepare_dataset(Dataset.model_validate(given | {"rows": 200}), "order", tmp_path / "order")
    rows = read_jsonl(tmp_path / "order" / "data.jsonl")
    assert len({row["id"] for row in rows}) == len(rows) == 200
    documents = [" ".join(document.split()) for document in text.documents("heldout")]
    for row in rows:
        number = int(row["id"].partition("-")[0])
        assert f"{row['problem']} {row['answer']}" in documents[number]
    places = Counter(row["choices"].index(row["answer"]) for row in rows)
    assert min(places.values()) > 30 and len(places) == 4
    with pytest.raises(RacError, match="split 'calibration' is none of heldout"):
        wrong = Dataset.model_validate(given | {"split": "calibration"})
        prepare_dataset(wrong, "order", tmp_path / "wrong")
