"""The workflow with its model on a GPU, beside the same on the CPU."""

import shutil

import pytest
import torch

from rac.artifacts import read_json

pytestmark = [pytest.mark.slow, pytest.mark.gpu]

PRUNED = {"solver": "sparsegpt", "sparsity": [0.5]}
VARIANTS = {
    "sparsegpt": PRUNED,
    "2of4": {"solver": "sparsegpt", "pattern": "2:4"},
    "alps": {"solver": "alps", "sparsity": 0.5},
    "sequential": PRUNED | {"propagation": "sequential"},
    "reconstructed": PRUNED | {"reconstruct": {"steps": 5}},
    "owl": PRUNED | {"allocation": {"method": "owl"}},
    "evopress": PRUNED
    | {"allocation": {"method": "evopress", "source": "traces", "generations": 2, "sequences": 4}},
    "structured": {"solver": "structured", "sparsity": 0.25, "multiple": 4},
    "smooth": {"quantize": {"scheme": "w8a8", "smooth": 0.8}},
    "both": PRUNED | {"quantize": {"scheme": "fp8"}},
}


def every_stage(config):
    config["variants"] = VARIANTS
    config["workloads"] = {
        "short": {"batches": [1, 4], "prompt_tokens": 8, "new_tokens": 8, "repeats": 1}
    }
    config["datasets"]["order"] = {"embedded": "word-order", "split": "heldout", "rows": 20}
    config["evals"]["order"] = {"task": "word_order", "dataset": "order"}
    names = [
        f"{name}-0.5" if asked.get("sparsity") == [0.5] else name
        for name, asked in VARIANTS.items()
    ]
    cells = {"models": ["tiny"], "calibrations": ["rac"]}
    config["runs"]["small"] |= {
        "workload": "short",
        "cells": [
            {**cells, "variants": names, "evals": ["words"], "runtime": True},
            {**cells, "variants": names[:1], "evals": ["order"]},
        ],
    }


def names_of(gpu, count):
    """So many names of one GPU, beginnings of its UUID: a job locks a name, and tiny jobs can share a GPU."""
    name = f"GPU-{torch.cuda.get_device_properties(gpu).uuid}"
    return ",".join(name[: len(name) - i] for i in range(count))


def test_a_gpu_makes_the_same_table(gpu, fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names_of(gpu, 6))
    fresh.configure(every_stage)
    beside = type(fresh)(tmp_path / "beside")
    shutil.copytree(fresh.folder, beside.folder, symlinks=True)
    beside.configure(lambda config: config["models"]["tiny"].update(device="gpu"))
    at_once = beside.start("--cores", "8", "--resources", "gpu=6")
    fresh.make("--cores", "8")
    output, _ = at_once.communicate(timeout=900)
    assert at_once.returncode == 0, output
    assert "Nothing to be done" in beside.make()
    index = beside.folder / "results/tiny/hessians/traces/index.json"
    assert read_json(index)["provenance"]["machine"]["gpus"]
    rows = {(row["variant"], row["eval"]): row for row in beside.table()}
    for expected in fresh.table():
        row = rows[expected["variant"], expected["eval"]]
        assert row["sparsity"] == expected["sparsity"]
        for key in ("loss_thoughts", "loss_text"):
            assert float(row[key]) == pytest.approx(float(expected[key]), rel=0.02)
