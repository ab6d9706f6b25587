"""A copy of the workflow in a folder of its own (with a space in its path), small enough for seconds."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
PARTS = ("Snakefile", "rules", "rac", "profiles", "envs", "docs")
TRACES = {"kind": "traces", "max_new_tokens": 24, "batch": 1}
CONFIG = {
    "run": "small",
    "models": {"tiny": {"path": "tiny model", "dtype": "float32", "threads": 1}},
    "datasets": {
        "calibration": {"embedded": "word-problems", "split": "calibration", "rows": 12},
        "validation": {"embedded": "word-problems", "split": "validation", "rows": 6},
        "own": {"path": "own problems.jsonl", "columns": {"problem": "question"}},
        "c4": {"embedded": "c4", "kind": "documents", "split": "calibration"},
        "c4-heldout": {"embedded": "c4", "kind": "documents", "split": "heldout"},
        "programs": {  # of no run; its dates are no JSON
            "hub": "livecodebench/code_generation_lite",
            "revision": "0" * 40,
            "livecodebench": {
                "release": "release_v5",
                "start": date(2024, 8, 1),
                "end": date(2025, 2, 1),
            },
            "kind": "programs",
        },
    },
    "sources": {
        "text": {"kind": "text", "dataset": "c4", "tokens": 500, "window": 100},
        "traces": {**TRACES, "dataset": "calibration", "tokens": 500},
        "heldout-text": {"kind": "text", "dataset": "c4-heldout", "tokens": 300, "window": 100},
        "heldout": {**TRACES, "dataset": "validation", "tokens": 200},
    },
    "calibrations": {
        "text": {"sum": {"text": 1}},
        "rac": {"sum": {"traces.prompt": 1, "traces.decode": 1}},
        "mix": {"share": {"traces.prompt": 0.5, "traces.decode": 0.5}},
    },
    "variants": {
        "magnitude": {"solver": "magnitude", "sparsity": 0.5},
        "sparsegpt": {"solver": "sparsegpt", "sparsity": [0.5]},
    },
    "evals": {
        "words": {"task": "word_problems", "dataset": "own", "max_new_tokens": 24, "batch": 1},
    },
    "workloads": {},
    "runs": {
        "small": {
            "heldout": {"thoughts": "heldout", "text": "heldout-text"},
            "cells": [
                {
                    "models": ["tiny"],
                    "calibrations": ["rac"],
                    "variants": ["sparsegpt", "magnitude"],
                    "evals": ["words"],
                }
            ],
        },
        "wider": {
            "heldout": {"thoughts": "heldout", "text": "heldout-text"},
            "cells": [
                {
                    "models": ["tiny"],
                    "calibrations": ["rac", "mix"],
                    "variants": ["sparsegpt"],
                    "evals": ["words"],
                }
            ],
        },
    },
}

HANG_ONCE = """
def hang_once():
    import time
    try:
        open("hung", "x").close()
    except FileExistsError:
        return
    time.sleep(600)
"""


def untimed(table: Path) -> list[dict]:
    """The rows of a summary.csv, timings aside."""
    rows = csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    timings = ("seconds_", "joules_", "tokens_per_second_", "speedup_", "peak_memory_bytes")
    return [
        {key: value for key, value in row.items() if not key.startswith(timings)} for row in rows
    ]


class Project:
    """A copy of the workflow in `folder`, with config.yaml to change and snakemake to run."""

    def __init__(self, folder: Path, python: str = sys.executable):
        self.folder, self.python = folder, python

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start snakemake in a process group of its own."""
        path = f"{Path(self.python).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            [self.python, "-m", "snakemake", "--cores", "2", *arguments],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder), "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run snakemake to its end: exit code and output."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=900)
        return process.returncode, output

    def make(self, *arguments: str) -> str:
        """Run snakemake, which must succeed."""
        code, output = self.run(*arguments)
        logs = [f"{log}:\n{log.read_text()[-2000:]}" for log in self.folder.glob("logs/**/*.log")]
        assert code == 0, "\n".join([output, *logs])
        return output

    def planned(self, *arguments: str) -> dict[str, int]:
        """How many jobs of each rule a dry run plans."""
        output = self.make("--dry-run", *arguments)
        table = output.partition("Job stats:")[2].partition("total")[0]
        counts = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}
        counts.pop("all", None)
        return counts

    def configure(self, change) -> None:
        """Let `change` edit config.yaml's content."""
        file = self.folder / "config.yaml"
        values = yaml.safe_load(file.read_text())
        change(values)
        file.write_text(yaml.safe_dump(values, sort_keys=False))

    def patch(self, script: str) -> None:
        """Let each process of the workflow begin with `script`, which may call `hang_once`."""
        (self.folder / "sitecustomize.py").write_text(HANG_ONCE + script)

    def table(self) -> list[dict]:
        """The rows of summary.csv, timings aside."""
        return untimed(self.folder / "results/summary.csv")

    def kill(self, process: subprocess.Popen, by: int = signal.SIGKILL) -> None:
        """Kill snakemake and everything that it started."""
        os.killpg(process.pid, by)
        process.communicate()


@pytest.fixture(scope="session")
def fresh_project(tmp_path_factory, random_qwen2, save_model) -> Path:
    """A workflow that has not run yet, to be copied."""
    folder = tmp_path_factory.mktemp("fresh") / "a project"
    folder.mkdir()
    for part in PARTS:
        source = REPOSITORY / part
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source, folder / part, ignore=ignored)
        else:
            shutil.copyfile(source, folder / part)
    model = save_model(random_qwen2(), folder / "tiny model")
    (model / "model.json").unlink()  # the `model` stage's work
    problems = [f'{{"question": "{n} + {n}?", "answer": "{n + n}"}}' for n in range(6)]
    (folder / "own problems.jsonl").write_text("\n".join(problems))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def finished_project(fresh_project, tmp_path_factory) -> Path:
    """The workflow after its run, to be copied."""
    folder = tmp_path_factory.mktemp("finished") / "a project"
    shutil.copytree(fresh_project, folder, symlinks=True)
    Project(folder).make()
    return folder


@pytest.fixture
def fresh(fresh_project, tmp_path) -> Project:
    """A workflow that has not run yet."""
    shutil.copytree(fresh_project, tmp_path / "a project", symlinks=True)
    return Project(tmp_path / "a project")


@pytest.fixture
def finished(finished_project, tmp_path) -> Project:
    """A workflow whose run is complete."""
    shutil.copytree(finished_project, tmp_path / "a project", symlinks=True)
    return Project(tmp_path / "a project")
