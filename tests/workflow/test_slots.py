"""One machine with several GPUs, for which CPU threads stand in: a job a slot, and the same table."""

import json
import re
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

HEAVY = ("traces", "hessians", "compress", "generate", "diagnostics", "runtime")


def jobs_on_gpus(folder: Path) -> list[tuple[str, float, float]]:
    """The slot of every job that had one, with when it started and when its output was there."""
    found = {}
    for file in (folder / ".snakemake/metadata").rglob("*"):
        record = json.loads(file.read_text()) if file.is_file() else {}
        if record.get("rule") in HEAVY:
            log = record["log"][0]
            slot = re.search(r"^GPU (\d) of 0, 1$", (folder / log).read_text(), re.M)
            found[log] = slot[1], record["starttime"], record["endtime"]
    return list(found.values())


def test_two_slots_are_both_busy_with_one_job_each_and_give_the_same_table(
    fresh, finished_project, monkeypatch, tmp_path
):
    fresh.configure(lambda values: values["models"]["tiny"].update(device="gpu"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the slots' locks are
    fresh.make("--profile", "profiles/workstation", "--resources", "gpu=2")
    jobs = jobs_on_gpus(fresh.folder)
    assert len(jobs) == 12  # 2 traces, 2 hessians, 2 compress, 3 generate, 3 diagnostics
    assert {slot for slot, _, _ in jobs} == {"0", "1"}
    pairs = [(one, other) for i, one in enumerate(jobs) for other in jobs[i + 1 :]]
    together = [(a, b) for a, b in pairs if a[1] < b[2] and b[1] < a[2]]
    assert together
    assert all(one[0] != other[0] for one, other in together)
    assert fresh.table() == type(fresh)(finished_project).table()


def test_profiles_do_not_say_twice_what_holds_for_all_of_them(fresh):
    """What profiles/default says would win."""
    default, *others = (
        set(yaml.safe_load((fresh.folder / f"profiles/{name}/config.yaml").read_text()))
        for name in ("default", "workstation", "slurm")
    )
    assert default and all(other and not default & other for other in others)
