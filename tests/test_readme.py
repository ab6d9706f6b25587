"""What README tells a user to write is what the configuration takes."""

import re
from pathlib import Path

import pytest
import yaml

from rac import config

REPOSITORY = Path(__file__).parents[1]
BLOCKS = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)


def merged(*blocks: str) -> dict:
    """config.yaml with the definitions of README's blocks added."""
    values = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    for block in blocks:
        for kind, definitions in yaml.safe_load(block.replace("<its commit>", "0" * 40)).items():
            values[kind] |= definitions
    return values


def test_all_the_lines_to_add_fit_together():
    kinds = {kind for block in BLOCKS for kind in yaml.safe_load(block)}
    assert {"models", "calibrations", "variants", "evals", "runs"} <= kinds
    assert {"mine", "paper"} <= config.validate(merged(*BLOCKS)).runs.keys()


@pytest.mark.parametrize("block", [block for block in BLOCKS if not block.startswith("runs")])
def test_each_addition_stands_by_itself(block):
    config.validate(merged(block))


@pytest.mark.parametrize("run", ["gsm8k", "solvers-0.5b"])
def test_the_configuration_of_the_real_model_fits_to_the_rest(run):
    values = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    for kind, definitions in yaml.safe_load((REPOSITORY / "docs/gsm8k.yaml").read_text()).items():
        values[kind] = definitions if kind == "run" else values[kind] | definitions
    assert run in config.validate(values | {"run": run}).runs


def test_readme_and_ci_call_the_same_tests():
    assert "make test" in (REPOSITORY / "README.md").read_text()
    assert "make test" in (REPOSITORY / ".ci/run").read_text()


def test_the_files_that_readme_links_to_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (REPOSITORY / "README.md").read_text())
    assert links and all((REPOSITORY / link).exists() for link in links)
