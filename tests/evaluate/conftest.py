import re
from pathlib import Path

import pytest

from rac.artifacts import write_jsonl
from rac.definitions import Eval, Model
from rac.evaluate.requests import build_requests
from rac.models.prepare import prepare_model

PROBLEMS = [
    ("half", "What is 1/2?", "\\frac{1}{2}"),
    ("seven", "What is 3+4?", "7"),
    ("ten", "5+5?", "10"),
]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """The embedded reasoner's folder; its chat template opens a thought."""
    folder = tmp_path_factory.mktemp("models") / "reasoner"
    prepare_model(Model(embedded="reasoner", dtype="float32"), "reasoner", folder)
    return folder


@pytest.fixture(scope="session")
def bench(tmp_path_factory, checkpoint) -> Path:
    """A folder with data.jsonl of three problems and their requests.jsonl.zst."""
    folder = tmp_path_factory.mktemp("bench")
    rows = [{"id": key, "problem": text, "answer": answer} for key, text, answer in PROBLEMS]
    write_jsonl(folder / "data.jsonl", rows)
    evaluation = Eval(task="word_problems", dataset="bench")
    build_requests(
        evaluation.task, folder / "data.jsonl", checkpoint, folder / "requests.jsonl.zst"
    )
    return folder


@pytest.fixture(scope="session")
def documented():
    """File → the names in the tables that docs/evaluation.md has of it."""
    text = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")

    def names(file: str) -> set[str]:
        lines = text.partition(f"\n## {file}\n")[2].partition("\n## ")[0].splitlines()
        return {name for line in lines if line[:1] == "|" for name in re.findall("`(\\w+)`", line)}

    return names
