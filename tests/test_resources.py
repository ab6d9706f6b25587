"""What jobs ask a cluster for."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from rac import config, costs, plan, resources, rules
from rac.costs import H100, Cost
from rac.resources import Assumed

VALUES = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())
ASKED = {
    "traces": {"source": "math-traces"},
    "hessians": {"source": "math-traces"},
    "compress": {"calibration": "math-rac", "variant": "alps-0.5"},
    "generate": {"eval": "math-500"},
    "diagnostics": {"thoughts": "math-traces-heldout"},
    "losses": {"thoughts": "math-traces-heldout", "text": "web-heldout"},
    "runtime": {"workload": "serving"},
}


class Wildcards(SimpleNamespace):
    """As Snakemake's: by attribute and by key."""

    def __getitem__(self, key: str) -> str:
        return getattr(self, key)


def settings(**changes):
    values = copy.deepcopy(VALUES)
    values["models"]["r1-qwen-7b"] |= changes
    return config.validate(values)


def asked(of, rule, model="r1-qwen-7b", attempt=1):
    wildcards = Wildcards(model=model, **ASKED[rule])
    return (
        rules.memory(of, rule)(wildcards, attempt=attempt),
        rules.minutes(of, rule)(wildcards, attempt=attempt),
    )


@pytest.mark.parametrize("rule", ASKED)
def test_a_larger_model_and_another_attempt_ask_for_more(rule):
    memory, minutes = asked(settings(), rule)
    assert asked(settings(), rule, attempt=2) == pytest.approx((2 * memory, 2 * minutes), abs=1)
    larger, longer = asked(settings(), rule, "r1-llama-70b")
    assert larger > memory and longer > minutes


@pytest.mark.parametrize(
    "rule", ["traces", "hessians", "generate", "diagnostics", "losses", "runtime"]
)
def test_what_is_asked_for_covers_what_is_planned(rule):
    values = copy.deepcopy(VALUES) | {"run": "one"}
    block = {"models": ["r1-qwen-7b"], "calibrations": ["math-rac"], "variants": ["alps-0.5"]}
    values["runs"]["one"] = {
        "heldout": ASKED["losses"],
        "workload": "serving",
        "cells": [block | {"evals": ["math-500"], "runtime": True}],
    }
    of = config.validate(values)
    rows = plan.plan(of, plan.known_models(of), plan.known_rows(of))
    row = next(row for row in rows if (row.rule, row.model) == (rule, "r1-qwen-7b"))
    memory, minutes = asked(of, rule)
    assert memory * 1e6 > 1.5 * row.host
    assert minutes > 4 * 60 * row.hours / row.jobs


def test_a_job_without_a_gpu_holds_the_model_in_its_memory():
    of = Cost(device=8e9, host=2e9, disk=6e9, seconds=60)
    assert resources.megabytes(of, 0, 1) == 16000
    assert resources.megabytes(of, 1, 1) == 8000
    assert resources.megabytes(of, 2, 2) == 24000
    assert resources.minutes(of, 1) == 20 + 4 + 1
    assert resources.minutes(of, 3) == 75


def test_more_threads_of_a_cpu_are_faster_and_a_gpu_is_as_fast_as_it_is():
    assert resources.device(1, 2) == resources.device(4, 64) == H100
    assert resources.device(0, 4).flops == 4 * resources.device(0, 1).flops


@pytest.mark.parametrize(
    ("model", "gpu", "gpus", "threads"),
    [
        ({}, 1, 1, 4),
        ({"tensor_parallel": 4, "engine": "vllm"}, 1, 4, 4),
        ({"tensor_parallel": 4, "engine": "transformers"}, 1, 1, 4),
        ({"threads": 3}, 1, 1, 3),
        ({"dtype": "float32", "threads": 2}, 0, 0, 2),
        ({"dtype": "float32", "device": "gpu"}, 1, 1, 4),
        ({"device": "cpu", "threads": 6, "tensor_parallel": 2}, 0, 0, 6),
    ],
)
def test_who_asks_for_gpus(model, gpu, gpus, threads):
    of, wildcards = settings(**model), Wildcards(model="r1-qwen-7b")
    found = tuple(rules.ask(of, name)(wildcards) for name in ("gpu", "gpus", "threads"))
    assert found == (gpu, gpus, threads)


def test_log_likelihoods_take_one_gpu_however_many_sample():
    of = settings(tensor_parallel=4, engine="vllm")
    asked_of = {
        name: Wildcards(model="r1-qwen-7b", eval=name) for name in ("math-500", "word-order")
    }
    found = {name: rules.gpus(of, wildcards) for name, wildcards in asked_of.items()}
    assert found == {"math-500": 4, "word-order": 1}


def test_samples_of_a_model_on_four_gpus_are_planned_for_all_four():
    values = copy.deepcopy(VALUES)
    model = values["models"]["r1-llama-70b"] | {"engine": "vllm"}
    values["models"] |= {"one": model, "four": model | {"tensor_parallel": 4}}
    of = config.validate(values)
    shape = costs.shape(plan.known_models(of, ["one"])["one"], "bfloat16")
    source = of.sources[ASKED["traces"]["source"]]
    mean = 0.25 * source.max_new_tokens
    fast = H100._replace(memory=320e9, flops=4 * H100.flops, bandwidth=4 * H100.bandwidth)
    samples = source.tokens / (256 + mean)
    expected = costs.stream(shape, 256, source.max_new_tokens, mean, samples, fast)
    found = resources.cost(
        of, shape, {}, Assumed(H100, 256, 0.25, "vllm", 4), "traces", ASKED["traces"]
    )
    assert (found.seconds, found.device) == (expected.seconds, expected.device / 4)
    assert found.device < H100.memory < shape.weights * shape.item
    one, four = (asked(of, "traces", name) for name in ("one", "four"))
    assert four[1] < one[1] / 4 and four[0] == one[0] + 3 * 4000


def test_a_model_that_is_not_there_yet_asks_for_what_is_sensible(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = copy.deepcopy(VALUES)
    values["models"]["new"] = {"hub": "some/one", "revision": 40 * "0"}
    of = config.validate(values)
    guessed = (resources.megabytes(resources.UNKNOWN, 1, 1), 20 + 4 * 120)
    assert asked(of, "generate", "new") == guessed
    folder = tmp_path / "resources/models/new"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8}))  # of another kind
    assert asked(of, "generate", "new") == guessed
    shapes = json.loads(plan.SHAPES.read_text())
    (folder / "config.json").write_text(json.dumps(shapes["Qwen/Qwen3-8B"]))
    assert asked(of, "generate", "new") == asked(of, "generate", "qwen3-8b")


@pytest.mark.parametrize("limit", [512, 65536])  # beside the default, which `taken` does not read
def test_traces_that_are_taken_are_as_long_as_those_that_were_drawn(limit):
    values = copy.deepcopy(VALUES)
    drawn = values["sources"]["math-traces"] | {"max_new_tokens": limit}
    taken = {key: drawn[key] for key in ("kind", "dataset", "tokens")}
    values["sources"] |= {"drawn": drawn, "taken": taken | {"traces_of": {"source": "drawn"}}}
    sparse = {"solver": "sparsegpt", "sparsity": 0.5}
    for name in ("drawn", "taken"):
        values["calibrations"][f"of-{name}"] = {"sum": {name: 1}}
        allocation = {"method": "evopress", "source": name}
        values["variants"][f"searched-{name}"] = sparse | {"allocation": allocation}
    values["variants"]["walked"] = sparse | {"propagation": "sequential"}
    of = config.validate(values)
    shape = costs.shape(plan.known_models(of, ["r1-qwen-7b"])["r1-qwen-7b"], "bfloat16")
    for rule, names in (
        ("hessians", {"source": "{}"}),
        ("losses", {"thoughts": "{}", "text": "web-heldout"}),
        ("compress", {"calibration": "math-rac", "variant": "searched-{}-0.5"}),
        ("compress", {"calibration": "of-{}", "variant": "walked-0.5"}),
    ):
        costs_of = [
            resources.cost(
                *(of, shape, {}, Assumed(), rule),
                {key: value.format(name) for key, value in names.items()},
            )
            for name in ("drawn", "taken")
        ]
        assert costs_of[0] == costs_of[1], rule


def test_problems_of_an_unknown_number_are_a_thousand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shape = costs.shape(plan.known_models(settings())["r1-qwen-7b"], "bfloat16")
    found = [
        resources.cost(settings(), shape, rows, Assumed(), "generate", ASKED["generate"]).flops
        for rows in ({}, {"math-500": 500}, {"math-500": 1000})
    ]
    assert found[0] == found[2] == 2 * found[1]


def test_where_jobs_run_is_no_part_of_what_they_compute():
    of, wildcards = settings(), Wildcards(model="r1-qwen-7b")
    spec = [
        rules.spec(changed, "models", "model")(wildcards)
        for changed in (of, settings(device="cpu", threads=2))
    ]
    assert spec[0] == spec[1] and "device" not in json.loads(spec[0])
