"""What the workflow itself costs: planning a run, finding nothing to do, and starting a job's process.

    python benchmarks/workflow.py --output workflow.json

Plans are of config.yaml in an empty copy of the project. For "nothing to be done" every output of the run is
made as an empty file and marked as up to date, so that Snakemake looks at as many files as after a real run.
A job's start is the time of its process until the stage's module and what it needs are imported.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

REPOSITORY = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "rac", "profiles", "envs", "docs", "config.yaml")
STAGES = {
    "dataset": "rac.datasets.prepare",
    "model": "rac.models.prepare, rac.linear, transformers",
    "traces": "rac.traces, rac.engines.transformers",
    "sources": "rac.sources",
    "hessians": "rac.hessians, transformers",
    "compress": "rac.compress",
    "requests": "rac.evaluate.requests; rac.evaluate.harness.task_manager()",
    "generate": "rac.generate, rac.engines.transformers",
    "likelihoods": "rac.likelihoods, transformers",
    "score": "rac.evaluate.score; rac.evaluate.harness.task_manager()",
    "diagnostics": "rac.diagnostics",
    "losses": "rac.losses, transformers",
    "overlaps": "rac.overlaps",
    "runtime": "rac.runtime, transformers",
    "summary": "rac.report.summary",
    "report": "rac.report.page",
}


def copy(folder: Path) -> None:
    """Make `folder` a copy of the project in which nothing was computed."""
    folder.mkdir()
    for part in PARTS:
        source = REPOSITORY / part
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / part)


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall time and processor time of a command, which must succeed."""
    before, start = os.times(), time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    after = os.times()
    used = sum(getattr(after, k) - getattr(before, k) for k in ("children_user", "children_system"))
    return time.perf_counter() - start, used


def snakemake(folder: Path, run: str, *arguments: str) -> list[str]:
    """The call of Snakemake for a run's table and page."""
    wanted = ["results/summary.csv", "results/report.html"]
    return [sys.executable, "-m", "snakemake", *wanted, "--config", f"run={run}", *arguments]


def finish(folder: Path, run: str) -> int:
    """Make every output of a run as an empty file or folder, marked as up to date; how many."""
    command = snakemake(folder, run, "--detailed-summary")
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("output_file\t"))
    outputs = [line.split("\t")[0] for line in lines[start + 1 :] if "\t" in line]
    for output in outputs:
        path = folder / output
        if Path(output).suffix in (
            ".jsonl",
            ".json",
            ".zst",
            ".safetensors",
            ".csv",
            ".txt",
            ".html",
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                '{"rows": 100}' if path.name == "meta.json" else ""
            )  # planning reads it
        else:
            path.mkdir(parents=True, exist_ok=True)
    seconds(snakemake(folder, run, "--cores", "1", "--touch"), folder)
    return len(outputs)


def main(
    output: Annotated[Path, typer.Option()],
    runs: Annotated[list[str], typer.Option()] = ["demo", "paper"],  # noqa: B006
    repeats: Annotated[int, typer.Option()] = 3,
) -> None:
    """Measure, print and write."""
    found: dict = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    }
    found["load"] = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        for run in runs:
            folder = Path(temporary) / run
            copy(folder)
            plan = [seconds(snakemake(folder, run, "--dry-run"), folder) for _ in range(repeats)]
            files = finish(folder, run)
            again = snakemake(folder, run, "--cores", "1")
            nothing = [seconds(again, folder) for _ in range(repeats)]
            found[run] = {
                "outputs": files,
                "plan": statistics.median(wall for wall, _ in plan),
                "plan_cpu": statistics.median(cpu for _, cpu in plan),
                "nothing": statistics.median(wall for wall, _ in nothing),
                "nothing_cpu": statistics.median(cpu for _, cpu in nothing),
            }
            print(f"{run}: " + ", ".join(f"{k} {v:.3g}" for k, v in found[run].items()), flush=True)
    found["starts"] = {}
    for stage, modules in STAGES.items():
        command = [sys.executable, "-c", f"import {modules}"]
        taken = [seconds(command, REPOSITORY) for _ in range(repeats)]
        wall, cpu = (statistics.median(column) for column in zip(*taken, strict=True))
        found["starts"][stage] = {"wall": wall, "cpu": cpu}
        print(f"start of {stage}: {wall:.2f} s, {cpu:.2f} s of processor time", flush=True)
    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
