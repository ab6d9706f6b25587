"""Where a run stands, told from files: done, running, failed with its reason, missing."""

import copy
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rac import config, matrix
from rac.status import status, table

VALUES = {
    "run": "r",
    "models": {"m": {"embedded": "reasoner"}},
    "datasets": {
        "d": {"embedded": "word-problems", "split": "calibration", "rows": 5},
        "t": {"embedded": "word-problems", "split": "test", "rows": 5},
    },
    "sources": {"traces": {"kind": "traces", "dataset": "d", "tokens": 100, "shards": 2}},
    "calibrations": {"rac": {"sum": {"traces": 1}}},
    "variants": {"sparsegpt": {"solver": "sparsegpt", "sparsity": [0.5]}},
    "evals": {"words": {"task": "word_problems", "dataset": "t"}},
    "workloads": {},
    "runs": {
        "r": {
            "cells": [
                {
                    "models": ["m"],
                    "calibrations": ["rac"],
                    "variants": ["sparsegpt"],
                    "evals": ["words"],
                }
            ]
        }
    },
}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return config.validate(VALUES)


def make(path: str, text: str = "") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def states(settings) -> dict[str, tuple[str, str]]:
    return {row.name: (row.state, row.said) for row in status(settings)}


def test_nothing_is_there_at_first(settings):
    found = states(settings)
    assert list(found) == [
        *("dataset d", "dataset t", "m", "m traces traces", "m sources traces"),
        *("m hessians traces", "m requests words", "m none dense", "m rac sparsegpt-0.5"),
        *("summary", "report"),
    ]
    assert {state for state, _ in found.values()} == {"missing"}
    assert found["m rac sparsegpt-0.5"][1] == "4 of 4 files are missing"
    assert "11 missing" in table(status(settings))


def test_what_is_there_is_done_with_its_time_and_size(settings):
    make("results/m/traces/traces/traces.jsonl.zst", "12345678")
    header = "s\th:m:s\tmax_rss\tcpu_time\n"
    make("results/m/benchmarks/traces/traces.tsv", header + "61.5\t0:01:01\t10\t50\n")
    for file in matrix.files_of(matrix.summary_cells(settings)[0]):
        make(file, "12")
    make("results/m/benchmarks/generate/none/dense/words.tsv", header + "7\t0:00:07\t-\t-\n")
    make("results/m/benchmarks/generate/none/other/words.tsv", header + "9\t0:00:09\t-\t-\n")
    rows = {row.name: row for row in status(settings)}
    traces, dense = rows["m traces traces"], rows["m none dense"]
    assert (traces.state, traces.seconds, traces.bytes) == ("done", 61.5, 8)
    assert (dense.state, dense.seconds, dense.bytes) == ("done", 7.0, 6)


def test_a_failure_shows_its_reason_in_one_plain_line(settings):
    make(
        "logs/m/rac/sparsegpt-0.5/compress.log", "started\nrac: error: layer \x1b[31mx\x1b[0m bad\n"
    )
    make("logs/m/traces/traces+1.log", "started\ntorch.OutOfMemoryError: CUDA\n")
    Path("resources/datasets/d").mkdir(parents=True)  # as Snakemake does before the job
    make("logs/datasets/d.log", "json.decoder.JSONDecodeError: line 1\n")
    found = states(settings)
    state, said = found["m rac sparsegpt-0.5"]
    assert state == "failed" and said.startswith("layer ") and "\x1b" not in said
    assert found["m traces traces"] == ("failed", "torch.OutOfMemoryError: CUDA")
    assert found["dataset d"] == ("failed", "json.decoder.JSONDecodeError: line 1")


def test_a_failure_is_of_no_other_source_whose_name_begins_alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = copy.deepcopy(VALUES)
    for name in ("traces-heldout", "traces-0"):
        values["sources"][name] = {"kind": "traces", "dataset": "d", "tokens": 100}
        values["calibrations"][name] = {"sum": {name: 1}}
        values["runs"]["r"]["cells"][0]["calibrations"].append(name)
    settings = config.validate(values)
    for name in ("traces-heldout", "traces-0"):
        make(f"logs/m/traces/{name}.log", f"rac: error: {name} failed\n")
    found = states(settings)
    assert found["m traces traces"] == ("missing", "")
    assert found["m traces traces-0"] == ("failed", "traces-0 failed")
    make("logs/m/traces/traces+0.log", "rac: error: its shard failed\n")
    found = states(settings)
    assert found["m traces traces"] == ("failed", "its shard failed")
    assert found["m traces traces-0"] == ("failed", "traces-0 failed")


def test_diagnostics_losses_and_overlaps_are_looked_at_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = copy.deepcopy(VALUES)
    split = {"embedded": "word-problems", "split": "validation"}
    c4 = {"embedded": "c4", "kind": "documents", "split": "calibration"}
    values["datasets"] |= {"v": split, "c4": c4, "c5": c4 | {"split": "heldout"}}
    values["sources"]["heldout"] = values["sources"]["traces"] | {"dataset": "v"}
    values["sources"]["text"] = {"kind": "text", "dataset": "c4", "tokens": 100, "window": 50}
    values["sources"]["other"] = values["sources"]["text"] | {"dataset": "c5"}
    values["calibrations"]["text"] = {"sum": {"text": 1}}
    values["runs"]["r"]["heldout"] = {"thoughts": "heldout", "text": "other"}
    values["runs"]["r"]["cells"][0]["calibrations"] = ["rac", "text"]
    settings = config.validate(values)
    make("logs/m/none/dense/losses/heldout+other.log", "the last words\n")
    make("logs/m/rac/sparsegpt-0.5/diagnostics/heldout.log", "rac: error: of another model\n")
    make("logs/m/overlaps/sparsegpt-0.5.log", "rac: error: no zeros\n")
    found = states(settings)
    assert found["m none dense"] == ("failed", "the last words")
    assert found["m rac sparsegpt-0.5"] == ("failed", "of another model")
    assert found["m overlaps sparsegpt-0.5"] == ("failed", "no zeros")
    make("results/m/benchmarks/losses/none/dense/heldout+other.tsv", "s\n1\n")
    assert states(settings)["m none dense"][0] == "missing"


def age(path: str, seconds: float) -> None:
    """Let a file be as old as that."""
    then = time.time() - seconds
    os.utime(path, (then, then))


HOLDS = """
import sys
from pathlib import Path
from rac.artifacts import hold
hold(Path("results/.lock"))
print("held", flush=True)
sys.stdin.read()
"""
TRACES = """
import sys, time
from rac.__main__ import job
job()
print("traces: 9 of 100 tokens\\n", file=sys.stderr, flush=True)
time.sleep(600)
"""


@pytest.fixture
def workflow(settings):
    """A workflow that runs in the folder."""
    command = [sys.executable, "-c", HOLDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        yield holder
        holder.kill()


@pytest.fixture
def job(settings):
    """A job that has written a line to its log, and hangs."""
    log = Path("logs/m/traces/traces+0.log")
    make(str(log))
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-c", TRACES], stdout=out, stderr=out)
    while "tokens" not in log.read_text():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def test_a_job_runs_until_it_is_killed_and_then_has_failed(settings, workflow, job):
    said = "traces: 9 of 100 tokens"
    assert states(settings)["m traces traces"] == ("running", said)
    age("logs/m/traces/traces+0.log", 3600)
    assert states(settings)["m traces traces"] == ("running", f"silent for 60 minutes; {said}")
    job.kill()  # SIGKILL: as a cluster's limits, or a machine short of memory
    job.wait()
    assert states(settings)["m traces traces"] == ("failed", said)
    workflow.kill()
    workflow.wait()
    assert states(settings)["m traces traces"] == ("failed", said)


def test_a_job_that_starts_runs_and_one_of_a_cluster_that_ended_has_failed(settings, workflow):
    log = "logs/m/none/dense/words/generate.log"
    make(log)  # before Python has started
    assert states(settings)["m none dense"] == ("running", "3 of 3 files are missing")
    age(log, 60)
    assert states(settings)["m none dense"] == ("failed", "it ended without a word")
    make(log)
    workflow.kill()
    workflow.wait()
    assert states(settings)["m none dense"] == ("failed", "it ended without a word")


@pytest.mark.parametrize(
    ("log", "times", "name"),
    [
        ("m/traces/traces+1", "results/m/benchmarks/traces/traces+1", "m traces traces"),
        ("datasets/d", "results/benchmarks/dataset/d", "dataset d"),
        ("models/m", "results/m/benchmarks/model", "m"),
        ("summary", "results/benchmarks/summary", "summary"),
        (
            "m/none/dense/words/generate+1",
            "results/m/benchmarks/generate/none/dense/words+1",
            "m none dense",
        ),
        (
            "m/rac/sparsegpt-0.5/compress",
            "results/m/benchmarks/compress/rac/sparsegpt-0.5",
            "m rac sparsegpt-0.5",
        ),
    ],
)
def test_what_was_made_and_removed_is_missing_and_has_not_failed(settings, log, times, name):
    make(f"logs/{log}.log", "all is well\n")
    assert states(settings)[name] == ("failed", "all is well")
    make(f"{times}.tsv", "s\th:m:s\tmax_rss\tcpu_time\n1\t0:00:01\t-\t-\n")
    state, said = states(settings)[name]
    assert state == "missing" and "well" not in said
    age(f"{times}.tsv", 60)  # of an earlier call
    assert states(settings)[name] == ("failed", "all is well")
