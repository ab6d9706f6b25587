"""A helper of test_kills.py: runs the workflow's own commands in forks of one process, and kills them.

Forks spare each of them the seconds in which Python imports torch. Reads the jobs as JSON on standard
input; says on standard output, a line a job, how many kills met a running process.
"""

import json
import os
import random
import shlex
import signal
import sys
import time

import torch
import transformers  # noqa: F401

from rac.__main__ import main

torch.set_num_threads(1)


def start(command: str) -> int:
    """Run `python -m rac …` of a shell command in a fork, which leads a process group; its process id."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    sys.argv = shlex.split(command.partition(" > ")[0])[2:]
    log = os.open("kills.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        main()
    except SystemExit as end:
        os._exit(end.code or 0)
    os._exit(0)


def whole(command: str) -> float:
    """Run a command to its end; its seconds."""
    begin = time.monotonic()
    _, status = os.waitpid(start(command), 0)
    if status:
        sys.exit(f"{command}: {status}")
    return time.monotonic() - begin


chance = random.Random(0)
for job in json.load(sys.stdin):
    seconds, met = whole(job["command"]), 0
    for kill in range(job["kills"]):
        for path in job["outputs"]:  # as Snakemake does before it starts a job
            os.system(f"rm -rf {shlex.quote(path)}")
        process = start(job["command"])
        # Early, late and in between, each stage in another order.
        time.sleep(seconds * (kill + chance.random()) / job["kills"])
        try:
            os.killpg(process, chance.choice([signal.SIGTERM, signal.SIGKILL]))
        except ProcessLookupError:  # before it leads its group
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        met += os.WIFSIGNALED(status)
        for path in job["outputs"]:  # what is there must be whole: the test compares it
            if os.path.exists(path):
                left = os.path.join("left", f"{job['rule']}-{kill}", path)
                os.makedirs(os.path.dirname(left), exist_ok=True)
                os.system(f"cp -a {shlex.quote(path)} {shlex.quote(left)}")
    for path in job["outputs"]:
        os.system(f"rm -rf {shlex.quote(path)}")
    whole(job["command"])
    print(json.dumps({"rule": job["rule"], "met": met}), flush=True)
