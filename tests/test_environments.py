"""The environments that a workflow can be given hold the same versions."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
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


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["1", ""])
def test_a_tool_that_ci_installs_is_missed_aloud(tmp_path, asked):
    shutil.copy(REPOSITORY / "tests/conftest.py", tmp_path)
    skip = "import pytest\n\ndef test_x():\n    pytest.skip('no x: apt-get install x')\n"
    (tmp_path / "test_x.py").write_text(skip)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", "test_x.py"],
        cwd=tmp_path,
        env=os.environ | {"RAC_CI": asked, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    can = os.getuid() == 0 and shutil.which("apt-get")  # this machine could install it
    assert ("1 failed" if asked and can else "1 skipped") in done.stdout, done.stdout + done.stderr
