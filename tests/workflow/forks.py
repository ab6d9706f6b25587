"""A helper of test_kills.py: runs the workflow's own commands in forks of one process, and kills them.

Forks spare each of them the seconds in which Python imports torch. Reads the jobs as JSON on standard input;
says on standard output, a line a job, how many kills met a running process and what each of them cost.
"""

import json
import os
import random
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
import transformers  # noqa: F401

from rac import blocks, likelihoods
from rac.__main__ import main
from rac.artifacts import read_jsonl
from rac.engines import transformers as engine

torch.set_num_threads(1)
BEGUN = Path("begun.txt")  # a line a batch: its rows, written when it is begun
SIGNALS = (signal.SIGTERM, signal.SIGKILL)  # in turn


def counted(function, place: int, seconds: float):
    """`function`, which says how many rows a batch has, its argument `place`, before it starts on it.

    It takes some seconds more, so that kills meet it and not the loading of a tiny model alone.
    """

    def count(*arguments, **named):
        with BEGUN.open("a") as begun:
            begun.write(f"{len(arguments[place])}\n")
        time.sleep(seconds)
        return function(*arguments, **named)

    return count


def start(job: dict) -> int:
    """Run `python -m rac …` of a shell command in a fork, which leads a process group; its process id."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    sys.argv = shlex.split(job["command"].partition(" > ")[0])[2:]
    log = os.open("kills.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    engine.generate = counted(engine.generate, 2, 0.2)
    if job["rule"] == "likelihoods":
        likelihoods.pad_sequence = counted(likelihoods.pad_sequence, 0, 0.05)
        blocks.BATCH_TOKENS["cpu"] = 100  # so that there are several
    try:
        main()
    except SystemExit as end:
        os._exit(end.code or 0)
    os._exit(0)


def whole(job: dict) -> float:
    """Run a command to its end; its seconds."""
    begin = time.monotonic()
    _, status = os.waitpid(start(job), 0)
    if status:
        sys.exit(f"{job['command']}: {status}")
    return time.monotonic() - begin


def begun() -> list[int]:
    """The rows of each batch that was begun so far."""
    return [int(line) for line in BEGUN.read_text().split()] if BEGUN.exists() else []


def stored(job: dict) -> int:
    """How many rows its part files hold."""
    return sum(len(read_jsonl(part)) for part in Path(job["work"]).glob("part-*.jsonl.zst"))


def remove(*paths: str | Path) -> None:
    for path in map(Path, paths):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def keep(job: dict, folder: str) -> None:
    """Copy those of its outputs that are there, for the test to look at."""
    for path in filter(os.path.exists, job["outputs"]):
        copied = Path(folder, job["rule"], path)
        remove(copied)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if os.path.isdir(path) else shutil.copy2
        copy(path, copied)


def killed(job: dict, seconds: float, by: int) -> bool:
    """Start a job and kill it after some seconds; whether the signal met it."""
    process = start(job)
    time.sleep(seconds)
    try:
        os.killpg(process, by)
    except ProcessLookupError:  # before it leads its group
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


chance = random.Random(0)
for job in json.load(sys.stdin):
    remove(*job["outputs"], job["work"])
    BEGUN.unlink(missing_ok=True)
    seconds = whole(job)
    total, batch = stored(job), max(begun(), default=0)
    keep(job, "whole")
    remove(job["work"])
    met, lost, wasted = 0, [], 0.0
    for kill in range(job["kills"]):
        # Early, late and in between; earlier where the job came to its end before, as one that has parts.
        moment, hit = seconds * (kill + chance.random()) / job["kills"], False
        while not hit:
            remove(*job["outputs"])  # as Snakemake does before it starts a job
            if stored(job) == total:
                remove(job["work"])  # else there would be nothing left to lose
            before = stored(job), sum(begun())
            hit = killed(job, moment, SIGNALS[kill % len(SIGNALS)])
            lost.append(sum(begun()) - before[1] - (stored(job) - before[0]))
            keep(job, f"left/{kill}")  # must be whole
            met, wasted = met + hit, wasted + moment * hit
            moment /= 2
    remove(*job["outputs"])
    before = stored(job), sum(begun())
    whole(job)
    last = sum(begun()) - before[1] - (total - before[0])  # drawn, though it was stored
    result = {"rule": job["rule"], "met": met, "seconds": wasted, "rows": total, "batch": batch}
    print(json.dumps(result | {"lost": lost, "last": last}), flush=True)
