"""A model and a benchmark of the hub, added by the README's lines and run through to rows of the table."""

import csv
import re

import pytest
import yaml

from tests import hub_server
from tests.workflow.conftest import TRACES

pytestmark = pytest.mark.slow


CELLS = {
    "models": ["mine"],
    "calibrations": ["mine"],
    "variants": ["sparsegpt-0.5", "magnitude"],
    "evals": ["my-exam"],
}


def readme_model(repository) -> dict:
    """The README's first definition of a model of the hub."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    blocks = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    (models,) = (block["models"] for block in blocks if "models" in block)
    return next(model for model in models.values() if "hub" in model)


def test_a_model_of_the_hub_comes_to_a_row_of_the_table(fresh, repository, tmp_path, monkeypatch):
    exam = tmp_path / "exam"
    exam.mkdir()
    (fresh.folder / "own problems.jsonl").rename(exam / "test.jsonl")
    with hub_server.running() as hub:
        hub.repositories |= {"o/tiny": fresh.folder / "tiny model", "datasets/o/exam": exam}
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        pinned = {"revision": hub.commit}
        own = {
            "models": {"mine": readme_model(repository) | pinned | {"hub": "o/tiny"}},
            "datasets": {
                "my-problems": {"embedded": "word-problems", "split": "calibration", "rows": 12},
                "my-exam": pinned
                | {"hub": "o/exam", "files": ["test.jsonl"], "columns": {"problem": "question"}},
            },
            "sources": {"mine": {**TRACES, "dataset": "my-problems", "tokens": 500}},
            "calibrations": {"mine": {"sum": {"mine": 1}}},
            "evals": {
                "my-exam": {"task": "word_problems", "dataset": "my-exam", "max_new_tokens": 24}
            },
            "runs": {"mine": {"cells": [CELLS]}},
        }

        def add(config):
            config |= yaml.safe_load((repository / "config.yaml").read_text(encoding="utf-8"))
            config["run"] = "mine"
            for key, definitions in own.items():
                config[key] |= definitions

        fresh.configure(add)
        fresh.make("results/summary.csv")
    with (fresh.folder / "results/summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"mine"} and len(rows) == 3
    assert all(row["accuracy"] and row["problems"] == "6" for row in rows)
    weights = fresh.folder / "resources/models/mine/model.safetensors"
    assert weights.is_symlink() and (tmp_path / "home") in weights.resolve().parents
    assert hub.asked["model.safetensors"] == 1
    assert "Bearer hf_secret" in hub.tokens
    for folder in ("results", "resources", "logs", ".snakemake"):
        files = (file for file in (fresh.folder / folder).rglob("*") if file.is_file())
        assert not [file for file in files if b"hf_secret" in file.read_bytes()]
    # The hub is gone, and is asked nothing any more.
    cells = CELLS | {"variants": ["sparsegpt-0.3", *CELLS["variants"]]}
    fresh.configure(lambda config: config["runs"]["mine"].update(cells=[cells]))
    fresh.make("results/summary.csv")
