"""Kills at random moments of every stage: nothing is half written, and the end is as if nothing had been."""

import csv
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rac.artifacts import read_json, sha256_file

pytestmark = pytest.mark.slow

LONG = ("traces", "hessians", "compress", "generate", "diagnostics")
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


def untimed(table: Path) -> list[dict]:
    rows = list(csv.DictReader(table.open(encoding="utf-8", newline="")))
    return [
        {k: v for k, v in row.items() if not k.startswith(("seconds", "joules"))} for row in rows
    ]


def jobs(project) -> list[dict]:
    """A job of each rule but the page's and the clock's, with its outputs and command."""
    lines = project.make("--detailed-summary").splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("output_file\t"))
    found: dict[str, dict] = {}
    for row in csv.DictReader(lines[head:], delimiter="\t", quoting=csv.QUOTE_NONE):
        rule = row["rule"]
        if "python -m rac" in row["shellcmd"] and rule not in ("report", "runtime"):
            job = found.setdefault(rule, {"rule": rule, "command": row["shellcmd"], "outputs": []})
            if job["command"] == row["shellcmd"]:
                job["outputs"].append(row["output_file"])
    return [job | {"kills": 6 if rule in LONG else 3} for rule, job in found.items()]


def test_kills_at_random_moments_of_every_stage(finished, finished_project):
    asked = jobs(finished)
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
    met = {row["rule"]: row["met"] for row in map(json.loads, done.stdout.splitlines())}
    print(f"{sum(met.values())} kills met a running stage: {met}")
    assert sum(met.values()) >= 30
    for job in asked:
        for path in job["outputs"]:
            expected = content(finished_project / path)
            left = [kill / path for kill in finished.folder.glob(f"left/{job['rule']}-*")]
            for found in [finished.folder / path, *filter(Path.exists, left)]:
                assert not differences(content(found), expected, str(found))
    assert not list(finished.folder.glob("re*/**/*.tmp")) and "Traceback" not in log.read_text()


def test_a_workflow_that_is_killed_again_and_again_ends_with_the_same_table(
    fresh, finished_project
):
    chance = random.Random(1)
    for _ in range(5):
        process = fresh.start()
        time.sleep(8 + 12 * chance.random())
        fresh.kill(process)
    fresh.make()
    table = "results/summary.csv"
    assert untimed(fresh.folder / table) == untimed(finished_project / table)
    assert "Nothing to be done" in fresh.make()
