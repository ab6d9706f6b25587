import csv
import math
import re
from pathlib import Path

import pytest

from rac.artifacts import read_json, read_jsonl, write_json, write_jsonl
from rac.errors import RacError
from rac.evaluate.statistics import paired_difference
from rac.provenance import write_record
from rac.report.summary import BUDGETS, COLUMNS, COMPARED, summarize

T3 = 3.182446305284263  # the 97.5 % quantile of Student's t with 3 degrees of freedom


def table(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def summarized(run, root):
    output = root / "results/summary.csv"
    summarize(run["cells"], "try", "config-sha", "0.1+code", output)
    return output


@pytest.fixture
def run(made, tmp_path):
    """Four problems: dense 4/4, c4 0/4, prompts 1/4 and rac 3/4 right."""
    speed = {
        "batches": {
            "1": {"tokens_per_second": 20.0, "speedup": 1.25, "dense_tokens_per_second": 16.0},
            "4": {"tokens_per_second": 60.0, "speedup": 1.5, "dense_tokens_per_second": 40.0},
            "16": {"tokens_per_second": 90.0, "speedup": 0.75, "dense_tokens_per_second": 120.0},
        },
        "peak_memory_bytes": 12345,
        "dense_peak_memory_bytes": 23456,
    }
    again = speed | {"dense_peak_memory_bytes": 23458, "peak_memory_bytes": None}
    cells = [
        made.cell("c4", "half", [0, 0, 0, 0], layer_error=0.25),
        made.cell("prompts", "half", [1, 0, 0, 0], runtime=again),
        made.cell(
            "rac",
            "half",
            [1, 1, 1, 0],
            tokens=[100, 100, 120, 140],
            runtime=speed,
            errors=(0.2, 0.3),
        ),
        made.cell("none", "simple", [0, 1, 0, 0], solver="magnitude", calibration_tokens={}),
        made.dense([1, 1, 1, 1]),
    ]
    return made.run(tmp_path, cells)


def test_rows_hold_the_numbers_computed_by_hand(run, tmp_path):
    rows = table(summarized(run, tmp_path))
    assert list(rows[0]) == list(COLUMNS)
    assert [(row["calibration"], row["variant"]) for row in rows] == [
        ("none", "dense"),
        ("c4", "half"),
        ("prompts", "half"),
        ("rac", "half"),
        ("none", "simple"),
    ]
    row = {key: float(value) for key, value in rows[3].items() if value.replace(".", "").isdigit()}
    # Verdicts 1, 1, 1, 0 against 1, 1, 1, 1: differences 0, 0, 0, -1 with sd 1/2.
    assert row["accuracy"] == 0.75
    assert row["accuracy_se"] == pytest.approx(0.25)
    assert float(rows[3]["accuracy_difference"]) == -0.25
    assert row["accuracy_difference_se"] == pytest.approx(0.25)
    low, high = (float(rows[3][f"accuracy_difference_{end}"]) for end in ("low", "high"))
    assert (low, high) == pytest.approx(agresti_min([0, 0, 0, -1]))
    # Wilson's interval of 3 of 4, where the clustered error is that of as many trials less one.
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx(wilson(0.75, 3, T3))
    assert rows[3]["majority"] == ""  # of one sample
    assert row["looping"] == 0
    assert row["tokens_per_solved"] == pytest.approx(row["tokens_mean"] * 4 / 3)
    assert row["seconds_per_solved"] == pytest.approx(2.5 / 3)
    # Tokens 0, 0, 20, 40 above the dense model's: mean 15, variance 1100/3.
    assert row["tokens_mean_difference"] == 15
    assert row["tokens_mean_difference_se"] == pytest.approx(math.sqrt(1100 / 3 / 4))
    assert (row["layer_error_heldout_decode"], row["layer_error_heldout_prompt"]) == (0.2, 0.3)
    assert (row["loss_thoughts"], row["loss_text"], row["loss_text_se"]) == (1.0, 3.0, 0.01)
    # Student's over two sequences; a divergence is not below 0.
    assert row["loss_text_high"] == pytest.approx(3 + 0.12706204736)
    assert row["kl_thoughts_low"] == pytest.approx(0.1 - 0.012706204736)
    assert row["tokens_per_second_generate"] == 184.0
    assert (row["tokens_per_second_1"], row["speedup_1"]) == (20.0, 1.25)
    assert (row["batch"], row["tokens_per_second_batch"], row["speedup_batch"]) == (16, 90.0, 0.75)
    assert (row["peak_memory_bytes"], row["calibration_tokens"]) == (12345, 1000)
    assert row["peak_memory_bytes_dense"] == 23456
    assert (row["seconds_compress"], row["seconds_generate"]) == (1.5, 2.5)
    assert rows[3]["dense_sha256"] == "tiny-sha"
    assert {row["code_version"] for row in rows} == {"0.1+code"}
    assert rows[1]["layer_error"] == "0.25"


def test_the_dense_cell_has_the_speed_that_others_were_timed_in_turn_with(run, tmp_path):
    dense = table(summarized(run, tmp_path))[0]
    speeds = ("tokens_per_second_1", "tokens_per_second_batch", "batch", "peak_memory_bytes")
    assert [float(dense[key]) for key in speeds] == [16, 120, 16, 23457]
    assert dense["peak_memory_bytes_dense"] == ""
    timed = [key for key in COLUMNS if key.startswith(("speedup", "tokens_per_second"))]
    errors = [key for key in timed if key != "tokens_per_second_generate"]
    assert {dense[key] for key in errors if key not in speeds} == {""}


def test_what_the_paper_printed_stays_where_a_cell_is_missing(run, tmp_path, monkeypatch):
    model, name = run["cells"][0]["model"], run["cells"][0]["eval"]
    value = {(model, "c4", "half", name): 0.356}
    monkeypatch.setattr(
        "rac.report.summary.printed", lambda column, budget=None: {} if budget else value
    )
    lost = ("scores", "metrics", "generation")
    run["cells"][0] |= dict.fromkeys(lost)
    c4 = table(summarized(run, tmp_path))[1]
    assert (c4["calibration"], c4["accuracy"], c4["paper_accuracy"]) == ("c4", "", "0.356")
    assert c4["paper_difference"] == c4["paper_difference_low"] == ""


def test_what_was_not_measured_is_empty(run, tmp_path):
    dense, c4, *_, magnitude = table(summarized(run, tmp_path))
    differences = [key for key in COLUMNS if "difference" in key]
    assert {
        dense[key] for key in [*differences, "sparsity", "layer_error", "seconds_compress"]
    } == {""}
    assert (dense["accuracy"], dense["parameters"]) == ("1.0", "1000")
    assert {c4[key] for key in ("speedup_1", "batch", "loss_text", "peak_memory_bytes")} == {""}
    assert magnitude["calibration_tokens"] == magnitude["layer_error"] == ""


def agresti_min(differences):
    """The interval of a mean difference with one pair more that gains, and one that loses, a half each."""
    n = len(differences) + 2
    middle = sum(differences) / n
    variance = (sum(d * d for d in differences) + 1) / n - middle**2
    return middle - 1.959964 * math.sqrt(variance / n), middle + 1.959964 * math.sqrt(variance / n)


def wilson(share, trials, z):
    middle = (share + z * z / 2 / trials) / (1 + z * z / trials)
    half = z / (1 + z * z / trials)
    half *= math.sqrt(share * (1 - share) / trials + z * z / 4 / trials**2)
    return middle - half, middle + half


def test_what_the_paper_printed_stands_beside_ours(run, tmp_path, monkeypatch):
    model, name = run["cells"][0]["model"], run["cells"][0]["eval"]
    values = {
        ("accuracy", None): {(model, "rac", "half", name): 0.5},
        ("accuracy", 50): {(model, "rac", "half", name): 0.25},
        ("minutes", None): {(model, "c4", "half", name): 135.0},
        ("tokens_per_second", None): {(model, "none", "dense", ""): 1426.0},
    }
    monkeypatch.setattr(
        "rac.report.summary.printed", lambda column, budget=None: values.get((column, budget), {})
    )
    for cell in run["cells"]:
        metrics = read_json(cell["metrics"])
        budget = {
            "budget": 50,
            "accuracy": 0.5,
            "accuracy_se": 0.1,
            "finished": 0,
            "tokens_mean": 50,
        }
        write_record(cell["metrics"], metrics | {"budgets": [budget]})
    summary = summarized(run, tmp_path)
    rows = {(row["calibration"], row["variant"]): row for row in table(summary)}
    rac = rows["rac", "half"]
    assert (rac["paper_accuracy"], rac["paper_difference"]) == ("0.5", "0.25")
    for end in ("low", "high"):
        ours = float(rac[f"accuracy_{end}"])
        assert float(rac[f"paper_difference_{end}"]) == pytest.approx(ours - 0.5)
    assert rows["c4", "half"]["paper_minutes"] == "135.0"
    assert rows["none", "dense"]["paper_tokens_per_second"] == "1426.0"
    for column in ("paper_accuracy", "paper_minutes", "paper_tokens_per_second"):
        assert sum(row[column] != "" for row in rows.values()) == 1
    cut = table(summary.with_name("budgets.csv"))
    assert [row["paper_accuracy"] for row in cut if row["calibration"] == "rac"] == ["0.25"]
    assert {row["paper_accuracy"] for row in cut if row["calibration"] != "rac"} == {""}
    [of_rac] = [row for row in cut if row["calibration"] == "rac"]
    ours = float(of_rac["accuracy"]) - 0.25
    assert float(of_rac["paper_difference"]) == pytest.approx(ours)
    ends = [float(of_rac[f"paper_difference_{end}"]) for end in ("low", "high")]
    assert ends[0] < ours < ends[1]


def test_smaller_budgets_cost_nothing(run, tmp_path):
    rows = table(summarized(run, tmp_path).with_name("budgets.csv"))
    assert len(rows) == 4 * len(run["cells"])
    of_rac = [row for row in rows if row["calibration"] == "rac"]
    assert [int(row["budget"]) for row in of_rac] == [56, 112, 224, 448]
    # 100, 100, 120 and 140 tokens, the last one wrong.
    assert [float(row["accuracy"]) for row in of_rac] == [0, 0.5, 0.75, 0.75]
    assert [float(row["finished"]) for row in of_rac] == [0, 0.5, 1, 1]
    assert [float(row["tokens_mean"]) for row in of_rac] == [56, 106, 115, 115]
    assert [row["tokens_per_solved"] for row in of_rac[:2]] == ["", "212.0"]
    low, high = (float(of_rac[2][f"accuracy_{end}"]) for end in ("low", "high"))
    assert (low, high) == pytest.approx(wilson(0.75, 3, T3))
    assert float(of_rac[0]["accuracy_low"]) == 0 < float(of_rac[0]["accuracy_high"]) < 0.9


def test_cells_are_compared_in_pairs_dense_first(run, tmp_path):
    rows = table(summarized(run, tmp_path).with_name("comparisons.csv"))
    found = [(row["calibration"], row["baseline"], float(row["difference"])) for row in rows]
    assert found == [
        ("c4", "dense", -1),
        ("prompts", "dense", -0.75),
        ("rac", "dense", -0.25),
        ("prompts", "c4", 0.25),
        ("rac", "c4", 0.75),
        ("rac", "prompts", 0.5),
        ("none", "dense", -0.75),
    ]
    last = rows[5]
    # 0, 1, 1, 0: mean 1/2, sd sqrt(1/3).
    se = math.sqrt(1 / 3 / 4)
    low, high = agresti_min([0, 1, 1, 0])
    assert [float(last[key]) for key in ("se", "low", "high")] == pytest.approx([se, low, high])
    # Two problems differ, both the same way: p = 2 / 2². The smallest of three is tripled by Holm, that of
    # the four against the dense model by itself.
    assert [float(row["p_value"]) for row in rows] == [0.125, 0.25, 1.0, 1.0, 0.25, 0.5, 0.25]
    assert [float(row["p_holm"]) for row in rows] == [0.5, 0.75, 1.0, 1.0, 0.75, 1.0, 0.75]
    error = (high - low) / 2 / 1.959964
    assert float(last["detectable"]) == pytest.approx((1.959964 + 0.841621) * error)
    assert {(row["model"], row["eval"]) for row in rows} == {("tiny", "sums")}
    assert [row["variant"] for row in rows] == ["half"] * 6 + ["simple"]
    assert {row["majority_difference"] for row in rows} == {""}  # of one sample
    # Of the dense model's differences the table has the same.
    summary = table(tmp_path / "results/summary.csv")
    for key in ("", "_se", "_low", "_high"):
        assert summary[3][f"accuracy_difference{key}"] == rows[2][key[1:] or "difference"]


def test_a_cell_that_is_not_evaluated_has_its_losses_compared_with_the_dense_ones(made, tmp_path):
    cells = [
        made.dense([1, 1], errors=(0, 0), losses=(1.0, 2.0)),
        made.cell("rac", "half", [1, 0], errors=(0.1, 0.1), losses=(1.5, 3.0)),
        made.cell("rac", "most", [1, 1], errors=(0.1, 0.1), losses=(1.25, 4.0)),
    ]
    run = made.run(tmp_path, cells)
    run["cells"][2] |= {"eval": None, "metrics": None, "scores": None, "generation": None}
    rows = table(summarized(run, tmp_path).with_name("comparisons.csv"))
    assert [(row["variant"], row["baseline"], row["difference"]) for row in rows] == [
        ("half", "dense", "-0.5"),
        ("most", "dense", ""),
    ]
    assert float(rows[1]["loss_text_difference"]) == pytest.approx(2)


def test_losses_are_compared_over_the_same_sequences(made, tmp_path):
    cells = [
        made.dense([1, 1], errors=(0, 0), losses=(1.0, 2.0)),
        made.cell("c4", "half", [1, 0], errors=(0.1, 0.1), losses=(1.5, 3.0)),
        made.cell("rac", "half", [1, 1], errors=(0.1, 0.1), losses=(1.25, 4.0)),
    ]
    run = made.run(tmp_path, cells)
    path = tmp_path / "results/tiny/rac/half/losses.json"
    found = read_json(path)
    found["per_sequence"]["thoughts"] = [[4.4, 0.4, 4], [8.1, 0.9, 6]]
    write_record(path, found)
    rows = table(summarized(run, tmp_path).with_name("comparisons.csv"))
    row = next(row for row in rows if row["baseline"] == "c4")
    # Losses of 4.4 and 8.1 against 6 and 9: −1.6 and −0.9 of 4 and 6 tokens, 0.25 a token.
    assert float(row["loss_thoughts_difference"]) == pytest.approx(-0.25)
    residuals = (-1.6 + 0.25 * 4, -0.9 + 0.25 * 6)
    se = math.sqrt(sum(one**2 for one in residuals) * 2) / 10
    assert float(row["loss_thoughts_difference_se"]) == pytest.approx(se)
    reach = 12.706204736 * se  # Student's with one degree of freedom
    ends = [float(row[f"loss_thoughts_difference_{end}"]) for end in ("low", "high")]
    assert ends == pytest.approx([-0.25 - reach, -0.25 + reach])
    assert float(row["kl_thoughts_difference"]) == pytest.approx((1.3 - 1.5) / 10)
    assert float(row["loss_text_difference"]) == pytest.approx(1)
    assert float(row["loss_text_difference_se"]) == pytest.approx(0, abs=1e-12)
    assert row["loss_difference"] == ""  # of a task that scores texts
    found["per_sequence"]["thoughts"] = [[4.4, 0.4, 5], [8.1, 0.9, 5]]
    write_record(path, found)
    with pytest.raises(RacError, match="cannot be compared, they are of other texts"):
        summarized(run, tmp_path)


def test_losses_are_compared_where_nothing_was_asked(made, tmp_path):
    cells = [made.dense([1], errors=(0, 0)), made.cell("c4", "half", [1], errors=(0.1, 0.1))]
    run = made.run(tmp_path, cells)
    nothing = dict.fromkeys(("eval", "scores", "dense_scores", "metrics", "generation"))
    run["cells"] = [cell | nothing for cell in run["cells"]]
    (row,) = table(summarized(run, tmp_path).with_name("comparisons.csv"))
    assert (row["calibration"], row["baseline"], row["eval"]) == ("c4", "dense", "")
    assert (row["difference"], row["p_holm"], row["kl_text_difference"]) == ("", "", "0.0")


def test_texts_that_a_task_scores_are_compared(made, tmp_path):
    run = made.run(tmp_path, [made.dense([1, 1]), made.cell("c4", "half", [1, 1])])
    for name, losses in (("none/dense", (4.0, 6.0)), ("c4/half", (5.0, 9.0))):
        rows = [
            {"doc_id": i, "id": f"p{i}", "correct": None, "loss": loss, "tokens_scored": 2 + i}
            for i, loss in enumerate(losses)
        ]
        folder = tmp_path / "results/tiny" / name / "sums"
        write_record(
            folder / "metrics.json", {"problems": 2, "loss": sum(losses) / 5, "loss_se": 0.1}
        )
        made.rewrite(folder / "scores.jsonl.zst", rows)
    summary = summarized(run, tmp_path)
    (row,) = table(summary.with_name("comparisons.csv"))
    assert (row["difference"], row["p_value"]) == ("", "")
    assert float(row["loss_difference"]) == pytest.approx(4 / 5)
    rows = table(summary)
    ends = [float(rows[1][f"loss_{end}"]) for end in ("low", "high")]
    assert ends == pytest.approx([2.8 - 1.2706204736, 2.8 + 1.2706204736])


def test_majorities_are_compared(made, tmp_path):
    run = made.run(tmp_path, [made.dense([1] * 3), made.cell("c4", "half", [1] * 3)])
    answers = {"none/dense": ["777", "772", "112"], "c4/half": ["111", "712", "177"]}  # 7 is right
    for name, of_problems in answers.items():
        rows = [
            {"doc_id": i, "id": f"p{i}", "sample": k, "answer": answer, "correct": answer == "7"}
            | {"tokens": 5}
            for i, said in enumerate(of_problems)
            for k, answer in enumerate(said)
        ]
        made.rewrite(tmp_path / "results/tiny" / name / "sums/scores.jsonl.zst", rows)
    (row,) = table(summarized(run, tmp_path).with_name("comparisons.csv"))
    # Right by 1, 1 and 0 against 0, 1/3 (drawn of three) and 1: −1, −2/3 and 1.
    each = [-1, -2 / 3, 1]
    assert float(row["majority_difference"]) == pytest.approx(sum(each) / 3)
    ends = [float(row[f"majority_difference_{end}"]) for end in ("low", "high")]
    assert ends == pytest.approx(agresti_min(each))
    # Samples: 0, 1 and 2 of 3 against 3, 2 and 0, and an interval of three samples a problem.
    assert float(row["difference"]) == pytest.approx((-1 - 1 / 3 + 2 / 3) / 3)
    expected = paired_difference([-1, -1 / 3, 2 / 3], samples=3)
    assert float(row["low"]) == pytest.approx(expected.low)


def named(line):
    """The columns that a row of a table of the documentation is of: `x`, `…_se` is `x_se`."""
    names = re.findall(r"`([^`]+)`", line.split("|")[1])
    whole = [name for name in names if not name.startswith("…")]
    return {*whole, *(name + short[1:] for name in whole for short in names if short[0] == "…")}


@pytest.mark.parametrize(
    ("file", "columns"),
    [("summary.csv", COLUMNS), ("comparisons.csv", COMPARED), ("budgets.csv", BUDGETS)],
)
def test_the_documentation_says_what_each_column_is(file, columns):
    text = (Path(__file__).parents[2] / "docs/summary.md").read_text(encoding="utf-8")
    lines = text.partition(f"\n## {file}\n")[2].partition("\n## ")[0].splitlines()
    found = set().union(*(named(line) for line in lines if line.startswith("| `")))
    assert set(columns) <= found


def test_the_same_artefacts_give_the_same_bytes(run, tmp_path):
    output = summarized(run, tmp_path)
    first = {path.name: path.read_bytes() for path in output.parent.glob("*.*")}
    run["cells"].reverse()
    run["cells"].sort(key=lambda cell: ["c4", "prompts", "rac", "none"].index(cell["calibration"]))
    run["cells"].sort(key=lambda cell: cell["variant"] == "simple")
    summarized(run, tmp_path)
    assert {path.name: path.read_bytes() for path in output.parent.glob("*.*")} == first


def test_the_text_shows_each_cell(run, tmp_path):
    text = summarized(run, tmp_path).with_suffix(".txt").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if " rac " in line)
    for part in ("50.0%", "75.0 ± 25.0", "−25.0 [−60.9, 27.6]", "115", "0.2000", "1.000", "3.000"):
        assert part in line
    assert max(map(len, text.splitlines())) <= 120
    assert "config-sha" in text


def test_samples_of_a_problem_count_as_one(made, tmp_path):
    run = made.run(tmp_path, [made.dense([1, 1]), made.cell("c4", "half", [1, 1])])
    rows = [
        {
            "doc_id": i,
            "id": f"p{i}",
            "sample": k,
            "correct": k < right,
            "finished": True,
            "tokens": 5,
            "answer": None,
        }
        for i, right in enumerate([1, 2])
        for k in range(4)
    ]
    made.rewrite(tmp_path / "results/tiny/c4/half/sums/scores.jsonl.zst", rows)
    row = table(summarized(run, tmp_path))[1]
    # Means 1/4 and 1/2 against 1 and 1: -3/4 and -1/2, sd sqrt(1/32).
    assert float(row["accuracy_difference"]) == -0.625
    assert float(row["accuracy_difference_se"]) == pytest.approx(0.125)


def test_a_majority_has_its_interval(made, tmp_path):
    run = made.run(tmp_path, [made.dense([1, 1, 1, 1])])
    metrics = tmp_path / "results/tiny/none/dense/sums/metrics.json"
    write_record(metrics, read_json(metrics) | {"majority": 0.75, "majority_se": 0.25})
    (row,) = table(summarized(run, tmp_path))
    ends = [float(row[f"majority_{end}"]) for end in ("low", "high")]
    assert ends == pytest.approx(wilson(0.75, 3, T3))
    write_record(metrics, read_json(metrics) | {"majority": None, "majority_se": None})
    (row,) = table(summarized(run, tmp_path))
    assert row["majority"] == row["majority_low"] == ""


def test_one_problem_has_no_error(made, tmp_path):
    run = made.run(tmp_path, [made.dense([1]), made.cell("c4", "half", [0])])
    row = table(summarized(run, tmp_path))[1]
    assert row["accuracy_difference"] == "-1.0"
    assert (
        row["accuracy_se"] == row["accuracy_difference_se"] == row["accuracy_difference_low"] == ""
    )


def test_other_problems_are_not_compared(made, run, tmp_path):
    path = tmp_path / "results/tiny/c4/half/sums/scores.jsonl.zst"
    made.rewrite(path, [{"doc_id": 0, "id": "p9", "correct": True, "tokens": 1}])
    with pytest.raises(RacError, match=r"c4/half/sums/scores.jsonl.zst.* cannot be compared"):
        summarized(run, tmp_path)


def test_a_cell_of_another_dense_model_is_refused(run, tmp_path):
    path = tmp_path / "results/tiny/rac/half/checkpoint/compression.json"
    write_record(path, read_json(path) | {"dense_sha256": "old"})
    with pytest.raises(RacError, match="compression.json was compressed from another model"):
        summarized(run, tmp_path)


def test_a_missing_file_is_named(run, tmp_path):
    (tmp_path / "results/tiny/rac/half/sums/metrics.json").unlink()
    with pytest.raises(RacError, match="rac/half/sums/metrics.json is missing"):
        summarized(run, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("rac/half/sums/metrics.json", "rac/half/sums/generation.json"),
        *("rac/half/checkpoint/compression.json", "rac/half/diagnostics.json"),
        *("rac/half/losses.json", "rac/half/runtime/short.json"),
        "../resources/models/tiny/model.json",
    ],
)
@pytest.mark.parametrize("content", ["edited", None, {}, [{}]])
def test_a_record_that_was_edited_is_refused(name, content, run, tmp_path):
    file = tmp_path / "results/tiny" / name
    if name.startswith("../"):
        file = tmp_path / name.removeprefix("../")
    found = read_json(file)
    write_json(file, found | {"accuracy": 0.99} if content == "edited" else content)
    gone = file.parent if file.name in ("model.json", "compression.json") else file
    said = f"{file.name} was changed after it was written; delete {gone} to have it made again"
    with pytest.raises(RacError, match=f"{re.escape(said)}$"):
        summarized(run, tmp_path)
    assert not (tmp_path / "results/summary.csv").exists()


def test_scores_that_were_cut_are_refused(run, tmp_path):
    file = tmp_path / "results/tiny/rac/half/sums/scores.jsonl.zst"
    write_jsonl(file, read_jsonl(file)[:-1])
    with pytest.raises(
        RacError, match="scores.jsonl.zst is not the file that its metrics.json was"
    ):
        summarized(run, tmp_path)
