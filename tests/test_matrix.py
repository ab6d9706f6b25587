"""Which cells a run consists of, and what its numbers hang on."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rac import config, matrix
from rac.matrix import Cell

VALUES = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())
SMALL = {
    "run": "r",
    "models": {"a": {"embedded": "reasoner"}, "b": {"path": "b"}},
    "datasets": {
        "d": {"path": "d.jsonl", "without": ["e"]},
        "t": {"path": "t.jsonl", "kind": "documents"},
        "e": {"path": "e.jsonl"},
    },
    "sources": {
        "text": {"kind": "text", "dataset": "t", "tokens": 9},
        "cot": {"kind": "traces", "dataset": "d", "tokens": 9},
    },
    "calibrations": {"c": {"sum": {"text": 1}}, "r": {"share": {"cot.decode": 1}}},
    "variants": {
        "mag": {"solver": "magnitude", "sparsity": [0.5, 0.6]},
        "gpt": {"solver": "sparsegpt", "sparsity": [0.5, 0.6]},
        "nm": {"solver": "wanda", "pattern": "2:4"},
    },
    "evals": {"x": {"task": "x", "dataset": "e"}, "y": {"task": "y", "dataset": "e"}},
    "workloads": {"w": {}},
    "runs": {
        "r": {
            "cells": [
                {
                    "models": ["b", "a"],
                    "calibrations": ["c", "r"],
                    "variants": ["mag"],
                    "evals": ["x"],
                },
                {
                    "models": ["a"],
                    "calibrations": ["c"],
                    "variants": ["gpt-0.6", "mag-0.5"],
                    "evals": ["y"],
                    "runtime": True,
                },
            ],
            "workload": "w",
        },
        "other": {
            "cells": [{"models": ["b"], "calibrations": ["r"], "variants": ["nm"], "evals": ["y"]}]
        },
    },
}


def small(**changes) -> config.Config:
    return config.validate(SMALL | changes)


def test_cells_of_the_demo():
    plan = matrix.plan(config.validate(VALUES), "demo")
    sparse = ["sparsegpt-0.3", "sparsegpt-0.4", "sparsegpt-0.5", "sparsegpt-0.6"]
    quantized = ["w4a16", "sparsegpt-w4a16-0.5"]
    variants = [*sparse, "sparsegpt-2of4", "alps-0.6", "wanda-0.5", "structured-0.25", *quantized]
    expected = {("none", "dense"), ("none", "magnitude-0.5")} | {
        (calibration, variant) for calibration in ("c4", "prompts", "rac") for variant in variants
    }
    assert {cell[1:] for cell in plan.cells} == expected
    assert len(plan.cells) == 32
    assert {cell.model for cell in plan.cells} == {"reasoner"}
    assert plan.cells[0] == Cell("reasoner", "none", "dense")
    ordered = {("none", "dense")} | {
        (calibration, variant)
        for calibration in ("c4", "prompts", "rac")
        for variant in ("sparsegpt-0.5", "sparsegpt-0.6")
    }
    assert plan.evals == [
        (cell, name)
        for cell in plan.cells
        for name in ("word-problems", "word-order", "word-problems-4x")
        if name == "word-problems"
        or cell[1:] in ordered
        and (name == "word-order" or cell.variant != "sparsegpt-0.6")
    ]
    assert plan.timed == {
        Cell("reasoner", "rac", variant)
        for variant in (
            "sparsegpt-0.5",
            "sparsegpt-2of4",
            "alps-0.6",
            "structured-0.25",
            *quantized,
        )
    }


def test_cells_by_hand():
    plan = matrix.plan(small(), "r")
    assert [tuple(cell) for cell in plan.cells] == [
        ("a", "none", "dense"),
        ("a", "none", "mag-0.5"),  # magnitude sees no calibration: one cell for both
        ("a", "none", "mag-0.6"),
        ("a", "c", "gpt-0.6"),
        ("b", "none", "dense"),
        ("b", "none", "mag-0.5"),
        ("b", "none", "mag-0.6"),
    ]
    shared = Cell("a", "none", "mag-0.5")  # of both blocks: the evals of both
    assert [name for cell, name in plan.evals if cell == shared] == ["x", "y"]
    assert [name for cell, name in plan.evals if cell == Cell("a", "none", "dense")] == ["x", "y"]
    assert [name for cell, name in plan.evals if cell.model == "b"] == ["x", "x", "x"]
    assert plan.timed == {shared, Cell("a", "c", "gpt-0.6")}  # never the dense cell itself


def test_paths_of_a_cell():
    cell = Cell("m", "c", "v")
    assert cell.folder == "results/m/c/v"
    assert cell.checkpoint == "results/m/c/v/checkpoint"
    dense = matrix.dense_cell("m")
    assert (dense.folder, dense.checkpoint) == ("results/m/none/dense", "resources/models/m")
    assert dense.dense and not cell.dense


@pytest.mark.parametrize(
    ("weights", "sources"),
    [
        ({"cot.prompt": 1, "cot.decode": 2}, ["cot"]),
        ({"text": 1, "cot": 1}, ["cot", "text"]),
    ],
)
def test_sources_of_a_calibration(weights, sources):
    values = small(calibrations=SMALL["calibrations"] | {"new": {"sum": weights}})
    assert values.calibrations["new"].sources(values.sources) == sources


def test_restrict_keeps_what_the_run_hangs_on_and_nothing_else():
    kept = matrix.restrict(small(run="other"))
    names = {kind: list(getattr(kept, kind)) for kind in SMALL if kind != "run"}
    assert names == {
        "models": ["b"],
        "datasets": ["d", "e"],
        "sources": ["cot"],
        "calibrations": ["r"],
        "variants": ["nm"],
        "evals": ["y"],
        "workloads": [],
        "runs": ["other"],
    }
    assert matrix.plan(kept, "other") == matrix.plan(small(), "other")


def test_restrict_keeps_held_out_sources_and_their_datasets():
    block = {"models": ["a"], "calibrations": [], "variants": ["mag"]}
    runs = {"r": {"cells": [block], "heldout": {"thoughts": "cot", "text": "text"}}}
    kept = matrix.restrict(small(runs=runs))
    assert list(kept.sources) == ["text", "cot"]
    assert list(kept.datasets) == ["d", "t", "e"]


def test_identity_hangs_on_the_run_s_definitions_alone():
    before = matrix.identity(small(run="other"))
    unrelated = small(
        run="other",
        models=SMALL["models"] | {"new": {"path": "new"}},
        variants=SMALL["variants"] | {"new": {"solver": "wanda", "sparsity": 0.1}},
        runs=SMALL["runs"] | {"new": SMALL["runs"]["r"]},
    )
    assert matrix.identity(unrelated) == before
    related = small(run="other", models=SMALL["models"] | {"b": {"path": "elsewhere"}})
    assert matrix.identity(related) != before


def test_downloads_are_the_datasets_and_models_of_the_run():
    assert matrix.downloads(small(run="other")) == [
        "resources/datasets/d/data.jsonl",
        "resources/datasets/e/data.jsonl",  # which d is apart from
        "resources/models/b",
    ]


def test_rows_of_the_table_name_the_files_of_their_cell():
    rows = matrix.summary_cells(small())
    assert len(rows) == len(matrix.plan(small(), "r").evals)
    dense, mag = rows[0], next(row for row in rows if row["variant"] == "mag-0.5")
    assert (dense["compression"], dense["dense_scores"]) == (None, None)
    assert dense["scores"] == "results/a/none/dense/x/scores.jsonl.zst"
    assert mag["dense_scores"] == dense["scores"]
    assert mag["compression"] == "results/a/none/mag-0.5/checkpoint/compression.json"
    assert mag["runtime"] == "results/a/none/mag-0.5/runtime/w.json"
    assert (mag["pattern"], mag["sparsity_asked"]) == ("unstructured 0.5", 0.5)
    nm = matrix.summary_cells(small(run="other"))[1]
    assert (nm["pattern"], nm["sparsity_asked"]) == ("2:4", 0.5)
    assert nm["diagnostics"] is None and nm["losses"] is None


def test_the_matrix_imports_no_torch():
    script = "import sys, rac.matrix, rac.rules; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_solver_without_hessians_needs_no_calibration():
    block = {"models": ["a"], "calibrations": [], "variants": ["mag-0.5"]}
    plan = matrix.plan(small(runs={"r": {"cells": [block]}}), "r")
    assert [cell[1:] for cell in plan.cells] == [("none", "dense"), ("none", "mag-0.5")]


def test_cpu_threads_change_no_identity():
    models = SMALL["models"] | {"b": SMALL["models"]["b"] | {"threads": 3}}
    assert matrix.identity(small(models=models)) == matrix.identity(small())


def test_off_policy_traces_are_generated_by_the_model_that_they_are_of():
    values = VALUES | {"run": "table7"}
    settings = config.validate(values)
    assert matrix.generated_sources(settings, "r1-qwen-7b") == ["math-traces"]
    assert matrix.generated_sources(settings, "r1-qwen-14b") == ["math-traces"]
    assert matrix.measured_sources(settings, "r1-qwen-7b") == ["math-traces", "math-traces-14b"]
    assert matrix.measured_sources(settings, "r1-qwen-14b") == []
    kept = matrix.restrict(settings)
    assert set(kept.models) == {"r1-qwen-7b", "r1-qwen-14b"}
    indexes = [row["index"] for row in matrix.report_cells(settings)["sources"]]
    assert indexes == [
        f"results/r1-qwen-7b/hessians/{source}/index.json"
        for source in ("math-traces", "math-traces-14b")
    ]


def test_a_run_has_the_blocks_of_those_that_it_includes():
    settings = config.validate(VALUES)
    included = VALUES["runs"]["paper"]["includes"]
    blocks = [block for name in included for block in settings.runs[name].cells]
    assert settings.runs["paper"].cells == blocks
    assert settings.runs["paper"].includes == []
