"""Slots of a machine's GPUs: each has one job, and no job waits for ever."""

import json
import os
import select
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rac import slots
from rac.errors import RacError

JOB = """
import json, sys, time
from pathlib import Path
from rac import slots
folder, names, count, seconds, log = sys.argv[1:]
taken = slots.hold(Path(folder), names.split(","), int(count), lambda seconds: time.sleep(0.02))
start = time.monotonic()
print(",".join(taken), flush=True)
time.sleep(float(seconds))
with open(log, "a") as out:
    out.write(json.dumps([taken, start, time.monotonic()]) + "\\n")
"""


@pytest.fixture
def job(tmp_path):
    """Start a process that holds slots for some seconds; killed at the end of the test."""
    started = []

    def start(count, seconds=60.0, names="0,1,2"):
        given = [str(tmp_path / "slots"), names, str(count), str(seconds), str(tmp_path / "log")]
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, *given], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def taken(process):
    return process.stdout.readline().strip()


def test_a_job_takes_the_first_free_slots_and_a_killed_one_gives_its_own_back(job):
    first = job(1)
    assert taken(first) == "0"
    second = job(2)
    assert taken(second) == "1,2"
    third = job(1)
    assert not select.select([third.stdout], [], [], 1.5)[0]  # it waits
    first.send_signal(signal.SIGKILL)
    assert taken(third) == "0"


def test_jobs_of_several_slots_wait_for_all_of_them_and_end(job, tmp_path):
    counts = [3, 1, 2, 2, 1, 3, 2, 1, 2, 1]
    jobs = [job(count, 0.1) for count in counts]
    for process in jobs:
        assert process.wait(timeout=60) == 0
    held = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(len(names) for names, _, _ in held) == sorted(counts)
    for i, (names, start, end) in enumerate(held):
        for others, begun, ended in held[i + 1 :]:
            assert not set(names) & set(others) or end <= begun or ended <= start


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """A folder of locks for the test, no GPU of the machine, and descriptors closed after it."""
    monkeypatch.setattr(slots.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(slots.VISIBLE, "")  # so that it is put back
    monkeypatch.delenv(slots.VISIBLE)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
    yield tmp_path
    for descriptor in set(os.listdir("/proc/self/fd")) - before if before else ():
        target = Path(f"/proc/self/fd/{descriptor}")
        if target.is_symlink() and str(target.readlink()).startswith(str(tmp_path)):
            os.close(int(descriptor))


def test_a_job_sees_the_gpus_that_it_asks_for(alone, monkeypatch, capsys):
    monkeypatch.setenv(slots.VISIBLE, "3, 5,GPU-a/b")
    slots.take(1)
    assert os.environ[slots.VISIBLE] == "3"
    assert capsys.readouterr().err == "GPU 3 of 3, 5, GPU-a/b\n"
    monkeypatch.setenv(slots.VISIBLE, "3,5,GPU-a/b")
    slots.take(2)
    assert os.environ[slots.VISIBLE] == "5,GPU-a/b"
    slots.take(0)
    assert os.environ[slots.VISIBLE] == ""


def test_a_job_that_asks_for_more_than_there_is_says_so(alone, monkeypatch):
    monkeypatch.setenv(slots.VISIBLE, "0,1")
    with pytest.raises(RacError, match="asks for 4 GPUs and 2 are visible.*tensor_parallel"):
        slots.take(4)
    monkeypatch.setenv(slots.VISIBLE, "0,0")
    with pytest.raises(RacError, match="asks for 2 GPUs and 1 are visible"):
        slots.take(2)


def test_without_a_gpu_nothing_is_taken(alone):
    slots.take(1)
    assert slots.VISIBLE not in os.environ
    assert not list(alone.glob("rac-slots*"))


def test_gpus_are_those_that_are_visible_or_that_the_driver_lists(alone, monkeypatch):
    assert slots.devices({}) == []
    tool = alone / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 0\necho 1\n")
    tool.chmod(0o755)
    assert slots.devices({}) == ["0", "1"]
    assert slots.devices({slots.VISIBLE: "1"}) == ["1"]
    assert slots.devices({slots.VISIBLE: ""}) == []
    tool.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert slots.devices({}) == []


def test_each_job_of_slurm_counts_its_own_gpus(alone):
    plain, first, second = (slots.folder(job) for job in ({}, *({"SLURM_JOB_ID": i} for i in "12")))
    assert len({plain, first, second}) == 3 and plain.parent == alone
    assert slots.hold(first, ["0"], 1) == slots.hold(second, ["0"], 1) == ["0"]
    assert stat.S_IMODE(first.stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_not_trusted(alone, monkeypatch):
    folder = slots.folder({})
    folder.mkdir()
    monkeypatch.setattr(slots.os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(RacError, match="another user's"):
        slots.hold(folder, ["0"], 1)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RacError, match="cannot lock a GPU in .*file"):
        slots.hold(tmp_path / "file", ["0"], 1)


def test_no_torch_is_imported():
    command = "import sys, rac.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0
