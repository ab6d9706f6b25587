"""One machine with several GPUs, for which CPU threads stand in: a job a slot, and the same table."""

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

import psutil
import pytest
import yaml

pytestmark = pytest.mark.slow

HEAVY = {"traces": 1, "hessians": 1, "compress": 2, "generate": 3}
LIGHT = {"dataset", "model", "sources", "requests", "score"}


def runs(process: int) -> bool:
    """Whether a process has not ended."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def light(process: int) -> bool:
    """Whether a workflow runs a job that needs no GPU."""
    for child in psutil.Process(process).children(recursive=True):
        try:
            command = child.cmdline()
        except psutil.NoSuchProcess:
            continue
        if command[1:3] == ["-m", "rac"] and LIGHT & {*command}:
            return True
    return False


def holders(folder: Path) -> dict[str, int]:
    """By slot, the process that took it last."""
    files = (folder / slot for slot in "01")
    return {file.name: int(text) for file in files if file.exists() and (text := file.read_text())}


def cut(values: dict) -> None:
    """The embedded reasoner on a GPU, few problems, and nothing held out."""
    reasoner = {"embedded": "reasoner", "dtype": "float32", "threads": 1, "device": "gpu"}
    values["models"]["tiny"] = reasoner
    values["datasets"]["calibration"]["rows"] = 60
    values["datasets"]["own"] = {"embedded": "word-problems", "split": "test", "rows": 24}
    values["sources"]["traces"].update(max_new_tokens=448, batch=20, tokens=8000)
    values["evals"]["words"].update(max_new_tokens=448, batch=24)
    del values["runs"]["small"]["heldout"]


def test_two_slots_are_both_busy_with_one_job_each_and_give_the_same_table(
    fresh, monkeypatch, tmp_path, record_property
):
    fresh.configure(cut)
    on_one = type(fresh)(tmp_path / "another project")
    shutil.copytree(fresh.folder, on_one.folder, symlinks=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the slots' locks are
    process = fresh.start("--profile", "profiles/workstation", "--resources", "gpu=2")
    jobs: dict[str, list[int]] = {"0": [], "1": []}
    busy = {0: 0, 1: 0, 2: 0}  # looks at which so many slots were held
    beside = 0  # looks at which a job without a GPU ran beside one with
    while process.poll() is None:
        for slot, job in holders(tmp_path / f"rac-slots-{os.getuid()}").items():
            if jobs[slot][-1:] != [job]:
                assert not (jobs[slot] and runs(jobs[slot][-1]))  # who had it before has ended
                jobs[slot].append(job)
        held = sum(bool(taken) and runs(taken[-1]) for taken in jobs.values())
        busy[held] += 1
        if held and not beside and busy[held] % 10 == 0:
            with contextlib.suppress(psutil.NoSuchProcess):
                beside += light(process.pid)
        time.sleep(0.02)
    assert process.returncode == 0, process.stdout.read()
    process.stdout.close()
    share = busy[2] / (busy[1] + busy[2])
    record_property(
        "counted", f"two slots: of the time in which one was held, both were in {share:.0%}"
    )
    assert share > 1 / 3 and beside  # one job after another gives none
    assert all(len(taken) > 1 for taken in jobs.values())
    taken = [job for each in jobs.values() for job in each]
    assert len(taken) == len(set(taken)) == sum(HEAVY.values())
    said = [
        re.findall(r"^GPU (\d) of 0, 1$", log.read_text(), re.M)
        for log in (fresh.folder / "logs").rglob("*.log")
    ]
    assert sorted(slot for each in said for slot in each) == sorted(
        slot for slot, each in jobs.items() for _ in each
    )
    on_one.make("--profile", "profiles/workstation", "results/summary.csv")
    assert fresh.table() == on_one.table()
    solved = {row["variant"]: float(row["accuracy"]) for row in fresh.table()}
    pruned = solved["sparsegpt-0.5"]
    record_property("counted", f"solved: dense {solved['dense']:.0%}, sparsegpt {pruned:.0%}")
    assert solved["dense"] > 0.5 and pruned > solved["magnitude-0.5"]


def test_profiles_do_not_say_twice_what_holds_for_all_of_them(fresh):
    """What profiles/default says would win."""
    default, *others = (
        set(yaml.safe_load((fresh.folder / f"profiles/{name}/config.yaml").read_text()))
        for name in ("default", "workstation", "slurm")
    )
    assert default and all(other and not default & other for other in others)
