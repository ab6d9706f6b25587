"""What no run needs is listed and removed, and nothing else."""

import copy
import shutil
from pathlib import Path

import pytest

from rac import clean, config, inventory, matrix
from tests.test_status import VALUES, make


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Two runs, whose artefacts are all there."""
    monkeypatch.chdir(tmp_path)
    values = copy.deepcopy(VALUES)
    values["evals"]["words"]["shards"] = 2
    values["variants"]["magnitude"] = {"solver": "magnitude", "sparsity": 0.5}
    values["calibrations"]["twice"] = {"sum": {"traces": 2}}
    values["runs"]["r"]["cells"][0]["calibrations"].append("twice")
    block = values["runs"]["r"]["cells"][0] | {"variants": ["magnitude"]}
    values["runs"]["other"] = {"cells": [block]}
    settings = config.validate(values)
    for run in settings.runs:
        active = settings.model_copy(update={"run": run})
        for file in (*matrix.summary_files(active), *matrix.report_files(active)):
            make(file if Path(file).suffix else f"{file}/config.json")
        for made in inventory.shared(active):
            for file in (made.path, *made.shards):
                make(file if Path(file).suffix else f"{file}/index.json")
        for folder in inventory.generation_shards(active):
            make(f"{folder}/header.json")
    make("results/m/overlaps/sparsegpt-0.5.json")
    for file in ("summary.csv", "report.html", ".lock", "figures/a.svg", "m/benchmarks/x/y.tsv"):
        make(f"results/{file}")
    make("results/m/none/dense/words/work/part-00000.jsonl.zst")
    for shard in ("traces/traces/0.work", "generate/none/dense/words/1.work"):
        make(f"results/m/shards/{shard}/part-00000.jsonl.zst")
    return settings


def test_everything_is_needed(settings):
    assert Path("results/m/overlaps/sparsegpt-0.5.csv").exists()
    assert clean.unused(settings) == []


def test_what_no_run_needs_goes_and_the_rest_stays(settings):
    gone = [
        "resources/datasets/old/data.jsonl",
        "resources/models/old/model.safetensors",
        "results/m/hessians/old/index.json",
        "results/m/overlaps/sparsegpt-0.25.csv",
        "results/m/overlaps/sparsegpt-0.25.json",
        "results/m/rac/sparsegpt-0.25/checkpoint/config.json",
        "results/m/rac/sparsegpt-0.5/exam/scores.jsonl.zst",
        "results/m/shards/generate/rac/sparsegpt-0.25/words/0/header.json",
        "results/m/shards/traces/traces/7.work/header.json",
        "results/m/shards/traces/traces/7/header.json",
        "results/m/traces/old/info.json",
        "results/old/none/dense/words/scores.jsonl.zst",
        "results/old/traces/traces/info.json",
    ]
    kept = {str(file) for file in Path().rglob("*") if file.is_file()}
    for file in gone:
        make(file)
    found = clean.unused(settings)
    wholes = {file if "overlaps" in file else str(Path(file).parent) for file in gone}
    assert [str(path) for path in found] == sorted(wholes)
    clean.remove(found)
    assert {str(file) for file in Path().rglob("*") if file.is_file()} == kept
    assert not Path("results/old").exists() and not Path("results/m/rac/sparsegpt-0.25").exists()


def test_logs_and_benchmark_files_of_a_model_of_no_run_go_and_others_stay(settings):
    kept = [
        *(
            "logs/summary.log",
            "logs/datasets/old.log",
            "logs/models/m.log",
            "logs/m/traces/old.log",
        ),
        *("results/benchmarks/dataset/old.tsv", "results/m/benchmarks/traces/old.tsv"),
    ]
    gone = ["logs/models/old.v1.log", "logs/old.v1/traces/traces.log"]
    gone.append("results/old.v1/benchmarks/model.tsv")
    for file in (*kept, *gone):
        make(file)
    found = clean.unused(settings)
    assert [str(path) for path in found] == [
        *("logs/models/old.v1.log", "logs/old.v1", "results/old.v1/benchmarks")
    ]
    clean.remove(found)
    assert not any(Path(file).exists() for file in (*gone, "results/old.v1"))
    assert all(Path(file).exists() for file in kept)


def test_what_held_out_data_of_no_run_gave_goes(settings):
    folder = "results/m/rac/sparsegpt-0.5"
    gone = [
        f"{folder}/diagnostics/others.json",
        f"{folder}/losses/heldout+others.json",
        f"{folder}/losses/heldout+others.tokens.jsonl.zst",
    ]
    for file in gone:
        make(file)
    assert [str(path) for path in clean.unused(settings)] == gone


def test_what_cannot_be_removed_is_named_and_the_rest_goes(settings, monkeypatch):
    for name in ("a", "b"):
        make(f"results/m/hessians/{name}/index.json")

    remove_tree = shutil.rmtree

    def refuse(path):
        if path.name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        remove_tree(path)

    monkeypatch.setattr(clean.shutil, "rmtree", refuse)
    left = clean.remove(clean.unused(settings))
    assert left == ["cannot remove results/m/hessians/a: Permission denied"]
    assert Path("results/m/hessians/a").exists() and not Path("results/m/hessians/b").exists()


def test_a_link_is_removed_and_not_what_it_leads_to(settings, tmp_path):
    make("elsewhere/weights")
    Path("resources/models/linked").symlink_to(tmp_path / "elsewhere")
    clean.remove(clean.unused(settings))
    assert Path("elsewhere/weights").exists() and not Path("resources/models/linked").exists()
