"""The workflow on a SLURM cluster of one node with one GPU, which this machine stands in for."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from rac.artifacts import sha256_file

pytestmark = pytest.mark.slow

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)]
NODE = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
KillWait=2
MinJobAge=3600
GresTypes=gpu
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=32000 Gres=gpu:1
PartitionName=main Nodes=node Default=YES
"""


class Job(NamedTuple):
    """What SLURM says of a job."""

    id: str
    comment: str  # the rule and its wildcards
    state: str
    gpu: bool
    memory: int  # MB
    limit: str  # of time, hours:minutes:seconds
    submitted: datetime
    start: datetime
    end: datetime

    @classmethod
    def all(cls) -> list["Job"]:
        """Every job so far, in the order of submission; those that wait have not started."""
        shown = subprocess.run(["scontrol", "show", "job", "-o"], capture_output=True, text=True)
        return [cls.of(line) for line in shown.stdout.splitlines() if line.startswith("JobId")]

    @classmethod
    def of(cls, line: str) -> "Job":
        """A job from a line of scontrol."""
        fields = dict(re.findall(r"(\w+)=(\S+)", line))
        times = [
            datetime.max if fields[key] == "Unknown" else datetime.fromisoformat(fields[key])
            for key in ("SubmitTime", "StartTime", "EndTime")
        ]
        memory = int(fields["MinMemoryNode"].rstrip("M"))
        gpu = fields.get("TresPerJob") == "gres:gpu:1"
        said = (fields[key] for key in ("JobId", "Comment", "JobState"))
        return cls(*said, gpu, memory, fields["TimeLimit"], *times)


def until(condition, what: str, seconds: float = 120) -> None:
    """Wait for `condition`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[None]:
    """munged, slurmctld and slurmd, and an environment in which jobs are sent to them."""
    if MISSING:
        pytest.skip(f"this machine has no {', '.join(MISSING)}: apt-get install slurm-wlm munge")
    if os.getuid() != 0:
        pytest.skip("SLURM's daemons are started by root alone")
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install -e '.[slurm]'")
    folder = tmp_path / "slurm"
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    configuration = folder / "slurm.conf"
    configuration.write_text(NODE.format(folder=folder, host=host, ports=free_ports(2)))
    (folder / "gres.conf").write_text("NodeName=node Name=gpu File=/dev/zero\n")
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    # The executor starts srun without the environment's SLURM_CONF: elsewhere it is in /etc.
    srun = folder / "bin/srun"
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    files = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "key-file")]
    files += [f"--{name}-file={folder}/munged.{name}" for name in ("log", "pid", "seed")]
    started = []

    def start(*command: str) -> None:
        with (folder / f"{command[0]}.out").open("w") as out:
            started.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))

    try:
        start("munged", "--foreground", "--force", *files)  # the folder is root's alone
        until((folder / "munge.socket").exists, "munged", 20)
        start("slurmctld", "-D", "-i")
        start("slurmd", "-D", "-N", "node")
        until(
            lambda: b"idle" in subprocess.run("sinfo", capture_output=True).stdout, "the node", 20
        )
        yield
    finally:
        subprocess.run(["scancel", "--user", "root"], capture_output=True)
        until(lambda: not subprocess.run(["squeue", "-h"], capture_output=True).stdout, "the end")
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=60)


ARGUMENTS = (
    *("--profile", "profiles/slurm", "--slurm-no-account"),
    *("--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "1"),
    *("--set-resources", "requests:mem_mb=attempt*300", "score:runtime=attempt"),
    *("--latency-wait", "5"),
)
HANG = """
import sys
if "score" in sys.orig_argv and "none/dense" in " ".join(sys.orig_argv):
    hang_once()
"""


def cut(values: dict) -> None:
    """The reasoner on a GPU, answers by two jobs a cell, one cell timed, and nothing held out."""
    reasoner = {"embedded": "reasoner", "dtype": "float32", "threads": 1, "device": "gpu"}
    values["models"]["tiny"] = reasoner
    values["evals"]["words"]["shards"] = 2
    quick = {"batches": [1], "prompt_tokens": 4, "new_tokens": 4, "repeats": 1}
    values["workloads"]["quick"] = quick
    run = values["runs"]["small"]
    del run["heldout"]
    run["workload"] = "quick"
    timed = {"models": ["tiny"], "calibrations": ["rac"], "variants": ["sparsegpt"]}
    run["cells"].append(timed | {"runtime": True})


def longer(values: dict) -> None:
    """Answers of another length."""
    values["evals"]["words"]["max_new_tokens"] = 12


def sampled(log: Path) -> int:
    """The tokens that a stage says it sampled."""
    return int(re.findall(r"([\d,]+) of at most", log.read_text())[-1].replace(",", ""))


def test_a_run_goes_through_a_cluster_that_cancels_and_kills_its_jobs(cluster, fresh, tmp_path):
    fresh.configure(cut)
    undisturbed = type(fresh)(tmp_path / "another project")
    shutil.copytree(fresh.folder, undisturbed.folder, symlinks=True)

    fresh.patch(HANG)  # the first scoring of the dense model
    # The executor does not quote the path of Python, and a checkout may lie in one with a space.
    (tmp_path / "venv").symlink_to(Path(sys.executable).parents[1])
    fresh.python = str(tmp_path / "venv/bin/python")
    process = fresh.start(*ARGUMENTS, "results/summary.csv")
    work = fresh.folder / "results/tiny/traces/traces/work"
    until(
        lambda: any(work.glob("part-*.zst")) or process.poll() is not None,
        "the first part of the traces",
    )
    [cancelled] = [job for job in Job.all() if job.comment.startswith("rule_traces")]
    subprocess.run(["scancel", cancelled.id], check=True)
    fresh.configure(longer)  # for another run: this one has started
    output, _ = process.communicate(timeout=900)
    jobs = Job.all()
    assert process.returncode == 0, output
    undisturbed.make("results/summary.csv")
    assert fresh.table() == undisturbed.table()

    # The job that was cancelled is sent again, and goes on from its parts.
    states = [job.state for job in jobs if job.comment.startswith("rule_traces")]
    assert states == ["CANCELLED", "COMPLETED"]
    log, traces = (
        f"{folder}/tiny/traces/traces{file}"
        for folder, file in (("logs", ".log"), ("results", "/traces.jsonl.zst"))
    )
    assert 0 < sampled(fresh.folder / log) < sampled(undisturbed.folder / log)
    assert sha256_file(fresh.folder / traces) == sha256_file(undisturbed.folder / traces)

    # The job that took more memory than it asked for is sent again with more.
    tries = [job for job in jobs if job.comment.startswith("rule_requests")]
    assert [job.memory for job in tries] == [300 * (i + 1) for i in range(len(tries))]
    assert len(tries) > 1 and tries[-1].state == "COMPLETED"
    for job in tries[:-1]:
        log = fresh.folder / f".snakemake/slurm_logs/rule_requests/tiny_words/{job.id}.log"
        assert f"StepId={job.id}.0 exceeded memory limit" in log.read_text()

    # The job that took more time than it asked for is sent again with more.
    tries = [job for job in jobs if job.comment == "rule_score_wildcards_tiny_none_dense_words"]
    assert [job.limit for job in tries] == ["00:01:00", "00:02:00"]
    assert [job.state for job in tries] == ["TIMEOUT", "COMPLETED"]

    # Jobs wait for the one GPU, and no two have it at once.
    on_gpu = sorted((job for job in jobs if job.gpu), key=lambda job: job.start)
    rules = [re.match("rule_([a-z]+(_shard)?)", job.comment)[1] for job in on_gpu]
    wanted = {"traces": 2, "hessians": 1, "compress": 2, "generate_shard": 6, "generate": 3}
    wanted["runtime"] = 1
    assert Counter(rules) == wanted
    pairs = list(zip(on_gpu, on_gpu[1:], strict=False))
    assert all(first.end <= second.start for first, second in pairs)
    assert any(second.submitted < first.end for first, second in pairs)
