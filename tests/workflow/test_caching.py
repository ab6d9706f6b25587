"""What is planned again after a change, rule by rule: nothing more, nothing less."""

import csv
import shutil

import pytest

from rac.artifacts import read_json, sha256_file
from rac.fingerprint import stage
from rac.verify import verify
from tests.workflow.conftest import Project

pytestmark = pytest.mark.slow

TABLE = {"summary": 1, "report": 1}
EVERY_CELL = 3  # dense, magnitude, sparsegpt


def edit(file, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_the_run_ends_with_a_table_and_then_nothing_is_to_be_done(finished):
    rows = list(csv.DictReader((finished.folder / "results/summary.csv").open()))
    assert [(row["calibration"], row["variant"]) for row in rows] == [
        ("none", "dense"),
        ("rac", "sparsegpt-0.5"),
        ("none", "magnitude-0.5"),
    ]
    assert all(row["accuracy"] and row["loss_thoughts"] for row in rows)
    assert all(row["parameters"] and row["bytes_on_disk"] for row in rows)
    assert (finished.folder / "results/report.html").stat().st_size > 10_000
    assert "Nothing to be done" in finished.make()
    assert "Nothing to be done" in finished.make("results/summary.csv")


def records(folder) -> dict:
    """Every file that a record is of, itself or by name → that record."""
    found = {}
    for file in [*folder.glob("results/**/*.json"), *folder.glob("resources/**/*.json")]:
        content = read_json(file)
        if "provenance" in content:
            found |= dict.fromkeys(
                (file.parent / name for name in content.get("sha256", {})), content
            )
            found[file] = content
    return found


def test_every_output_has_a_record_that_says_what_made_it(finished):
    lines = finished.make("--summary").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("output_file\t"))
    outputs = [finished.folder / line.split("\t")[0] for line in lines[start + 1 :]]
    assert len(outputs) > 30 and all(output.exists() for output in outputs)
    of_file = records(finished.folder)
    stages = set()
    for output in outputs:
        for file in output.rglob("[!.]*") if output.is_dir() else [output]:
            assert file in of_file, f"{file} has no record"
            made = of_file[file]["provenance"]
            assert all(made[key] for key in ("inputs", "code", "versions", "machine", "finished"))
            stages.add(made["stage"])
    assert stages == {path.stem for path in finished.folder.glob("rules/*.smk")} - {
        *("overlaps", "runtime")  # of another run
    }
    files = [output for output in outputs if output.suffix in (".safetensors", ".zst")]
    assert {output.name.partition(".")[0] for output in files} >= {"sequences", "requests"}
    for place, chosen in (("rac/sparsegpt-0.5", ["sparsegpt"]), ("none/magnitude-0.5", [])):
        record = finished.folder / "results/tiny" / place / "checkpoint/compression.json"
        code = stage("compress", *(f"rac.solvers.{name}" for name in ("magnitude", *chosen)))
        assert of_file[record]["provenance"]["code"].endswith(f"+{code}")
    own = of_file[finished.folder / "resources/datasets/own/meta.json"]["provenance"]["inputs"]
    assert own["file"] == sha256_file(finished.folder / "own problems.jsonl")


def test_results_go_on_in_another_place(finished, tmp_path):
    moved = Project(tmp_path / "elsewhere" / "the project")
    shutil.copytree(finished.folder, moved.folder)  # links followed, as by rsync -aL
    assert (finished.folder / "resources/models/tiny/model.safetensors").is_symlink()
    finished.folder.rename(tmp_path / "gone")
    assert not any(file.is_symlink() for file in moved.folder.glob("re*/**/*"))
    assert "Nothing to be done" in moved.make()
    assert [found.wrong for found in verify(moved.folder) if found.wrong] == []
    moved.configure(lambda c: c["variants"]["sparsegpt"]["sparsity"].append(0.25))
    moved.make()
    assert "sparsegpt-0.25" in {row["variant"] for row in moved.table()}


def test_a_new_sparsity_computes_only_itself(finished):
    finished.configure(lambda c: c["variants"]["sparsegpt"]["sparsity"].append(0.25))
    one = {"compress": 1, "generate": 1, "score": 1, "diagnostics": 1, "losses": 1}
    assert finished.planned() == one | TABLE


def test_comments_and_docstrings_change_nothing(finished):
    for name in (
        "traces.py",
        "solvers/sparsegpt.py",
        "evaluate/math.py",
        "engines/transformers.py",
    ):
        file = finished.folder / "rac" / name
        file.write_text(file.read_text() + "\n# a comment\n")
    edit(finished.folder / "rac/compress.py", '"""Stage `compress`', '"""The stage `compress`')
    assert finished.planned() == {}


def test_a_solvers_code_recomputes_the_cells_that_use_it(finished):
    file = finished.folder / "rac/solvers/sparsegpt.py"
    file.write_text(file.read_text() + "\nCHANGED = True\n")
    cell = {"compress": 1, "generate": 1, "score": 1, "diagnostics": 1, "losses": 1}
    assert finished.planned() == cell | TABLE  # neither a trace, nor a Hessian, nor magnitude


def test_the_graders_code_scores_again_and_generates_nothing(finished):
    file = finished.folder / "rac/evaluate/math.py"
    file.write_text(file.read_text() + "\nCHANGED = True\n")
    assert finished.planned() == {"score": EVERY_CELL} | TABLE


def test_the_engines_code_recomputes_all_that_was_sampled(finished):
    file = finished.folder / "rac/engines/transformers.py"
    file.write_text(file.read_text() + "\nCHANGED = True\n")
    planned = finished.planned()
    assert planned["traces"] == 2 and planned["generate"] == EVERY_CELL
    assert "model" not in planned and "dataset" not in planned


def test_more_samples_generate_and_score_again(finished):
    finished.configure(lambda c: c["evals"]["words"].update(samples=2))
    assert finished.planned() == {"generate": EVERY_CELL, "score": EVERY_CELL} | TABLE


def test_a_definition_changed_and_changed_back_recomputes_nothing(finished):
    # Snakemake compares parameters with those of the file that is there. Where no run came between, the
    # file is still of the old definition. Where one came between, the file was overwritten: the
    # definition's own artefacts are computed once more, as they must be, and nothing before them.
    finished.configure(lambda c: c["variants"]["sparsegpt"].update(damping=0.1))
    cell = {"compress": 1, "generate": 1, "score": 1, "diagnostics": 1, "losses": 1}
    assert finished.planned() == cell | TABLE
    finished.configure(lambda c: c["variants"]["sparsegpt"].pop("damping"))
    assert finished.planned() == {}


def test_what_a_model_is_told_is_no_part_of_it(finished):
    finished.configure(lambda c: c["models"]["tiny"].update(system="Think."))
    planned = finished.planned()
    assert "model" not in planned  # nor are sequences of text made again, and their Hessians
    assert (planned["traces"], planned["sources"], planned["requests"]) == (2, 2, 1)
    assert planned["compress"] == 1  # and not magnitude


def test_a_mixture_of_stored_hessians_needs_no_forward_pass(finished):
    cells = {"compress": 1, "generate": 1, "score": 1, "diagnostics": 1, "losses": 1}
    planned = finished.planned("--config", "run=wider")
    assert planned == cells | {"overlaps": 1} | TABLE


def test_a_run_that_shares_cells_computes_only_its_new_ones(finished):
    finished.make("--config", "run=wider")
    # The other run's table took the place of this one's; its cells are all there.
    assert finished.planned() == TABLE


def test_log_likelihoods_are_rows_of_the_table_and_hang_on_no_engine(finished):
    def add(values):
        values["datasets"]["order"] = {"embedded": "word-order", "split": "heldout", "rows": 20}
        values["evals"]["order"] = {"task": "word_order", "dataset": "order"}
        run = values["runs"]["small"]
        block = {
            "models": ["tiny"],
            "calibrations": [],
            "variants": ["magnitude"],
            "evals": ["order"],
        }
        values["runs"]["order"] = run | {"cells": [*run["cells"], block]}
        values["run"] = "order"

    finished.configure(add)
    finished.make()
    rows = list(csv.DictReader((finished.folder / "results/summary.csv").open()))
    names = [(row["variant"], row["eval"]) for row in rows]
    assert names == [
        *(("dense", "words"), ("dense", "order"), ("sparsegpt-0.5", "words")),
        *(("magnitude-0.5", "words"), ("magnitude-0.5", "order")),
    ]
    of_order = rows[4]
    assert of_order["accuracy"] and of_order["accuracy_difference"] and of_order["loss_text"]
    assert of_order["seconds_generate"]
    sampled = ("finished", "tokens_mean", "tokens_per_solved", "seconds_per_solved", "majority")
    assert not any(of_order[column] for column in (*sampled, "loss"))
    table = (finished.folder / "results/summary.txt").read_text().partition("tiny · order")[2]
    assert "finished" not in table and "accuracy" in table
    assert "order" in (finished.folder / "results/report.html").read_text()
    file = finished.folder / "rac/engines/transformers.py"
    file.write_text(file.read_text() + "\nCHANGED = True\n")
    assert finished.planned("--until", "generate")["generate"] == EVERY_CELL


def test_the_table_is_printed_by_the_call_that_makes_it(finished):
    table = (finished.folder / "results/summary.txt").read_text()
    scored = "results/tiny/none/magnitude-0.5/words/metrics.json"
    (finished.folder / scored).unlink()
    assert table not in finished.make(scored)
    assert table in finished.make("results/summary.csv", "--forcerun", "summary")


def test_an_unrelated_definition_changes_nothing(finished):
    finished.configure(lambda c: c["models"].update(other={"embedded": "reasoner"}))
    assert finished.planned() == {}


def test_changed_input_recomputes_what_was_made_of_it(finished):
    file = finished.folder / "own problems.jsonl"
    file.write_text(file.read_text() + '\n{"question": "9 + 9?", "answer": "18"}\n')
    planned = finished.planned()
    assert (
        planned
        == {"dataset": 1, "requests": 1}
        | {
            "generate": EVERY_CELL,
            "score": EVERY_CELL,
        }
        | TABLE
    )


def test_traces_of_another_budget_recompute_what_hangs_on_them(finished):
    finished.configure(lambda c: c["sources"]["traces"].update(tokens=400))
    one = {"traces": 1, "sources": 1, "hessians": 1}
    cell = {"compress": 1, "generate": 1, "score": 1, "diagnostics": 1, "losses": 1}
    assert finished.planned() == one | cell | TABLE


def test_another_temperature_samples_again_and_leaves_the_model_alone(finished):
    finished.configure(lambda c: c["models"]["tiny"].update(sampling={"temperature": 0.7}))
    planned = finished.planned()
    assert planned["traces"] == 2 and planned["generate"] == EVERY_CELL
    assert "model" not in planned and "dataset" not in planned


def test_another_held_out_text_has_its_own_losses(finished):
    def other_text(values):
        values["sources"]["other-text"] = values["sources"]["heldout-text"] | {"tokens": 200}
        values["runs"]["small"]["heldout"]["text"] = "other-text"

    finished.configure(other_text)
    assert finished.planned() == {"sources": 1, "losses": EVERY_CELL} | TABLE


def test_an_edit_of_the_held_out_text_measures_losses_again_and_no_layer(finished):
    finished.configure(lambda c: c["sources"]["heldout-text"].update(tokens=200))
    assert finished.planned() == {"sources": 1, "losses": EVERY_CELL} | TABLE


def test_held_out_hessians_that_are_made_again_measure_layers_again_and_no_loss(finished):
    planned = finished.planned("--forcerun", "results/tiny/hessians/heldout")
    assert planned == {"hessians": 1, "diagnostics": EVERY_CELL} | TABLE


@pytest.mark.parametrize(
    ("file", "stage"), [("diagnostics.py", "diagnostics"), ("token_errors.py", "losses")]
)
def test_the_code_of_one_measurement_leaves_the_other_alone(finished, file, stage):
    path = finished.folder / "rac" / file
    path.write_text(path.read_text() + "\nCHANGED = True\n")
    assert finished.planned() == {stage: EVERY_CELL} | TABLE
