"""Downloads from a hub on this machine, whole, broken off, damaged and refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import hub_server

FETCH = """
import json, sys
from rac import hub
from rac.errors import RacError
hub.WAITS = (0.01, 0.01)
import huggingface_hub.utils._http as http
http.time.sleep = lambda seconds: None
try:
    folder = hub.fetch("o/n", sys.argv[1], json.loads(sys.argv[2]), "model", "models.m", "do so")
except RacError as error:
    print("error:", error)
else:
    print(folder)
"""


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(os.urandom(300_000))
    (folder / "pickle.bin").write_bytes(b"x")
    with hub_server.running() as hub:
        hub.repositories["o/n"] = folder
        yield hub


@pytest.fixture
def fetch(server, tmp_path):
    """A function (patterns, commit, **environment) → what a process says (settings are read once)."""

    def run(patterns=("*.json", "*.safetensors"), commit=server.commit, **more):
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "HF_HOME": str(tmp_path / "home"),
            "HF_ENDPOINT": server.url,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_ETAG_TIMEOUT": "120",  # patience on a busy machine
            "HF_HUB_DOWNLOAD_TIMEOUT": "120",
        }
        command = [sys.executable, "-c", FETCH, commit, json.dumps(patterns)]
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    return run


def test_what_matches_is_there_and_what_is_there_is_not_asked_for_again(server, fetch):
    folder = Path(fetch())
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    for file in folder.iterdir():
        assert file.read_bytes() == (server.repositories["o/n"] / file.name).read_bytes()
    assert "home" in str(folder)
    assert fetch() == str(folder)
    assert server.asked == {"config.json": 1, "model.safetensors": 1}


def test_a_download_that_was_cut_goes_on_where_it_stopped(server, fetch):
    expected = os.urandom(25_000_000)
    (server.repositories["o/n"] / "model.safetensors").write_bytes(expected)
    server.faults["model.safetensors"] = ["cut", 429, "cut"]
    folder = Path(fetch())
    assert (folder / "model.safetensors").read_bytes() == expected
    piece = 10 * 2**20  # what is kept of half a file: whole pieces
    left = len(expected) - piece
    assert server.sent["model.safetensors"] == len(expected) // 2 + left // 2 + left


def test_files_that_are_whole_are_kept_when_another_one_fails(server, fetch):
    server.faults["model.safetensors"] = [500] * 3
    assert fetch().startswith("error: ")
    assert "snapshots" in fetch()
    assert server.asked["config.json"] == 1


def test_other_bytes_than_the_hash_is_of_are_fetched_again(server, fetch):
    server.faults = {"model.safetensors": ["wrong"], "config.json": ["wrong"]}
    folder = Path(fetch())
    for name in ("model.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (server.repositories["o/n"] / name).read_bytes()
        assert server.asked[name] == 2


def test_bytes_that_stay_wrong_are_refused(server, fetch):
    server.faults["model.safetensors"] = ["wrong"] * 9
    said = fetch()
    assert said.startswith("error: models.m: o/n@0123456789ab: model.safetensors is not the file")
    assert server.asked["model.safetensors"] == 3


def test_offline_the_cache_serves(server, fetch):
    said = fetch(HF_HUB_OFFLINE="1")
    assert said == (
        "error: models.m: o/n@0123456789ab is not in the cache, and HF_HUB_OFFLINE is set: do so"
    )
    folder = fetch()
    server.errors["o/n"] = (500, None)
    assert fetch(HF_HUB_OFFLINE="1") == folder


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ((403, "GatedRepo"), "is gated: ask for access on {url}/o/n, then set HF_TOKEN"),
        ((401, "RepoNotFound"), "is not there, or private: check the name, and set HF_TOKEN"),
        ((404, "RepoNotFound"), "is not there, or private: check the name, and set HF_TOKEN"),
        ((503, None), "do so"),
    ],
)
def test_what_cannot_be_had_is_one_line_that_says_what_to_do(server, fetch, error, message):
    server.errors["o/n"] = error
    said = fetch(HF_TOKEN="hf_secret")
    assert said.startswith("error: models.m: o/n@0123456789ab")
    assert message.format(url=server.url) in said
    assert "hf_secret" not in said
    assert "Bearer hf_secret" in server.tokens


def test_another_commit_and_no_file_are_one_line(fetch):
    assert "has no such commit" in fetch(commit="f" * 40)
    assert "holds no file that matches *.gguf" in fetch(patterns=["*.gguf"])


def test_no_server_at_all_is_one_line(fetch):
    said = fetch(HF_ENDPOINT="http://127.0.0.1:9")
    assert said.startswith("error: models.m: o/n@0123456789ab: ") and said.endswith("; do so")


def test_a_password_in_an_address_is_not_said(fetch):
    said = fetch(HF_ENDPOINT="http://someone:secret@127.0.0.1:9")
    assert said.startswith("error: models.m: o/n@") and "127.0.0.1:9" in said
    assert "secret" not in said and "someone" not in said
