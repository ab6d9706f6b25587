"""Where a run stands, told from files: done, running, failed with its reason, missing."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rac import config, matrix
from rac.status import LOCK, status, table

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
    ]
    assert {state for state, _ in found.values()} == {"missing"}
    assert found["m rac sparsegpt-0.5"][1] == "4 of 4 files are missing"
    assert "9 missing" in table(status(settings))


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
    make("logs/m/traces/traces-1.log", "started\ntorch.OutOfMemoryError: CUDA\n")
    Path("resources/datasets/d").mkdir(parents=True)  # as Snakemake does before the job
    make("logs/datasets/d.log", "json.decoder.JSONDecodeError: line 1\n")
    found = states(settings)
    state, said = found["m rac sparsegpt-0.5"]
    assert state == "failed" and said.startswith("layer ") and "\x1b" not in said
    assert found["m traces traces"] == ("failed", "torch.OutOfMemoryError: CUDA")
    assert found["dataset d"] == ("failed", "json.decoder.JSONDecodeError: line 1")


def test_what_writes_its_log_under_a_held_lock_runs(settings):
    make(str(LOCK))
    old = time.time() - 100
    make("logs/m/none/dense/words/generate.log", "generate: 10 tokens\n")
    os.utime("logs/m/none/dense/words/generate.log", (old, old))
    make("logs/m/traces/traces-0.log", "traces: 9 of 100 tokens\n")
    assert states(settings)["m traces traces"][0] == "missing"  # nobody holds the lock
    script = """
    import sys
    from pathlib import Path
    from rac.artifacts import hold
    hold(Path("results/.lock"))
    print("held", flush=True)
    sys.stdin.read()
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    make("logs/m/traces/traces-0.log", "traces: 9 of 100 tokens\n")
    found = states(settings)
    holder.communicate()
    assert found["m traces traces"] == ("running", "traces: 9 of 100 tokens")
    assert found["m none dense"][0] == "missing"  # its log is of an earlier call
