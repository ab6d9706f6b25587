"""The paper's matrix, planned: nothing of it can be computed without GPUs and the hub."""

import importlib.util
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from rac import config, fingerprint, matrix

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[2] / "config.yaml"
RUNS = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["runs"]["paper"]["includes"]


def planned(repository, run, tmp_path):
    """Number of jobs by rule."""
    shutil.copy(repository / "config.yaml", tmp_path)
    command = ["snakemake", "-n", "--cores", "2", "results/summary.csv", "--config", f"run={run}"]
    command += ["--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    stats = (done.stdout + done.stderr).split("Job stats:")[1].split("total")[0]
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", stats, re.MULTILINE)}


def test_the_whole_matrix_is_planned_in_seconds(repository, tmp_path):
    start = time.monotonic()
    counts = planned(repository, "paper", tmp_path)
    assert time.monotonic() - start < 30
    assert counts == {
        "model": 7,
        "dataset": 13,
        "requests": 15,  # MATH-500 of all, AIME-25 of five, LiveCodeBench of three
        "traces": 17,  # a model's own thoughts on math and on code, and those that are held out
        "sources": 42,  # C4, prompts, thoughts and both held-out sources; off-policy
        "hessians": 35,  # of all these but the held-out text
        "compress": 125,
        "generate": 176,
        "score": 176,
        "diagnostics": 125 + 7,
        "losses": 125 + 7,
        "runtime": 13,
        "summary": 1,
    }
    settings = config.validate(
        yaml.safe_load((repository / "config.yaml").read_text()) | {"run": "paper"}
    )
    cells = [(*row.values(),)[:3] + (row["eval"],) for row in matrix.summary_cells(settings)]
    assert len(cells) == len(set(cells))


@pytest.fixture(scope="module")
def overhead(repository):
    """benchmarks/workflow.py"""
    spec = importlib.util.spec_from_file_location("overhead", repository / "benchmarks/workflow.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_that_nothing_is_to_be_done_is_found_in_seconds(overhead, tmp_path, record_property):
    folder = tmp_path / "finished"
    overhead.copy(folder)
    assert overhead.finish(folder, "paper") > 1000
    command = overhead.snakemake(folder, "paper", "--cores", "1")
    before = os.times()
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    after = os.times()
    assert "Nothing to be done" in done.stdout + done.stderr
    # Of processor time, which other work on the machine does not lengthen.
    spent = sum(
        getattr(after, k) - getattr(before, k) for k in ("children_user", "children_system")
    )
    record_property("counted", f"nothing to be done for `paper`: {spent:.1f} s of processor time")
    assert spent < 15


def test_the_start_of_every_stage_is_measured(overhead):
    assert overhead.STAGES.keys() == fingerprint.STAGES.keys()


@pytest.mark.parametrize("run", RUNS)
def test_every_table_is_a_run_of_its_own(repository, run, tmp_path):
    counts = planned(repository, run, tmp_path)
    assert counts["summary"] == 1 and counts["compress"] > 0
