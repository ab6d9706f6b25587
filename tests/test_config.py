"""Whatever is wrong with a configuration is one line: where, what, and the nearest right word."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rac import config
from rac.errors import RacError

FILE = Path(config.__file__).parent.parent / "config.yaml"
VALUES = yaml.safe_load(FILE.read_text(encoding="utf-8"))
DELETE = object()


def changed(path: str, value: object) -> dict:
    """The repository's configuration with the value at a path of keys set or deleted."""
    values = copy.deepcopy(VALUES)
    *way, last = [int(key) if key.isdigit() else key for key in path.split("/")]
    part = values
    for key in way:
        part = part[key]
    if value is DELETE:
        del part[last]
    else:
        part[last] = value
    return values


def test_the_repository_s_configuration_is_valid():
    loaded = config.validate(VALUES)
    assert loaded.run == VALUES["run"]
    assert list(loaded.models) == list(VALUES["models"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", r"line 5: 'c' is there already: join the two"),
        ("variants: {}\nruns: {}\nvariants: {}\n", r"line 3: 'variants' is there already"),
        ("a: [1, {b: 1, b: 2}]\n", r"line 1: 'b' is there already"),
        ("a: [1\n", "cannot be read"),
        ("[" * 5000, "cannot be read"),
        (b"a: \xe9t\xe9\n", "cannot be read"),
    ],
)
def test_yaml_that_says_two_things_or_none_is_refused(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RacError, match=message) as error:
        config.read(file)
    assert "c.yaml" in str(error.value)


def test_yaml_is_read_as_yaml_reads_it(tmp_path):
    text = "x: &x {a: 1, b: 2}\ny: &y {<<: *x, b: 3}\nz: [{<<: *y, a: 5}, {<<: [*x, *y]}, *x]\n"
    for content in (text, "", FILE.read_text(encoding="utf-8")):
        (tmp_path / "c.yaml").write_text(content, encoding="utf-8")
        assert config.read(tmp_path / "c.yaml") == yaml.safe_load(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["variants"]["wanda"].update(pattern=124), "write it in quotes, '2:4'"),
        (lambda c: c["evals"]["word-problems"].update(samples=True), "YAML reads yes, no, on"),
        (
            lambda c: c["evals"]["word-problems"].update(samples=10**6),
            "less than or equal to 10000",
        ),
        (lambda c: c["workloads"]["short"].update(batches=[]), "workloads.short.batches"),
        (
            lambda c: c["workloads"]["short"].update(new_tokens=10**400),
            "workloads.short.new_tokens",
        ),
        (
            lambda c: c["models"].update(m={"hub": "http://x/y", "revision": "0" * 40}),
            "hub 'http://x/y' is not owner/name",
        ),
    ],
)
def test_values_that_would_end_in_a_job_are_refused_before(change, message):
    values = copy.deepcopy(VALUES)
    change(values)
    with pytest.raises(RacError, match=re.escape(message)):
        config.validate(values)


def test_the_repository_s_schema_is_current():
    assert (FILE.parent / "schemas/config.schema.json").read_text(
        encoding="utf-8"
    ) == config.schema()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("models", DELETE, "models: this key is missing"),
        ("run", "demoo", "run: 'demoo' is not defined; did you mean 'demo'?"),
        ("model", {}, "model: unknown key; did you mean 'models'?"),
        (
            "models/reasoner/dtpye",
            "float32",
            "models.reasoner.dtpye: unknown key; did you mean 'dtype'?",
        ),
        (
            "models/reasoner/dtype",
            "float23",
            "models.reasoner.dtype: 'float23' is not known; did you mean 'float32'?",
        ),
        (
            "models/reasoner/path",
            "x",
            "models.reasoner: give exactly one of 'embedded', 'path', 'hub'",
        ),
        ("models/reasoner/embedded", DELETE, "models.reasoner: give exactly one of"),
        (
            "models/reasoner/sampling",
            {"temprature": 0.6},
            "models.reasoner.sampling.temprature: unknown key; did you mean 'temperature'?",
        ),
        ("models/reasoner/sampling", {"temperature": 0}, "greater than 0 (found: 0)"),
        ("models/reasoner/sampling", {"top_p": 1.5}, "less than or equal to 1 (found: 1.5)"),
        ("models/m", {"hub": "a/b"}, "models.m: 'revision' (a commit) goes with 'hub'"),
        (
            "datasets/livecodebench/livecodebench/release",
            "release_v7",
            "datasets.livecodebench.livecodebench.release: 'release_v7' is not known; did you mean",
        ),
        ("models/m", {"hub": "a/b", "revision": "main"}, "revision 'main' is not a commit"),
        (
            "sources/s",
            {"kind": "traces", "dataset": "codeforces", "tokens": 9}
            | {"traces_of": {"source": "code-traces"}, "select": {"correct": True}},
            "sources.s.select.correct: 'codeforces' has no answers to tell it by",
        ),
        (
            "sources/s",
            {"kind": "traces", "dataset": "openr1", "tokens": 9}
            | {"traces_of": {"source": "math-traces"}, "select": {"difficulty": [0, 0.5]}},
            "sources.s.select.difficulty: 'openr1' has no answers to tell it by",
        ),
        (
            "sources/s",
            {"kind": "solutions", "dataset": "openr1", "tokens": 9},
            "sources.s.solution: 'openr1' keeps no column 'solution': add it to datasets.openr1.keep",
        ),
        (
            "datasets/problems-test/keep",
            ["style"],
            "datasets.problems-test: 'keep' is for datasets of files",
        ),
        ("models/; rm -rf", {"path": "x"}, "'; rm -rf' cannot be a name"),
        ("models/..", {"path": "x"}, "'..' cannot be a name"),
        ("models/figures", {"path": "x"}, "'figures' cannot be a name here"),
        ("variants/none", {"solver": "wanda", "sparsity": 0.5}, "'none' cannot be a name"),
        ("calibrations/dense", {"sum": {"c4": 1}}, "'dense' cannot be a name"),
        ("datasets/a b", {"path": "x.jsonl"}, "'a b' cannot be a name"),
        ("datasets/work", {"path": "x.jsonl"}, "'work' cannot be a name"),
        ("models/a.work", {"path": "x"}, "'a.work' cannot be a name"),
        ("evals/a\nb", {"task": "t", "dataset": "d"}, "cannot be a name"),
        ("evals/é", {"task": "t", "dataset": "d"}, "'é' cannot be a name"),
        ("calibrations/traces", {"sum": {"c4": 1}}, "'traces' cannot be a name here"),
        ("calibrations/benchmarks", {"sum": {"c4": 1}}, "'benchmarks' cannot be a name here"),
        ("evals/checkpoint", {"task": "t", "dataset": "d"}, "'checkpoint' cannot be a name here"),
        ("evals/runtime", {"task": "t", "dataset": "d"}, "'runtime' cannot be a name here"),
        (
            "sources/c4/dataset",
            "c4-calibratoin",
            "sources.c4.dataset: 'c4-calibratoin' is not defined; did you mean 'c4-calibration'?",
        ),
        ("sources/c4/dataset", "problems-test", "sources.c4: kind 'text' needs a dataset of kind"),
        ("sources/c4/tokens", -1, "sources.c4.tokens: Input should be greater than 0 (found: -1)"),
        ("sources/c4/tokens", "many", "sources.c4.tokens: "),
        ("sources/prompts/prompt", "Solve", "'prompt' must contain {problem}"),
        (
            "calibrations/c4",
            {"sum": {"c44": 1}},
            "calibrations.c4: 'c44' is not defined; did you mean 'c4'?",
        ),
        (
            "calibrations/rac/sum",
            {"traces.decod": 1},
            "calibrations.rac.traces: 'decod' is not defined; did you mean 'decode'?",
        ),
        ("calibrations/c4/sum", {"c4.decode": 1}, "'decode' is not defined; known: text"),
        ("calibrations/c4/sum", {"c4": -1}, "calibrations.c4: weights must be positive"),
        ("calibrations/c4/sum", {"c4": float("nan")}, "calibrations.c4.sum.c4: "),
        ("calibrations/c4/sum", {"c4": float("inf")}, "calibrations.c4.sum.c4: "),
        ("calibrations/c4/sum", {}, "calibrations.c4: weights must be positive"),
        ("calibrations/c4", {"share": {"c4": 0.5}}, "shares add up to 0.5, not to 1"),
        ("calibrations/c4/share", {"c4": 1}, "give exactly one of 'sum', 'share' (found 2)"),
        (
            "variants/wanda/solver",
            "wandaa",
            "variants.wanda.solver: 'wandaa' is not known; did you mean 'wanda'?",
        ),
        ("variants/wanda/sparsity", 1.5, "variants.wanda.sparsity.0: "),
        ("variants/wanda/sparsity", DELETE, "pattern 'unstructured' needs 'sparsity'"),
        ("variants/wanda/pattern", "4:2", "pattern '4:2' needs 0 < n < m"),
        ("variants/wanda/pattern", "2:4", "pattern '2:4' fixes the sparsity"),
        ("variants/v", {}, "variants.v: give 'solver', or 'quantize', or both"),
        (
            "variants/v",
            {"quantize": {"scheme": "fp8"}, "sparsity": 0.5},
            "variants.v: 'pattern' and 'sparsity' need a 'solver'",
        ),
        ("variants/w4a16/quantize/scheme", "w4a61", "'w4a61' is not known; did you mean 'w4a16'?"),
        ("variants/w4a16/quantize/method", "joint", "'joint' is a part of solver 'sparsegpt'"),
        ("variants/w4a16/scope", {"lm_head": True}, "'quantize' leaves scope.lm_head out"),
        (
            "variants/structured/quantize",
            {"scheme": "fp8", "smooth": 0.8},
            "'structured' goes without quantize.smooth",
        ),
        ("variants/structured/scope", {"blocks": "0-1"}, "'structured' narrows all blocks alike"),
        (
            "variants/w4a16/quantize/smooth",
            0.8,
            "'smooth' is for schemes that round activations: w8a8 and fp8",
        ),
        (
            "variants/alps/allocation",
            {"method": "owl", "source": "traces"},
            "'source' (of traces) goes with method 'evopress', and it alone",
        ),
        (
            "variants/alps/allocation",
            {"method": "evopress", "source": "c4"},
            "variants.alps.allocation.source: source 'c4' is of kind 'text', not 'traces'",
        ),
        (
            "variants/alps/allocation",
            {"method": "evopress", "source": "traces-heldout"},
            "runs.demo.heldout: variant 'alps-0.6' uses source 'traces-heldout'",
        ),
        ("variants/magnitude/allocation", {"method": "owl"}, "'allocation' goes with pattern"),
        ("variants/sparsegpt-2of4/allocation", {"method": "owl"}, "'allocation' goes with pattern"),
        ("variants/sparsegpt-w4a16/reconstruct", {}, "'reconstruct' needs a solver that makes"),
        ("variants/structured/reconstruct", {}, "'reconstruct' needs a solver that makes zeros"),
        ("variants/magnitude/propagation", "sequential", "'sequential' is for solvers that take"),
        ("variants/structured/propagation", "sequential", "'sequential' is for solvers that take"),
        ("sources/c4/samples", 2, "'samples', 'traces_of' and 'select' are for sources of kind"),
        ("sources/traces/select", {"correct": True}, "'select' chooses among traces that are"),
        (
            "sources/traces/traces_of",
            {"source": "c4"},
            "sources.traces.traces_of.source: 'c4' must be a source of traces that are generated",
        ),
        (
            "sources/traces/traces_of",
            {"source": "traces-heldout", "model": "resoner"},
            "sources.traces.traces_of.model: 'resoner' is not defined; did you mean 'reasoner'?",
        ),
        (
            "sources/traces-10k/tokens",
            60_000,
            "sources.traces-10k.tokens: 60000 are more than 'traces' draws, 50000 and the rest of a sample",
        ),
        ("datasets/c4-heldout/without", ["problems-test"], "'without' is for datasets of problems"),
        ("datasets/problems-calibration/without", ["c4"], "'c4' is not defined"),
        (
            "datasets/problems-calibration",
            {"path": "x.jsonl"},
            "datasets.problems-calibration.without: add 'problems-test'",
        ),
        ("datasets/problems-test/files", ["x"], "'files' goes with 'hub'"),
        ("datasets/problems-test/split", DELETE, "'split' goes with 'embedded'"),
        ("variants/wanda/pattern", "random", "is neither 'unstructured' nor n:m"),
        (
            "variants/sparsegpt-0.5",
            {"solver": "wanda", "pattern": "2:4"},
            "'sparsegpt-0.5' stands for two variants",
        ),
        ("variants/wanda/scope", {"blocks": "last-thrid"}, "did you mean 'last-third'?"),
        (
            "variants/wanda/scope",
            {"blocks": "9-2"},
            "variants.wanda.scope: '9-2' is an empty range",
        ),
        ("variants/wanda/scope", {"projections": "mpl"}, "'mpl' is not known; did you mean 'mlp'?"),
        ("variants/wanda/sparsity", [0.5, 0.5], "'wanda-0.5' stands for two variants"),
        ("evals/word-problems/samples", 0, "evals.word-problems.samples: "),
        (
            "runs/demo/cells/0/variants",
            ["sparsgpt"],
            "runs.demo.cells[0].variants: 'sparsgpt' is not defined; did you mean 'sparsegpt'?",
        ),
        ("runs/demo/cells/0/variants", ["sparsegpt-0.8"], "'sparsegpt-0.8' is not defined"),
        ("runs/demo/cells/1/models", ["reasonr"], "cells[1].models: 'reasonr' is not defined"),
        ("runs/demo/cells/0/calibration", [], "unknown key; did you mean 'calibrations'?"),
        ("runs/demo/heldout/thoughts", "c4", "source 'c4' is of kind 'text', not 'traces'"),
        ("runs/demo/heldout/text", "c4", "heldout: calibration 'c4' uses source 'c4'"),
        ("sources/traces-heldout/dataset", "problems-calibration", "are to be held out"),
        (
            "evals/word-problems/dataset",
            "problems-calibration",
            "eval 'word-problems' asks dataset 'problems-calibration', which source",
        ),
        (
            "datasets/problems-test/split",
            "calibration",
            "asks dataset 'problems-test', with the rows of dataset 'problems-calibration', which source",
        ),
        ("datasets/c4-heldout/split", "calibration", "whose rows are those of 'c4-heldout'"),
        ("runs/demo/workload", DELETE, "cells[1]: 'runtime' needs runs.demo.workload"),
        ("runs/demo/workload", "shrt", "'shrt' is not defined; did you mean 'short'?"),
        ("runs/demo/cells", [], "runs.demo: it has no cells"),
        ("runs/demo/cells/1/models", [], "runs.demo.cells[1].models: name at least one"),
        (
            "runs/demo/cells/0/calibrations",
            [],
            "runs.demo.cells[0].calibrations: 'sparsegpt-0.3' needs one; name at least one",
        ),
        (
            "run",
            False,
            "run: text is wanted, and YAML reads yes, no, on and off as true or false (found: false): "
            "put it in quotes",
        ),
        (
            "evals/word-problems/dataset",
            2024,
            "evals.word-problems.dataset: text is wanted, and YAML reads 2024 as a number: put it in",
        ),
        ("runs/paper/includes", ["tabel1"], "runs.paper.includes: 'tabel1' is not defined"),
        ("runs/paper/includes", ["paper"], "runs.paper.includes: it includes itself"),
        ("runs/paper/includes", "table1", "runs.paper.includes: it must be a list of runs"),
        ("runs", [], "runs: "),
    ],
)
def test_an_error_is_one_line_that_says_where_and_what(path, value, message):
    with pytest.raises(RacError) as error:
        config.validate(changed(path, value))
    assert message in str(error.value)
    assert str(error.value).startswith("config.yaml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"), [(False, "off as .*false"), (True, "off as .*true"), (24, "24 as .*")]
)
def test_a_name_that_yaml_takes_for_no_text_is_to_be_put_in_quotes(name, said):
    values = copy.deepcopy(VALUES)
    values["sources"][name] = values["sources"]["c4"]
    with pytest.raises(RacError, match=rf"^config.yaml: sources.*: text .* {said}.*in quotes$"):
        config.validate(values)


def test_without_calibrations_a_run_has_what_needs_none():
    values = changed("runs/demo/cells/0/calibrations", [])
    values["runs"]["demo"]["cells"][0]["variants"] = ["magnitude"]
    config.validate(values)


def test_all_files_are_named_that_were_laid_over_each_other():
    with pytest.raises(
        RacError, match=r"^config.yaml with mine.yaml: sources.c4.windw: unknown key"
    ):
        config.validate(changed("sources/c4/windw", 3), "config.yaml", Path("mine.yaml"))


def places(part: object, way: tuple = ()) -> list[tuple]:
    """Every path of keys in the configuration."""
    if isinstance(part, dict):
        inner = list(part.items())
    elif isinstance(part, list):
        inner = list(enumerate(part))
    else:
        return []
    return [place for key, value in inner for place in [(*way, key), *places(value, (*way, key))]]


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["none", "../x", "; rm -rf", "a\nb", "2:4"]),
    st.lists(st.integers() | st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=3) | st.integers(), st.integers() | st.none(), max_size=2),
)


@given(
    place=st.sampled_from(places(VALUES)),
    what=st.sampled_from(["delete", "replace", "add"]),
    key=st.text(max_size=8) | st.integers(),
    value=anything,
)
@settings(max_examples=300)
def test_nothing_but_one_clear_line_comes_of_a_random_mutation(place, what, key, value):
    values = copy.deepcopy(VALUES)
    part = values
    for step in place[:-1]:
        part = part[step]
    if what == "delete":
        del part[place[-1]]
    elif what == "replace":
        part[place[-1]] = value
    elif isinstance(part[place[-1]], dict):
        part[place[-1]][key] = value
    try:
        valid = config.validate(values)
    except RacError as error:
        assert len(str(error).splitlines()) == 1
    else:  # what is accepted goes through the rules' JSON unchanged
        assert config.Config.model_validate_json(valid.model_dump_json()) == valid


def test_by_length_traces_are_chosen_without_answers():
    source = {"kind": "traces", "dataset": "codeforces", "tokens": 9}
    source |= {"traces_of": {"source": "code-traces"}, "select": {"order": "shortest"}}
    assert config.validate(changed("sources/s", source)).sources["s"].select


def test_traces_may_be_taken_to_the_end_of_the_last_one():
    drawn = config.validate(VALUES).sources["traces"]
    most = drawn.tokens + drawn.max_new_tokens
    assert config.validate(changed("sources/traces-10k/tokens", most))
    with pytest.raises(RacError, match="sources.traces-10k.tokens"):
        config.validate(changed("sources/traces-10k/tokens", most + 1))


def test_a_list_of_sparsities_is_a_variant_each():
    cells = config.validate(VALUES).variant_cells()
    assert [name for name in cells if name.startswith("sparsegpt-0")] == [
        f"sparsegpt-{sparsity}" for sparsity in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    ]
    assert {"sparsegpt-2of4", "sparsegpt-w4a16-0.5"} <= cells.keys()
    pattern, variant = cells["sparsegpt-0.4"]
    assert pattern == "unstructured 0.4"
    assert variant.sparsity == [0.4]
    assert cells["sparsegpt-2of4"][0] == "2:4"
    assert "sparsegpt" not in cells
    assert cells["wanda-0.5"][1].sparsity == [0.5]
