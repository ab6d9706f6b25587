"""Kills at random moments of every stage: nothing is half written, and the end is as if nothing had been.

What each kill cost is counted, and stands at the end of pytest's output.
"""

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rac.artifacts import read_json, read_jsonl, sha256_file, write_jsonl
from tests.workflow.conftest import untimed

pytestmark = pytest.mark.slow

LONG = {"traces", "hessians", "compress", "generate", "diagnostics", "losses", "likelihoods"}
LONG |= {"traces_shard", "hessians_shard", "generate_shard"}
PARTS = {"traces", "traces_shard", "generate", "generate_shard", "likelihoods"}  # keep them
# What differs between two runs of the same: times, and hashes of files that hold times.
TIMED = {"provenance", "seconds", "joules", "tokens_per_second", "sha256", "record_sha256"}


def content(path: Path) -> object:
    """An artefact: values or the hash of a file, or those of a folder's files."""
    if path.is_dir():
        files = (file for file in path.iterdir() if not file.name.startswith("."))  # Snakemake's
        return {file.name: content(file) for file in files}
    if path.suffix == ".json":
        return read_json(path)
    if path.name == "summary.csv":
        return untimed(path)
    if path.name.startswith("part-"):  # its rows hold their seconds
        return read_jsonl(path)
    return sha256_file(path)


def differences(found: object, expected: object, where: str) -> list[str]:
    """Where two artefacts differ, the clock apart, and how."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = sorted((found.keys() | expected.keys()) - TIMED)
        pairs = [(found.get(key), expected.get(key), f"{where}/{key}") for key in keys]
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = [
            (*both, f"{where}/{i}") for i, both in enumerate(zip(found, expected, strict=True))
        ]
    else:
        return [] if found == expected else [f"{where}: {found} is not {expected}"]
    return [line for pair in pairs for line in differences(*pair)]


def work_of(output: str) -> str:
    """Where a job keeps its part files: beside a file, or beside the folder of a shard."""
    return f"{output}.work" if "/shards/" in output else f"{os.path.dirname(output)}/work"


def jobs(project) -> dict[str, dict]:
    """Rule → a job of it, with its outputs and command; but the page's and the clock's."""
    lines = project.make("--detailed-summary").splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("output_file\t"))
    found: dict[str, dict] = {}
    for row in csv.DictReader(lines[head:], delimiter="\t", quoting=csv.QUOTE_NONE):
        rule, few = (
            row["rule"],
            "/heldout/" in f"{row['output_file']}/",
        )  # rows, or Hessians of them
        if "python -m rac" in row["shellcmd"] and rule not in ("report", "runtime") and not few:
            job = found.setdefault(rule, {"rule": rule, "command": row["shellcmd"], "outputs": []})
            if job["command"] == row["shellcmd"]:
                job["outputs"].append(row["output_file"])
    return found


def like(job: dict, rule: str, outputs: list[str], **options: str) -> dict:
    """A job whose command has other options, and is not one of the finished run."""
    command = job["command"].partition(" > ")[0]
    for option, value in (options | {"output": outputs[0]}).items():
        command = re.sub(f" --{option} \\S+", "", command) + f" --{option} {value}"
    return {"rule": rule, "command": command, "outputs": outputs}


def write_windows(path: Path) -> None:
    """Requests of log-likelihoods, of random texts."""
    drawn = random.Random(2)
    rows = []
    for i in range(120):
        ids = [drawn.randrange(3, 700) for _ in range(drawn.randint(20, 40))]
        row = {"doc_id": i, "id": str(i), "request": 0, "arguments": ["", ""]}
        rows.append(row | {"windows": [[ids[:10], ids[10:]]]})
    write_jsonl(path, rows)


def cost(row: dict) -> str:
    """What the kills of a stage cost, for the table."""
    said = f"{row['rule']:<16}{row['met']} kills met, {row['seconds']:4.1f} s of work ended"
    if row["rule"] not in PARTS:
        return f"{said}: all of it lost"
    rows = f"{sum(row['lost'])} rows lost in all, at most {max(row['lost'])} by one kill"
    return f"{said}: {rows} (of {row['rows']}, drawn {row['batch']} at a time)"


def test_kills_at_random_moments_of_every_stage(finished, finished_project, record_property):
    of_rules = jobs(finished)
    write_windows(finished.folder / "likely.jsonl.zst")
    folder = "results/tiny/none/dense/likely"
    likely = [f"{folder}/{name}" for name in ("generations.jsonl.zst", "generation.json")]
    others = {"engine": "likelihoods", "requests": "likely.jsonl.zst"}
    asked = [*of_rules.values(), like(of_rules["generate"], "likelihoods", likely, **others)]
    for rule in ("traces", "hessians", "generate"):
        shard = [f"results/tiny/shards/{rule}/any/1"]
        asked.append(like(of_rules[rule], f"{rule}_shard", shard, shard="1/2"))
    for job in asked:
        job |= {"kills": 6 if job["rule"] in LONG else 3, "work": work_of(job["outputs"][0])}
    assert {job["rule"] for job in asked} >= {*LONG, "dataset", "model", "sources", "score"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("forks.py")],
        input=json.dumps(asked),
        cwd=finished.folder,
        env=os.environ | {"PYTHONPATH": str(finished.folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    log = finished.folder / "kills.log"
    assert done.returncode == 0, done.stderr + log.read_text()
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        record_property("counted", cost(row))
    met = {row["rule"]: row["met"] for row in rows}
    assert sum(met.values()) >= 30 and min(met[rule] for rule in LONG) >= 3, met
    for row in rows:
        if row["rule"] in PARTS:  # what is lost is drawn again; what is stored is not
            assert row["rows"] > row["batch"] > 0 and row["last"] == 0, row
            assert all(0 <= lost <= row["batch"] for lost in row["lost"]), row
    for job in asked:
        for path in job["outputs"]:
            whole = finished.folder / "whole" / job["rule"] / path
            there = finished_project / path
            expected = content(there if there.exists() else whole)
            left = [kill / job["rule"] / path for kill in finished.folder.glob("left/*")]
            for found in [finished.folder / path, whole, *filter(Path.exists, left)]:
                assert not differences(content(found), expected, str(found))
    assert not list(finished.folder.glob("re*/**/*.tmp")) and "Traceback" not in log.read_text()


def ended(project) -> dict[str, int]:
    """The jobs that came to their end, and when: Snakemake's benchmark files."""
    files = project.folder.glob("results/**/benchmarks/**/*.tsv")
    return {str(file.relative_to(project.folder)): file.stat().st_mtime_ns for file in files}


def test_a_workflow_that_is_killed_again_and_again_ends_with_the_same_table(
    fresh, finished_project, record_property
):
    chance, table = random.Random(1), "results/summary.csv"
    done: dict[str, int] = {}
    again = []
    for kill in range(5):
        process, start = fresh.start(), len(ended(fresh))
        while len(ended(fresh)) < start + 3:  # so that all kills together meet most of the run
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        time.sleep(chance.random())
        assert process.poll() is None  # the signal meets a workflow that runs
        fresh.kill(process, (signal.SIGTERM, signal.SIGKILL)[kill % 2])
        assert process.returncode != 0 and not (fresh.folder / table).exists()
        now = ended(fresh)
        again.append(sum(now.get(file) != time for file, time in done.items()))
        done = now
    fresh.make()
    now = ended(fresh)
    again.append(sum(now.get(file) != time for file, time in done.items()))
    record_property(
        "counted",
        f"the workflow: 5 kills, jobs that had ended and ran again, after each: {again[1:]}",
    )
    # Snakemake may not have noted yet that a job ended; there are two at once.
    assert len(done) >= 15 and max(again) <= 2
    assert fresh.table() == type(fresh)(finished_project).table()
    assert "Nothing to be done" in fresh.make()
