"""Work that several jobs share gives what one job gives."""

import csv

import pytest

from rac.artifacts import sha256_file
from rac.verify import verify

pytestmark = pytest.mark.slow


def test_a_run_in_shards_gives_the_same_samples_and_table(fresh, finished_project):
    def cut(values):
        for name in ("traces", "heldout", "text"):
            values["sources"][name]["shards"] = 3
        values["evals"]["words"]["shards"] = 2

    fresh.configure(cut)
    cells = {"generate_shard": 6, "generate": 3, "score": 3}
    planned = fresh.planned()
    assert planned["traces_shard"] == 6 and planned["traces"] == 2
    assert planned["hessians_shard"] == 6 and planned["hessians"] == 2
    assert {rule: planned[rule] for rule in cells} == cells
    fresh.make()
    for name in (
        "tiny/traces/traces/traces.jsonl.zst",
        "tiny/sources/traces/sequences.safetensors",
        "tiny/none/dense/words/generations.jsonl.zst",
        "tiny/none/magnitude-0.5/words/generations.jsonl.zst",
    ):
        of_one = sha256_file(finished_project / "results" / name)
        assert sha256_file(fresh.folder / "results" / name) == of_one, name
    tables = [
        list(csv.DictReader((folder / "results/summary.csv").open()))
        for folder in (finished_project, fresh.folder)
    ]
    for one, cut_up in zip(*tables, strict=True):
        for column, value in one.items():
            if column.startswith(("layer_error", "loss", "kl", "accuracy")) and value:
                assert float(cut_up[column]) == pytest.approx(float(value), rel=1e-3, abs=1e-6)
    assert [found.wrong for found in verify(fresh.folder) if found.wrong] == []
    assert len(list(fresh.folder.glob("results/tiny/shards/**/shard.json"))) == 12
    for shard in ("logs/tiny/hessians/traces+2.log", "logs/tiny/none/dense/words/generate+1.log"):
        assert (fresh.folder / shard).exists()
    assert "Nothing to be done" in fresh.make()
    fresh.configure(lambda values: values["models"]["tiny"].update(spill="."))
    assert fresh.planned() == {}  # how jobs run is no definition
