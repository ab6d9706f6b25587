import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from rac import config, costs, plan
from rac.costs import A100, H100
from rac.errors import RacError
from rac.provenance import write_record

REPOSITORY = Path(__file__).parents[1]
REASONER = json.loads((REPOSITORY / "rac/models/reasoner/weights/config.json").read_text())


ROWS = {"problems-test": 200, "problems-test-50": 50, "word-order": 200}


def _demo(change=lambda values: None):
    """The demo's configuration, changed."""
    values = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    change(values)
    return config.validate(values)


def _planned(settings, **options):
    models = dict.fromkeys(settings.models, REASONER)
    return plan.plan(settings, models, dict.fromkeys(settings.datasets, 200), **options)


def _row(rows, rule):
    return next(row for row in rows if row.rule == rule)


@pytest.mark.slow
def test_jobs_are_those_that_snakemake_plans(tmp_path):
    shutil.copyfile(REPOSITORY / "config.yaml", tmp_path / "config.yaml")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1"]
        + ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY)},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = Counter()
    listed = (done.stdout + done.stderr).partition("Job stats:")[2].partition("total")[0]
    for rule, count in re.findall(r"^(\w+) +(\d+)$", listed, re.M):
        counts[rule] = int(count)
    del counts["all"]
    planned = Counter()
    for row in _planned(_demo()):
        planned[row.rule] += row.jobs
    assert planned == counts


def test_a_larger_run_takes_more():
    rows = _planned(_demo())

    def longer(values):
        for name in ("word-problems", "word-problems-4x"):
            values["evals"][name]["samples"] *= 4
        values["sources"]["traces"]["tokens"] *= 2
        values["variants"]["sparsegpt"]["sparsity"].append(0.75)
        values["runs"]["demo"]["cells"][0]["variants"].append("sparsegpt-0.75")

    more = _planned(_demo(longer))
    assert _row(more, "generate").flops > 3.5 * _row(rows, "generate").flops
    assert _row(more, "hessians").host > _row(rows, "hessians").host
    assert _row(more, "hessians").flops > _row(rows, "hessians").flops
    assert _row(more, "hessians").disk == _row(rows, "hessians").disk
    assert _row(more, "compress").jobs == _row(rows, "compress").jobs + 3
    assert _row(more, "compress").disk > _row(rows, "compress").disk
    slower = _planned(_demo(), device=A100)
    assert _row(slower, "hessians").hours > _row(rows, "hessians").hours


def test_log_likelihoods_are_one_pass_whatever_the_tokens_that_are_sampled():
    def scored(values):
        for name in ("word-problems", "word-problems-4x"):
            values["evals"][name] = {"task": "word_order", "dataset": "word-order"}

    sampled, scored = (
        _row(_planned(_demo(change)), "generate") for change in (lambda v: None, scored)
    )
    assert sampled.jobs == scored.jobs
    shape = costs.shape(REASONER, "float32")
    assert scored.flops == scored.jobs * 2 * shape.weights * 200 * 4 * 256
    assert scored.hours < sampled.hours / 100


def test_shards_share_the_work():
    def sampled(values):
        values["runs"]["demo"]["cells"] = values["runs"]["demo"]["cells"][:1]

    def cut(values):
        sampled(values)
        values["evals"]["word-problems"]["shards"] = 2
        for source in values["sources"].values():
            source["shards"] = 4

    rows, shared = _planned(_demo(sampled)), _planned(_demo(cut))
    for stage in ("traces", "hessians", "generate"):
        whole, share = _row(rows, stage), _row(shared, f"{stage}_shard")
        count = 2 if stage == "generate" else 4
        assert share.jobs == count * whole.jobs
        assert share.flops == pytest.approx(whole.flops, rel=0.01)
        assert _row(shared, stage).jobs == whole.jobs
    assert _row(shared, "hessians").flops == 0


def test_what_does_not_fit_is_marked(llama_70b):
    def large(values):
        values["models"]["large"] = {"path": "large"}
        values["runs"] = {"demo": values["runs"]["demo"]}
        for block in values["runs"]["demo"]["cells"]:
            block["models"] = ["large"]
        values["variants"]["sparsegpt"]["sparsity"] = [0.5, 0.3, 0.4, 0.6]

    rows = plan.plan(_demo(large), {"large": llama_70b}, ROWS)
    lines = {line.split()[0]: line for line in plan.table(rows).splitlines() if line}
    for rule in ("hessians", "compress", "diagnostics"):
        assert "!" not in lines[rule]
    for rule in ("traces", "generate", "losses", "runtime"):
        assert "!" in lines[rule]
    assert "does not fit" in plan.table(rows)
    assert "does not fit" not in plan.table(_planned(_demo()))


def test_the_table_adds_up():
    rows = _planned(_demo())
    text = plan.table(rows, H100)
    total = next(line for line in text.splitlines() if line.split()[:1] == ["all"]).split()
    assert int(total[1]) == sum(row.jobs for row in rows)
    assert float(total[2]) == pytest.approx(sum(row.disk for row in rows) / 1e9, abs=0.005)
    assert len({len(line) for line in text.splitlines()[: len(rows) + 2]}) == 1


def test_what_is_not_known_is_asked_for():
    with pytest.raises(RacError, match=r"models\.reasoner"):
        plan.plan(_demo(), {}, ROWS)
    with pytest.raises(RacError, match=r"datasets\.problems-test"):
        plan.plan(_demo(), {"reasoner": REASONER}, {})


def test_no_torch_is_imported():
    command = "import sys, rac.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0


def test_what_is_here_is_known(tmp_path, monkeypatch):
    def own(values):
        values["datasets"]["own"] = {"path": "own.jsonl"}
        values["models"] |= {"folder": {"path": "folder"}, "absent": {"path": "absent"}}
        values["runs"] = {"demo": values["runs"]["demo"]}

    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder/config.json").write_text(json.dumps({"hidden_size": 8}))
    write_record(Path("resources/datasets/own/meta.json"), {"rows": 7})
    settings = _demo(own)
    known = plan.known_models(settings)
    assert (known["reasoner"], known["folder"]) == (REASONER, {"hidden_size": 8})
    assert known["qwen3-8b"]["num_hidden_layers"] == 36 and "absent" not in known
    rows = plan.known_rows(settings)
    assert (rows["own"], rows["problems-test"]) == (7, 200) and "c4-heldout" not in rows
    Path("resources/datasets/own/meta.json").write_text("{}")
    with pytest.raises(RacError, match=r"own/meta.json was changed after it was written; delete"):
        plan.known_rows(settings)


def test_the_paper_s_matrix_is_planned_before_anything_is_downloaded():
    values = yaml.safe_load((REPOSITORY / "config.yaml").read_text()) | {"run": "paper"}
    settings = config.validate(values)
    rows = plan.plan(settings, plan.known_models(settings), plan.known_rows(settings))
    assert sum(row.jobs for row in rows if row.rule == "compress") == 125
    assert sum(row.jobs for row in rows if row.rule == "hessians") == 35
    assert sum(row.jobs for row in rows if row.rule == "traces") == 17
    assert sum(row.hours for row in rows) > 100


@pytest.mark.parametrize(
    ("hub", "billions"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1.78),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 7.62),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 14.8),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", 32.8),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 8.03),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", 70.6),
        ("Qwen/Qwen3-1.7B", 1.72),
        ("Qwen/Qwen3-8B", 8.19),
        ("Qwen/Qwen3-14B", 14.8),
    ],
)
def test_sizes_of_models_of_the_hub_are_those_that_their_cards_name(hub, billions):
    shape = costs.shape(json.loads(plan.SHAPES.read_text())[hub], "bfloat16")
    assert shape.weights == pytest.approx(billions * 1e9, rel=0.005)
