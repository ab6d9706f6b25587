"""Table and page of a run in which something failed, and Snakemake's own report."""

import csv
import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def call(project, *arguments: str) -> subprocess.CompletedProcess:
    """Run a command of Python's in the project."""
    environment = os.environ | {"PYTHONPATH": str(project.folder)}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=project.folder, env=environment, capture_output=True, text=True
    )


def test_a_run_that_failed_in_places_has_a_page_that_says_so(finished):
    cell = finished.folder / "results/tiny/rac/sparsegpt-0.5/words"
    for name in ("metrics.json", "scores.jsonl.zst"):
        (cell / name).unlink()
    for name in ("summary.csv", "comparisons.csv", "budgets.csv", "report.html"):
        (finished.folder / "results" / name).unlink()
    log = finished.folder / "logs/tiny/rac/sparsegpt-0.5/words/score.log"
    log.write_text("rac: error: the disk is full\n")
    done = call(finished, "rac", "preview")
    assert done.returncode == 0, done.stderr
    assert "2 of 3 cells are complete" in done.stdout
    folder = finished.folder / "results/preview"
    rows = list(csv.DictReader((folder / "summary.csv").open()))
    assert [bool(row["accuracy"]) for row in rows] == [True, False, True]
    page = (folder / "report.html").read_text()
    assert "× missing" in page and "failed: the disk is full" in page
    assert re.search(r">snakemake --cores \d+ --config run=\w+<", page)
    # None of it counts as made.
    assert finished.planned() == {"score": 1, "summary": 1, "report": 1}


def test_snakemakes_report_holds_the_page_the_tables_and_the_figures(finished):
    done = call(finished, "snakemake", "--cores", "1", "--report", "report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    text = (finished.folder / "report.html").read_text()
    for name in ("summary.csv", "comparisons.csv", "budgets.csv", "accuracy-others-tiny-words.svg"):
        assert name in text
    assert "One row a cell and eval" in text and "A figure of the run" in text
