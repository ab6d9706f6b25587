"""One machine with several GPUs, for which CPU threads stand in: a job a slot, and the same table."""

import os
import re
import time
from pathlib import Path

import psutil
import pytest
import yaml

pytestmark = pytest.mark.slow

HEAVY = {"traces": 2, "hessians": 2, "compress": 2, "generate": 3, "diagnostics": 3}


def runs(process: int) -> bool:
    """Whether a process has not ended."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def holders(folder: Path) -> dict[str, int]:
    """By slot, the process that took it last."""
    files = (folder / slot for slot in "01")
    return {file.name: int(text) for file in files if file.exists() and (text := file.read_text())}


def test_two_slots_are_both_busy_with_one_job_each_and_give_the_same_table(
    fresh, finished_project, monkeypatch, tmp_path
):
    fresh.configure(lambda values: values["models"]["tiny"].update(device="gpu"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the slots' locks are
    process = fresh.start("--profile", "profiles/workstation", "--resources", "gpu=2")
    jobs: dict[str, list[int]] = {"0": [], "1": []}
    both = 0
    while process.poll() is None:
        for slot, job in holders(tmp_path / f"rac-slots-{os.getuid()}").items():
            if jobs[slot][-1:] != [job]:
                assert not (jobs[slot] and runs(jobs[slot][-1]))  # who had it before has ended
                jobs[slot].append(job)
        both += all(taken and runs(taken[-1]) for taken in jobs.values())
        time.sleep(0.02)
    assert process.returncode == 0, process.stdout.read()
    process.stdout.close()
    assert both and all(len(taken) > 1 for taken in jobs.values())
    taken = [job for each in jobs.values() for job in each]
    assert len(taken) == len(set(taken)) == sum(HEAVY.values())
    said = [
        re.findall(r"^GPU (\d) of 0, 1$", log.read_text(), re.M)
        for log in (fresh.folder / "logs").rglob("*.log")
    ]
    assert sorted(slot for each in said for slot in each) == sorted(
        slot for slot, each in jobs.items() for _ in each
    )
    assert fresh.table() == type(fresh)(finished_project).table()


def test_profiles_do_not_say_twice_what_holds_for_all_of_them(fresh):
    """What profiles/default says would win."""
    default, *others = (
        set(yaml.safe_load((fresh.folder / f"profiles/{name}/config.yaml").read_text()))
        for name in ("default", "workstation", "slurm")
    )
    assert default and all(other and not default & other for other in others)
