"""The command line: a message of one line and exit code 1 for what the user can put right."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from rac import __main__ as main_module
from rac import config, reference
from rac.__main__ import app
from rac.artifacts import read_json, read_jsonl

REPOSITORY = Path(__file__).parents[1]
NAMED = ("--name", "d", "--code", "f00d")
DATASET = {"embedded": "word-problems", "split": "test", "rows": 3}


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "rac", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_verb_writes_its_output_and_says_nothing(tmp_path):
    done = run("dataset", "--spec", json.dumps(DATASET), *NAMED, "--output", tmp_path / "d")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(read_jsonl(tmp_path / "d" / "data.jsonl")) == 3
    assert read_json(tmp_path / "d" / "meta.json")["provenance"]["code"].endswith("+f00d")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (DATASET | {"split": "tset"}, "datasets.d: split 'tset' is none of validation"),
        (DATASET | {"rows": 0}, "Dataset.rows: Input should be greater than 0"),
        (DATASET | {"colour": 1}, "Dataset.colour: Extra inputs are not permitted"),
        ({"path": "/absent.jsonl"}, "datasets.d.path: /absent.jsonl is missing"),
        ("{", "Dataset: Invalid JSON"),
    ],
)
def test_what_the_user_can_put_right_is_one_line_and_exit_code_1(tmp_path, spec, message):
    text = spec if isinstance(spec, str) else json.dumps(spec)
    done = run("dataset", "--spec", text, *NAMED, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.startswith("rac: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "d"
    done = run("dataset", "--spec", json.dumps(DATASET), *NAMED, "--output", output)
    assert done.returncode == 1
    assert done.stderr == f"rac: error: cannot write {output}: File exists\n"


def test_a_broken_model_folder_is_one_line(tmp_path):
    spec = json.dumps({"path": str(tmp_path)})
    done = run("model", "--spec", spec, *NAMED, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr == (
        f"rac: error: models.d.path: {tmp_path} is not a Hugging Face folder "
        "(config.json is missing)\n"
    )


def test_a_plan_is_printed_and_what_is_not_known_is_one_line(tmp_path):
    done = run("plan", "--config", REPOSITORY / "config.yaml")
    assert done.returncode == 0 and "Device: one H100" in done.stdout
    longer = run("plan", "--config", REPOSITORY / "config.yaml", "--length", 0.5)
    assert longer.returncode == 0 and longer.stdout != done.stdout
    for arguments, message in (
        (("--config", REPOSITORY / "config.yaml", "--run", "dmeo"), "did you mean 'demo'?"),
        (("--config", tmp_path / "absent.yaml"), "absent.yaml cannot be read"),
    ):
        done = run("plan", *arguments)
        assert done.returncode == 1 and message in done.stderr
        assert done.stderr.startswith("rac: error: ") and done.stderr.count("\n") == 1


def test_a_package_that_is_missing_is_one_line(tmp_path):
    hook = "import sys; sys.modules['tokenizers'] = sys.modules['lm_eval'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    (tmp_path / "data.jsonl").write_text("")
    spec = json.dumps({"task": "word_problems", "dataset": "d"})
    done = subprocess.run(
        [sys.executable, "-m", "rac", "score", "--spec", spec, "--code", "f00d"]
        + [f"--{name}={tmp_path / 'data.jsonl'}" for name in ("dataset", "requests", "generations")]
        + [f"--{name}={tmp_path / name}" for name in ("scores", "metrics")],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    assert "the package 'lm_eval' is not installed: pip install -e ." in done.stderr


def test_a_file_is_laid_over_config_yaml_as_snakemake_lays_it(tmp_path, monkeypatch):
    from snakemake.utils import update_config

    shutil.copy(REPOSITORY / "config.yaml", tmp_path)
    block = {"models": ["reasoner"], "calibrations": ["rac"], "variants": ["half"]}
    above = {
        "run": "mine",
        "variants": {"half": {"solver": "sparsegpt", "sparsity": [0.5, 0.7]}},
        "evals": {"word-problems": {"samples": 2}},
        "runs": {"mine": {"cells": [block | {"evals": ["word-problems"]}]}},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(above))
    values = yaml.safe_load((tmp_path / "config.yaml").read_text())
    update_config(values, above)
    monkeypatch.chdir(tmp_path)
    assert main_module._read_config(Path("mine.yaml"), None) == config.validate(values)
    assert main_module._read_config(Path("mine.yaml"), "demo").run == "demo"
    done = run("plan", "--config", "mine.yaml")
    assert done.returncode == 0 and "compress" in done.stdout, done.stderr


def test_the_schema_and_the_reference_are_written(tmp_path):
    assert run("config-schema", "--output", tmp_path / "s.json").returncode == 0
    assert (tmp_path / "s.json").read_text(encoding="utf-8") == config.schema()
    assert run("config-reference", "--output", tmp_path / "r.md").returncode == 0
    assert (tmp_path / "r.md").read_text(encoding="utf-8") == reference.reference()


def test_each_verb_says_what_it_is_for():
    done = run("--help")
    assert done.returncode == 0
    for command in app.registered_commands:
        assert command.callback is not None and command.callback.__doc__
        assert command.callback.__name__.replace("_", "-") in done.stdout


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"),
            "Tried to allocate",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
            "8 bytes",
        ),
        (MemoryError(), "memory is short"),
    ],
)
def test_want_of_memory_is_one_line(monkeypatch, capsys, error, said):
    def fail(**arguments):
        raise error

    monkeypatch.setattr(main_module, "app", fail)
    with pytest.raises(SystemExit, match="1"):
        main_module.main()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("rac: error: memory is short") and said in line


def test_another_error_is_shown_whole(monkeypatch):
    def fail(**arguments):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(main_module, "app", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        main_module.main()
