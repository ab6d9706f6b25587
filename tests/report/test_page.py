import base64
import csv
import gzip
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rac.artifacts import read_json, read_jsonl, sha256_file
from rac.errors import RacError
from rac.provenance import is_whole, write_record
from rac.report.page import _download, report
from rac.report.summary import summarize

VOID = {"meta", "link", "br", "img", "hr", "input"}
HOSTILE = "<script>alert(1)</script> \x00 &amp; <img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Elements, text and ids of a page; balanced by assertion."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" not in self.open and "script" not in self.open:
            self.text.append(text)

    def named(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]

    def words(self):
        return " ".join(" ".join(self.text).split())


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def run(made, root):
    cells = [made.dense([1] * 8, errors=(0, 0))]
    for calibration, right in (("c4", 1), ("prompts", 7), ("rac", 8)):
        cells += [
            made.cell(
                calibration,
                f"s-{sparsity:g}",
                [1] * right + [0] * (8 - right),
                pattern=f"unstructured {sparsity:g}",
                sparsity=sparsity,
                errors=(sparsity / right, 0.1),
                texts=[HOSTILE] * 8,
                finished=[True] * 4 + [False] * 4,
            )
            for sparsity in (0.3, 0.5)
        ]
    cells.append(made.cell("rac", "s-2of4", [1] * 8, pattern="2:4"))
    return made.run(root, cells)


MADE = {"versions": {"rac": "9.9"}, "machine": {"cores": 3}, "inputs": {"config_sha256": "f00d"}}
PROVENANCE = {"command": "<script>x</script>", "page": MADE}


@pytest.fixture(scope="module")
def output(made, run, root):
    return made.page(run, root, PROVENANCE)


@pytest.fixture(scope="module")
def page(output):
    return read_page(output)


def test_the_headline_follows_the_numbers(page):
    words = page.words()
    # c4: 1 of 8 against 8 of 8, differences of 7 with two pseudo-pairs; prompts: 7 of 8, over zero.
    assert (
        "With rac calibration, accuracy on tasks that the model answers in writing is higher than with c4 in "
        "2 of 2 comparisons; not shown to differ from that with prompts."
    ) in words
    assert "for which it writes nothing" not in words
    assert "▲ +87.5 [+35.5, +100.0]" in words
    assert "lowest error in 2 of 2 layers" in words


def test_captions_say_what_the_figures_alone_do_not(page):
    words = page.words()
    assert (
        "8 [8, 8] on thoughts (rac is better at 100.0 % of 60) and 1 [1, 1] on prompts (rac is better at "
        "0.0 % of 30)"
    ) in words
    assert (
        "over all problems: undefined (of fewer than four problems, or one of the two is constant)."
        in words
    )


def test_what_models_wrote_stays_text(page):
    assert page.named("img", "iframe", "link") == [] and len(page.named("script")) == 1
    assert "<script>alert(1)</script>" in page.words() and "<script>x</script>" in page.words()
    assert not any(key.startswith("on") for _, found in page.elements for key in found)


def test_the_page_needs_no_network(page):
    fetched = [
        found[key] for _, found in page.elements for key in ("src", "xlink:href") if key in found
    ]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in fetched)
    links = {
        found["href"].split(":")[0]
        for found in page.named("a")
        if not found["href"].startswith("#")
    }
    assert links == {"https", "data"}


def test_the_page_can_be_read_without_eyes(page, output):
    assert page.named("html")[0]["lang"] == "en"
    assert re.search(r"<title>[^<]*try", output.read_text(encoding="utf-8"))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert all(found.get("scope") in ("row", "col") for found in page.named("th"))
    figures = page.named("svg")
    assert len(figures) == len(page.named("figure")) == len(page.named("figcaption")) > 8
    assert all(found["role"] == "img" and "%" in found["aria-label"] for found in figures[:2])
    ids = [found["id"] for _, found in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    targets = {found["href"][1:] for found in page.named("a") if found["href"].startswith("#")}
    assert targets <= set(ids)


def test_the_figures_files_hold_what_is_drawn(output):
    folder = output.parent / "figures"
    stems = {path.stem for path in folder.iterdir()}
    assert {"accuracy-tiny-sums", "layers-decode-tiny", "kl_thoughts-tiny"} <= stems
    assert {path.name for path in folder.iterdir()} == {
        f"{stem}.{kind}" for stem in stems for kind in ("svg", "pdf", "csv")
    }
    with (folder / "accuracy-tiny-sums.csv").open() as stream:
        rows = {(row["calibration"], row["variant"]): row for row in csv.DictReader(stream)}
    assert float(rows["prompts", "s-0.3"]["accuracy"]) == 7 / 8
    assert len(rows) == 7
    with (folder / "layer_error_heldout_decode-tiny.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 6


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(made, run, root, output):
    again = made.page(run, root, PROVENANCE, root / "again/report.html")
    assert again.read_bytes() == output.read_bytes()


def test_one_cell_is_a_page(made, tmp_path):
    run = made.run(tmp_path, [made.dense([1])])
    run["sources"].clear()
    page = read_page(made.page(run, tmp_path))
    assert "A compressed reasoning model, measured" in page.words()
    assert page.words().count("Not measured in this run.") >= 3
    for name in ("ablations", "mixtures"):
        assert (
            f"For the embedded reasoner snakemake --cores 2 --config run={name} does."
            in page.words()
        )
    assert page.words().count("tiny, sums, dense and nothing else") == 2  # lengths and budgets


def test_a_cell_without_an_eval_is_a_page(made, tmp_path):
    run = made.run(tmp_path, [made.dense([1]), made.cell("rac", "half", [1], errors=(0.1, 0.2))])
    asked = ("eval", "scores", "dense_scores", "metrics", "generation")
    run["cells"] = [cell | dict.fromkeys(asked) for cell in run["cells"]]
    run["generations"].clear()
    page = read_page(made.page(run, tmp_path))
    assert "0.1" in page.words()
    assert "No generations were found." in page.words()


def test_missing_files_are_listed(made, tmp_path):
    run = made.run(tmp_path, [made.dense([1]), made.cell("c4", "half", [1])])
    lost = [run["sources"][0]["index"], str(tmp_path / "d.json"), str(tmp_path / "d.tokens.zst")]
    lost += [run["generations"][0][key] for key in ("generations", "requests", "problems")]
    names = {"model": "tiny", "calibration": "c4", "variant": "half"}
    run["diagnostics"].append(names | {"path": lost[1]})
    run["losses"].append(names | {"tokens": lost[2]})
    for path in set(lost) - {lost[1], lost[2]}:
        Path(path).unlink()
    words = read_page(made.page(run, tmp_path)).words()
    listed = words.partition("Missing files, left out above:")[2]
    assert all(path in listed for path in lost)


@pytest.fixture(scope="module")
def two_cells(made, tmp_path_factory):
    """Words of the page of a dense cell and a compressed one that was timed."""
    speed = {
        "1": {"tokens_per_second": 20.0, "speedup": 1.254, "dense_tokens_per_second": 15.9},
    }
    cells = [
        made.dense([1], texts=["one and one</think>So \\boxed{2}."]),
        made.cell(
            "rac",
            "half",
            [0],
            texts=["one " * 6000],
            finished=[False],
            runtime={
                "batches": speed,
                "peak_memory_bytes": None,
                "dense_peak_memory_bytes": 2**21,
            },
        ),
    ]
    root = tmp_path_factory.mktemp("two")
    return read_page(made.page(made.run(root, cells), root)).words()


def test_answers_stand_side_by_side(two_cells):
    assert "What is 0? Right answer: 0" in two_cells
    assert "✓ correct (exact, 100 tokens) So \\boxed{2}. Thought one and one" in two_cells
    assert "… unfinished (different, 100 tokens) Unfinished thought one one" in two_cells
    assert "[… 11,999 characters left out …]" in two_cells


def test_tokens_and_run_time_are_shown(two_cells):
    assert "thoughts source of traces tiny – 250 750 75.0 %" in two_cells
    assert "sums eval, dense model tiny – 10 100 90.9 %" in two_cells
    assert "half rac 20.0 1.25 × – – – – 0.0 500" in two_cells
    assert "dense dense 15.9 – – – – 2.0 0.0 1,000" in two_cells


def test_the_memory_of_the_dense_model_is_said_with_its_range(made, tmp_path):
    cells = [made.dense([1, 1])]
    for calibration, peaks in (("c4", (8, 2)), ("rac", (6, 4))):
        memory = {
            "peak_memory_bytes": peaks[0] * 2**20,
            "dense_peak_memory_bytes": peaks[1] * 2**20,
        }
        speed = {"1": {"tokens_per_second": 9.0, "speedup": 1.0, "dense_tokens_per_second": 9.0}}
        runtime = memory | {"batches": speed}
        cells.append(made.cell(calibration, "half", [1, 0], runtime=runtime))
    words = read_page(made.page(made.run(tmp_path, cells), tmp_path)).words()
    assert "The dense model’s own was 2.0 to 4.0 MiB" in words
    assert "dense dense 9.0 – – – – 3.0 0.0 1,000" in words


def test_a_cell_that_solves_nothing_has_no_cost_and_is_shown(made, tmp_path):
    cells = [made.dense([1] * 4)]
    for sparsity, right in ((0.3, [1, 1, 0, 0]), (0.5, [0] * 4)):
        more = {"pattern": f"unstructured {sparsity:g}", "sparsity": sparsity}
        cells.append(made.cell("c4", f"s-{sparsity:g}", right, **more))
    output = made.page(made.run(tmp_path, cells), tmp_path)
    words = read_page(output).words()
    shown = words.partition("tokens for a right answer against sparsity")[2][:400]
    assert "× at the axis’ end: none solved" in shown and "c4 s-0.5 0.5 none solved – –" in shown
    with (output.parent / "figures/tokens_per_solved-tiny-sums.csv").open() as stream:
        costs = {row["variant"]: row["tokens_per_solved"] for row in csv.DictReader(stream)}
    assert costs == {"dense": "100.0", "s-0.3": "200.0", "s-0.5": "inf"}


def test_a_preview_of_nothing_shows_what_the_paper_printed(made, tmp_path, monkeypatch):
    cells = [made.dense([1] * 4)]
    for sparsity in (0.3, 0.5):
        more = {"pattern": f"unstructured {sparsity:g}", "sparsity": sparsity}
        cells.append(made.cell("c4", f"s-{sparsity:g}", [1] * 4, **more))
    run = made.run(tmp_path, cells)
    printed = {("tiny", "c4", f"s-{sparsity:g}", "sums"): sparsity for sparsity in (0.3, 0.5)}
    monkeypatch.setattr(
        "rac.report.summary.printed", lambda column, budget=None: {} if budget else printed
    )
    lost = ("model_json", "scores", "metrics", "generation", "compression", "dense_scores")
    run["cells"] = [cell | dict.fromkeys(lost) for cell in run["cells"]]
    run["generations"].clear()
    output = made.page(run, tmp_path)
    assert "hollow: printed in the paper" in read_page(output).words()
    text = output.read_text(encoding="utf-8")
    assert text.count('data-tip="printed in the paper') == 2


def test_a_mixture_is_judged_by_its_losses(made, tmp_path):
    cells = [made.dense([1] * 9, errors=(0, 0))]
    cells += [made.cell(one, "half", [1] * 9, errors=(0.1, 0.2)) for one in ("c4", "mix", "rac")]
    run = made.run(tmp_path, cells)
    words = read_page(made.page(run, tmp_path, config=made.mixed)).words()
    assert "Of 1 mixture these are not shown to be below rac in accuracy" in words
    assert "loss on text +0.000 nats a token [0.000, 0.000]" in words


@pytest.mark.slow
def test_overlaps_of_calibrations_of_another_run_are_left_out(made, tmp_path):
    cells = [made.dense([1])]
    cells += [made.cell(name, "half", [1], errors=(0.1, 0.2)) for name in ("c4", "mine", "rac")]
    run = made.run(tmp_path, cells)
    run["cells"] = [cell for cell in run["cells"] if cell["calibration"] != "mine"]
    for kind in ("diagnostics", "losses", "generations"):
        run[kind] = [cell for cell in run[kind] if cell["calibration"] != "mine"]
    output = made.page(run, tmp_path)
    lines = (output.parent / "figures/jaccard-half-tiny.csv").read_text().splitlines()
    assert len(lines) == 3 and all(",rac,c4," in line for line in lines[1:])


def test_general_tasks_stand_outside_reasoning(made, tmp_path):
    """Choices have no tokens and whole texts no accuracy; neither is missing, nor in the claim."""
    cells = [made.dense([1] * 9)]
    cells += [made.cell(name, "half", right) for name, right in (("c4", [0] * 9), ("rac", [1] * 9))]
    run = made.run(tmp_path, cells)
    others = {}
    for name in ("choices", "texts"):
        others[name] = made.run(tmp_path, cells, name=name)
        for cell in others[name]["cells"]:
            metrics = read_json(cell["metrics"])
            for key in [
                key for key in metrics if key.startswith(("tokens", "finished", "looping"))
            ]:
                del metrics[key]
            del metrics["budgets"]
            rows = [dict(row, tokens=None) for row in read_jsonl(cell["scores"])]
            if name == "texts":
                metrics |= {"accuracy": None, "accuracy_se": None, "loss": 80.5, "loss_se": 1.0}
                rows = [dict(row, correct=None) for row in rows]
            write_record(Path(cell["metrics"]), metrics)
            made.rewrite(Path(cell["scores"]), rows)
        run["cells"] += others[name]["cells"]
    output = made.page(run, tmp_path)
    words = read_page(output).words()
    written = "accuracy on tasks that the model answers in writing is higher than with c4 in 1 of 1"
    chosen = "accuracy on tasks for which it writes nothing is higher than with c4 in 1 of 1"
    assert written in words and chosen in words and "missing" not in words
    assert "80.5 nats a token, 9 texts" in words
    claim, _, outside = words.partition("Outside reasoning: general text and tasks")
    assert "tiny, choices: accuracy" in outside and "tiny, texts: loss in nats a token" in outside
    said = "Paired differences on "
    assert claim.count(said) == 1 and f"{said}sums" in claim
    assert outside.count(said) == 1 and f"{said}choices" in outside
    stems = {path.stem for path in (output.parent / "figures").iterdir()}
    assert not {f"seconds_generate-others-tiny-{name}" for name in others} & stems
    assert "seconds_generate-others-tiny-sums" in stems
    assert "accuracy-others-tiny-choices" in stems and "accuracy-others-tiny-texts" not in stems


@pytest.mark.slow
def test_each_eval_has_its_own_subject(made, tmp_path):
    """As in the paper's matrix: the last calibration listed is no subject, and none falls out."""
    names = {"sums": ["math-rac", "web"], "programs": ["code-rac", "math-rac-off-policy", "web"]}
    run = None
    for name, calibrations in names.items():
        cells = [made.dense([1] * 9)]
        cells += [
            made.cell(one, "half", [i == 0] * 9, errors=(0.1, 0.2))
            for i, one in enumerate(calibrations)
        ]
        of_eval = made.run(tmp_path, cells, name=name)
        run = of_eval if run is None else {kind: run[kind] + of_eval[kind] for kind in run}
    for kind, file in (("diagnostics", "path"), ("losses", "tokens")):
        run[kind] = list({one[file]: one for one in run[kind]}.values())
    run["overlaps"] = run["overlaps"][1:]
    config = {
        "run": "try",
        "runs": {"try": {"heldout": {"thoughts": "code-traces-heldout", "text": "web"}}},
        "sources": {f"{name}-traces": {"kind": "traces"} for name in ("math", "code")},
        "calibrations": {
            "math-rac": {"sum": {"math-traces.decode": 1}},
            "code-rac": {"sum": {"code-traces": 1}},
        },
    }
    output = made.page(run, tmp_path, config=config)
    words = read_page(output).words()
    tasks = "accuracy on tasks that the model answers in writing"
    assert f"With math-rac calibration, {tasks} is higher than with web in 1 of 1" in words
    assert (
        f"With code-rac calibration, {tasks} is higher than with math-rac-off-policy in 1 of 1 "
        "comparisons and with web in 1 of 1."
    ) in words
    assert "e(math-rac) / e(code-rac)" in words and "What math-rac or code-rac gains" in words
    with (output.parent / "figures/gains-by-ratio.csv").open() as stream:
        rows = [(row["eval"], row["subject"], row["calibration"]) for row in csv.DictReader(stream)]
    assert set(rows) == {
        ("sums", "math-rac", "web"),
        ("programs", "code-rac", "math-rac-off-policy"),
        ("programs", "code-rac", "web"),
    }


@pytest.mark.slow
def test_energy_is_not_measured_only_where_no_cell_has_it(made, tmp_path):
    run = made.run(tmp_path, [made.dense([1])])
    stages = [{"stage": "generate", "jobs": 1, "wall": 1.0, "cpu": 1.0, "memory": 1.0}]
    without = read_page(made.page(run, tmp_path, stages=stages)).words()
    record = Path(run["cells"][0]["generation"])
    write_record(record, read_json(record) | {"joules": 7.5})
    measured = read_page(made.page(run, tmp_path, stages=stages)).words()
    assert "Energy was not measured." in without and "joules_generate of" not in without
    assert "not measured." not in measured.partition("What it took")[2]
    assert "Energy is the column joules_generate of summary.csv" in measured


def test_provenance_is_shown_flat(page):
    assert "page.versions.rac 9.9 page.machine.cores 3" in page.words()
    assert "config-sha" in page.words() and "0.1+code" in page.words()


def test_large_tables_are_packed(tmp_path):
    table = tmp_path / "summary.csv"
    for rows, name in ((10, "summary.csv"), (10**5, "summary.csv.gz")):
        table.write_text("a,b\n" * rows)
        found, data = _download(table)
        kind, packed = data.removeprefix("data:").split(";base64,")
        whole = base64.b64decode(packed)
        assert found == name and kind == ("application/gzip" if rows > 10 else "text/csv")
        assert (gzip.decompress(whole) if rows > 10 else whole) == table.read_bytes()
    assert len(data) < 10_000


def test_the_record_names_what_the_page_was_made_from(output, root):
    record = read_json(output.with_suffix(".json"))
    inputs = record["provenance"]["inputs"]
    assert is_whole(record) and inputs["config_sha256"] == "f00d"
    assert {Path(file).name for file in inputs["files"]} >= {
        *("summary.csv", "comparisons.csv", "budgets.csv"),
        *("generations.jsonl.zst", "scores.jsonl.zst"),
    }
    for file, expected in inputs["files"].items():
        assert sha256_file(Path(file)) == expected


def test_no_torch_is_loaded():
    code = "import sys, rac.report.page, rac.report.summary; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_what_the_paper_printed_is_said_to_be_second_hand(made, tmp_path, monkeypatch):
    run = made.run(tmp_path, [made.dense([1, 1, 1, 0]), made.cell("rac", "half", [1, 0, 0, 0])])
    model, name = run["cells"][0]["model"], run["cells"][0]["eval"]
    assert "secondary sources" not in read_page(made.page(run, tmp_path)).words()
    values = {"accuracy": {(model, "rac", "half", name): 0.5}}
    values |= {"minutes": {(model, "rac", "half", name): 2.0}}
    monkeypatch.setattr(
        "rac.report.summary.printed",
        lambda column, budget=None: {} if budget else values.get(column, {}),
    )
    words = read_page(made.page(run, tmp_path)).words()
    assert "printed 50.0" in words and "printed 120" in words
    assert words.count("as secondary sources have it") >= 2  # below the figure and above the table


CELL = "results/tiny/rac/half"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *(
            (f"results/{name}.csv", "summary.json")
            for name in ("summary", "comparisons", "budgets")
        ),
        ("resources/datasets/problems/data.jsonl", "meta.json"),
        ("results/tiny/requests/sums/requests.jsonl.zst", "requests.json"),
        (f"{CELL}/sums/generations.jsonl.zst", "generation.json"),
        (f"{CELL}/sums/scores.jsonl.zst", "metrics.json"),
        (f"{CELL}/losses.tokens.jsonl.zst", "losses.json"),
        ("results/tiny/overlaps/half.csv", "half.json"),
        *((f"{CELL}/diagnostics.json", None), ("results/tiny/hessians/thoughts/index.json", None)),
    ],
)
def test_a_file_with_another_byte_is_refused(name, said, made, tmp_path):
    cells = [made.cell(one, "half", [1, 0], errors=(0.1, 0.2)) for one in ("c4", "rac")]
    run = made.run(tmp_path, [made.dense([1, 1], errors=(0, 0)), *cells])
    tables = [tmp_path / f"results/{table}.csv" for table in ("summary", "comparisons", "budgets")]
    summarize(run.pop("cells"), "try", "config-sha", "0.1+code", tables[0])
    file, output = tmp_path / name, tmp_path / "results/report.html"
    content = bytearray(file.read_bytes())
    content[content.index(b"1") if said is None else len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(RacError) as error:
        report(*tables, **run, config={}, provenance={"page": {}}, output=output)
    wrong = (
        f"not the file that its {said} was written for" if said else "changed after it was written"
    )
    assert str(error.value).startswith(str(file)) and wrong in str(error.value)
    assert not output.exists()
