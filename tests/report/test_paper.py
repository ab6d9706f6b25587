import csv

import yaml

from rac import config, matrix
from rac.config import Config
from rac.report import paper


def named(settings: Config) -> set[tuple[str, str, str, str]]:
    """The cells of the run `paper`, as rac/report/paper.csv names them."""
    return {
        (row["model"], row["calibration"], row["variant"], row["eval"] or "")
        for row in matrix.summary_cells(settings)
    }


def test_every_printed_value_is_of_a_cell_of_the_run_paper(repository):
    values = yaml.safe_load((repository / "config.yaml").read_text(encoding="utf-8"))
    cells = named(config.validate(values | {"run": "paper"}))
    with paper.FILE.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["column"] for row in rows} == {"accuracy", "minutes", "tokens_per_second"}
    for row in rows:
        key = row["model"], row["calibration"], row["variant"], row["eval"]
        assert any(cell[:3] == key[:3] for cell in cells)
        if row["column"] == "accuracy":
            assert key in cells
            assert 0 < float(row["value"]) < 1
        assert row["source"] and (row["budget"] == "") == (row["table"] != "8")
    keys = [(*list(row.values())[1:7],) for row in rows]
    assert len(keys) == len(set(keys))


def test_values_are_told_by_cell():
    cell = "r1-qwen-7b", "math-rac", "sparsegpt-0.5", "math-500"
    assert paper.printed("accuracy")[cell] > paper.printed("accuracy")[cell[0], "web", *cell[2:]]
    assert paper.printed("minutes").keys() < paper.printed("accuracy").keys()


def test_budgets_are_told_apart():
    dense = "r1-qwen-7b", "none", "dense", "math-500"
    assert paper.printed("accuracy", 4096)[dense] < paper.printed("accuracy")[dense]
    assert len(paper.printed("accuracy", 4096)) == 2 and not paper.printed("accuracy", 8192)
