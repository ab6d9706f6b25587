"""The environments that a workflow can be given hold the same versions."""

import re
import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]


def test_the_conda_environment_has_what_the_package_needs_as_the_lock_pins_it():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    pinned = r"^([\w.-]+)==([^\s;]+)"
    locked = re.findall(pinned, (REPOSITORY / "requirements.lock").read_text(), re.M)
    exact = re.findall(pinned, "\n".join(project["dependencies"]), re.M)  # torch: its build varies
    versions = dict(locked) | dict(exact)
    needed = (re.match(r"[\w.-]+", one)[0] for one in project["dependencies"])
    environment = yaml.safe_load((REPOSITORY / "envs/rac.yaml").read_text())
    given = environment["dependencies"][-1]["pip"]
    assert sorted(given) == sorted(f"{name}=={versions[name]}" for name in needed)
