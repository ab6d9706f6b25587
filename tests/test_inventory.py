"""What cells share, and shards of work: named before they are made, where the rules make them."""

import copy

from rac import config, inventory
from tests.test_status import VALUES


def small(**changes):
    values = copy.deepcopy(VALUES)
    values["sources"]["prompts"] = {"kind": "prompts", "dataset": "d", "tokens": 10}
    values["evals"]["words"]["shards"] = 2
    return config.validate(values | changes)


def test_shared_artefacts_come_in_the_order_in_which_they_are_made():
    found = {made.name: made for made in inventory.shared(small())}
    assert list(found) == [
        *("dataset d", "dataset t", "m", "m traces traces", "m sources traces"),
        *("m hessians traces", "m requests words"),
    ]
    traces = found["m traces traces"]
    assert traces.path == "results/m/traces/traces/traces.jsonl.zst"
    assert traces.log == "logs/m/traces/traces.log"
    assert traces.shards == tuple(f"results/m/shards/traces/traces/{i}" for i in range(2))
    assert found["m hessians traces"].path == "results/m/hessians/traces"
    assert found["m sources traces"].shards == ()


def test_what_no_cell_of_the_active_run_needs_is_not_named():
    names = {made.name for made in inventory.shared(small())}
    assert not any("prompts" in name for name in names)


def test_held_out_text_has_sequences_and_no_hessians():
    values = copy.deepcopy(VALUES)
    values["datasets"]["c"] = {"embedded": "c4", "kind": "documents", "split": "heldout"}
    values["sources"] |= {
        "text": {"kind": "text", "dataset": "c", "tokens": 10},
        "thoughts": {"kind": "traces", "dataset": "t", "tokens": 10},
    }
    values["runs"]["r"]["heldout"] = {"thoughts": "thoughts", "text": "text"}
    names = {made.name for made in inventory.shared(config.validate(values))}
    assert {"m sources text", "m hessians thoughts", "m traces thoughts"} <= names
    assert "m hessians text" not in names


def test_shards_of_generations():
    folder = "results/m/shards/generate"
    assert inventory.generation_shards(small()) == [
        *(f"{folder}/none/dense/words/{i}" for i in range(2)),
        *(f"{folder}/rac/sparsegpt-0.5/words/{i}" for i in range(2)),
    ]
