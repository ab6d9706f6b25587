"""Kills, locks and mistakes: nothing is lost but the chunk in flight, and every mistake is one line."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rac.artifacts import read_json, read_jsonl, sha256_file

pytestmark = pytest.mark.slow


def wait_for(path: Path, process, seconds: float = 300) -> None:
    """Until `path`, whose name is a pattern, exists; fails if the process ends before."""
    deadline = time.monotonic() + seconds
    while not any(path.parent.glob(path.name)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


def rac(project, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "rac", *arguments],
        cwd=project.folder,
        env=os.environ | {"PYTHONPATH": str(project.folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def sampled(log: Path) -> int:
    """The tokens that a stage says it sampled."""
    return int(re.findall(r"([\d,]+) of at most", log.read_text())[-1].replace(",", ""))


@pytest.mark.parametrize(
    ("folder", "file", "log", "name"),
    [
        (
            "results/tiny/traces/traces",
            "traces.jsonl.zst",
            "logs/tiny/traces/traces.log",
            "tiny traces traces",
        ),
        (
            "results/tiny/none/dense/words",
            "generations.jsonl.zst",
            "logs/tiny/none/dense/words/generate.log",
            "tiny none dense",
        ),
    ],
    ids=["traces", "generate"],
)
def test_killed_in_the_middle_and_called_again_gives_the_same_bytes(
    fresh, finished_project, folder, file, log, name, record_property
):
    target, work = f"{folder}/{file}", fresh.folder / folder / "work"
    process = fresh.start(target)
    wait_for(work / "part-*.zst", process)
    fresh.kill(process)
    assert not (fresh.folder / target).exists()
    assert re.search(f"^{name} +failed ", rac(fresh, "status").stdout, re.MULTILINE)
    rows = [row for part in work.glob("part-*") for row in read_jsonl(part)]
    stored = sum(len(row["token_ids"]) for row in rows)
    fresh.make(target)  # no unlocking by hand
    assert work.exists()  # kept: more samples may be asked for
    whole, resumed = sampled(finished_project / log), sampled(fresh.folder / log)
    assert stored > 0 and whole - resumed == stored  # of what was stored, nothing is drawn again
    record_property(
        "counted",
        f"{name}, snakemake killed: {stored} tokens stored, {resumed} of {whole} drawn after it",
    )
    assert sha256_file(fresh.folder / target) == sha256_file(finished_project / target)


def test_a_second_workflow_in_the_folder_is_refused(fresh):
    first = fresh.start("results/tiny/traces/traces/traces.jsonl.zst")
    wait_for(fresh.folder / "logs/tiny", first)
    code, output = fresh.run()
    assert code != 0 and "another workflow runs in this folder" in output
    first.communicate()
    assert first.returncode == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["variants"]["sparsegpt"].update(sparsty=1),
            "variants.sparsegpt.sparsty: unknown key; did you mean 'sparsity'?",
        ),
        (
            lambda c: c["evals"]["words"].update(task="word_problemz"),
            "there is no lm-eval task 'word_problemz'; did you mean 'word_problems'?",
        ),
        (
            lambda c: c["models"]["tiny"].update(path="no such folder"),
            "models.tiny.path: no such folder is not a Hugging Face folder",
        ),
        (lambda c: c.update(run="smal"), "run: 'smal' is not defined; did you mean 'small'?"),
        (
            lambda c: c["models"].update({"; rm -rf": {"embedded": "reasoner"}}),
            "'; rm -rf' cannot be a name",
        ),
    ],
)
def test_a_broken_config_is_one_line_before_any_job_starts(fresh, change, said):
    fresh.configure(change)
    code, output = fresh.run()
    assert code != 0
    assert [line for line in output.splitlines() if said in line]
    assert "Traceback" not in output and not (fresh.folder / "results").exists()


def test_a_missing_model_is_named_and_nothing_is_half_written(fresh):
    fresh.configure(lambda c: c["models"]["tiny"].update(path="no such folder"))
    code, output = fresh.run("resources/models/tiny")
    assert code != 0 and "no such folder" in output and "Traceback" not in output
    assert not (fresh.folder / "resources/models/tiny").exists()


@pytest.mark.parametrize("target", ["tiny/overlaps/sparsegpt-0.5.csv", "tiny/rac/dense/checkpoint"])
def test_what_is_no_artefact_of_the_run_is_one_line(fresh, target):
    code, output = fresh.run(f"results/{target}")
    assert code != 0 and f"No rule to produce results/{target} " in output
    assert "Traceback" not in output


def test_a_wrong_column_is_named_in_the_log(fresh):
    fresh.configure(lambda c: c["datasets"]["own"]["columns"].update(problem="queston"))
    code, _ = fresh.run("resources/datasets/own/data.jsonl")
    log = (fresh.folder / "logs/datasets/own.log").read_text()
    assert code != 0 and "no column 'queston'" in log and "question" in log
    assert "Traceback" not in log
    assert not (fresh.folder / "resources/datasets/own/data.jsonl").exists()


def test_a_finished_run_is_whole_and_all_of_it_is_needed(finished):
    stands = rac(finished, "status")
    assert stands.stdout.endswith("18 done, 0 running, 0 failed, 0 missing\n"), stands
    found = rac(finished, "verify")
    assert found.returncode == 0 and " 0 of them damaged or missing" in found.stdout
    assert rac(finished, "clean").stdout.split()[:2] == ["0.0", "MB"]
    hessian = finished.folder / "results/tiny/hessians/traces/layer-001.safetensors"
    content = bytearray(hessian.read_bytes())
    content[-3] ^= 4
    hessian.write_bytes(content)
    found = rac(finished, "verify")
    assert found.returncode == 1 and "layer-001.safetensors is not the file" in found.stdout
    record = finished.folder / "results/tiny/traces/traces/info.json"
    record.write_text(record.read_text().replace("stop", "shop", 1))
    command = rac(finished, "verify").stdout.splitlines()[-1]
    units = ["results/tiny/hessians/traces", "results/tiny/traces/traces/info.json"]
    assert command.split()[:4] == ["rm", "-rf", *units[:-1], f"{units[-1]};"]
    shutil.rmtree(finished.folder / units[0])
    record.unlink()
    assert finished.planned() == {}  # which is why the command names them
    finished.make(*units)
    found = rac(finished, "verify")
    assert found.returncode == 0, found.stdout


def test_definitions_that_are_edited_during_a_run_count_from_the_next_one(fresh):
    target = "results/tiny/traces/traces/traces.jsonl.zst"
    process = fresh.start(target)
    wait_for(fresh.folder / "results/tiny/traces/traces/work/part-*.zst", process)
    fresh.configure(lambda values: values["sources"]["traces"].update(tokens=300))
    output, _ = process.communicate()
    assert process.returncode == 0, output
    made = read_json(fresh.folder / "results/tiny/traces/traces/info.json")
    assert made["provenance"]["inputs"]["source"]["tokens"] == 500 <= made["tokens"]
    assert fresh.planned(target) == {"traces": 1}  # and what it was made of stays


def shift(files, hours: int) -> None:
    """Let files be as a clock that goes wrong dates them."""
    for file in files:
        seconds = file.lstat().st_mtime + 3600 * hours
        os.utime(file, (seconds, seconds), follow_symlinks=False)


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_clock_that_jumped_recomputes_nothing(finished, hours):
    # As after a copy from a machine with another clock, or a clock that was set during the run.
    for folder in ("results", "resources"):
        shift((finished.folder / folder).rglob("*"), hours)
    assert finished.planned() == {}


def test_a_clock_that_was_wrong_for_one_stage_costs_time_and_changes_nothing(
    finished, finished_project, record_property
):
    def shifted(folder: str, hours: int) -> dict[str, int]:
        """What is planned after a shift of a stage's outputs."""
        root = finished.folder / folder
        shift([root, *root.rglob("*")], hours)
        return finished.planned()

    hessians, answers = "results/tiny/hessians/traces", "results/tiny/none/dense/words"
    users = ("compress", "generate", "score", "diagnostics", "losses", "summary", "report")
    made_of_it = dict.fromkeys(users, 1)
    assert shifted(hessians, 30) == made_of_it  # newer than what was made of it
    assert shifted(hessians, -60) == {"hessians": 1} | made_of_it  # older than what it is made of
    assert shifted(hessians, 30) == {}
    again = {"generate": 1, "score": 1, "summary": 1, "report": 1}
    assert shifted(answers, -30) == again
    finished.make()
    assert sampled(finished.folder / "logs/tiny/none/dense/words/generate.log") == 0
    record_property("counted", "answers dated 30 h early: 4 jobs run again, 0 tokens drawn again")
    assert finished.table() == type(finished)(finished_project).table()
    assert "Nothing to be done" in finished.make()


HANG = """
import sys
if "generate" in sys.orig_argv and "none/dense" in " ".join(sys.orig_argv):
    from rac import progress
    from rac.engines import transformers
    progress.PATIENCE, progress.TIMES = 2.0, 3
    drawn, generate = [], transformers.generate
    def hangs(*arguments):
        drawn.append(0)
        if len(drawn) == 4:
            hang_once()
        return generate(*arguments)
    transformers.generate = hangs
"""


def test_a_stage_that_hangs_is_ended_and_goes_on_from_its_parts(
    finished, finished_project, record_property
):
    folder = "results/tiny/none/dense/words"
    shutil.rmtree(finished.folder / folder)
    (finished.folder / "results/summary.csv").unlink()
    finished.patch(HANG)
    output = finished.make("--retries", "1")
    assert (finished.folder / "hung").exists() and "Trying to restart job" in output
    whole, resumed = (
        sampled(project / "logs/tiny/none/dense/words/generate.log")
        for project in (finished_project, finished.folder)
    )
    rows = read_jsonl(finished.folder / folder / "generations.jsonl.zst")
    kept = sum(row["tokens"] for row in rows[:3])
    assert whole - resumed == kept > 0
    record_property("counted", f"generate, hung in its 4th batch: {kept} of {whole} tokens kept")
    for file in (f"{folder}/generations.jsonl.zst", f"{folder}/scores.jsonl.zst"):
        assert sha256_file(finished.folder / file) == sha256_file(finished_project / file)
    assert finished.table() == type(finished)(finished_project).table()


def test_a_disk_that_is_read_only_or_full_is_one_line_and_the_run_goes_on(
    fresh, finished_project, disk, record_property
):
    (fresh.folder / "results").symlink_to(disk.folder)
    disk.remount("ro")
    code, output = fresh.run()
    assert code != 0 and "cannot write results/.lock: Read-only file system" in output
    assert "Traceback" not in output and not (fresh.folder / "logs").exists()
    disk.remount("rw,size=500k")
    code, output = fresh.run()
    assert code != 0 and "Traceback" not in output
    said = re.findall(r"^tiny .* failed: (.*)$", output, re.MULTILINE)
    assert said and all("No space left on device" in line for line in said), output
    assert not [file for file in disk.everything() if file.endswith(".tmp")]
    kept = len([file for file in disk.everything() if file.endswith(".tsv")])
    disk.remount("size=16m")
    output = fresh.make()
    wanted = int(re.findall(r"of (\d+) steps", output)[-1])
    record_property("counted", f"disk full: {kept} jobs had ended, {wanted} run after it")
    assert fresh.table() == type(fresh)(finished_project).table()
