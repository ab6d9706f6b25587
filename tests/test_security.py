"""What comes from models, hubs and configurations is data: it is not run, and does not leave its folder.

Names that could reach a shell: tests/test_config.py; hostile templates: tests/models/test_chat.py; pickles:
tests/models/test_checkpoint.py; programs that models write: tests/evaluate/test_sandbox.py; text in the page:
tests/report/.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from rac.artifacts import read_json, write_json
from rac.definitions import Model
from rac.errors import RacError
from rac.models import checkpoint
from rac.models.prepare import prepare_model

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize("known", [True, False], ids=["known architecture", "own architecture"])
def test_a_models_own_code_is_never_run(random_qwen2, save_model, tmp_path, known):
    source = save_model(random_qwen2(), tmp_path / "source")
    marker = tmp_path / "ran"
    (source / "modeling_own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    values = read_json(source / "config.json")
    own = {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"}
    values["auto_map"] = own
    if not known:
        values["model_type"] = "own"
    write_json(source / "config.json", values)
    tokenizer = read_json(source / "tokenizer_config.json")
    tokenizer["auto_map"] = {"AutoTokenizer": ["modeling_own.T", None]}
    write_json(source / "tokenizer_config.json", tokenizer)
    try:
        prepare_model(Model(path=source, dtype="float32"), "m", tmp_path / "m")
        checkpoint.load_model(tmp_path / "m", "float32")
    except RacError as error:
        assert "\n" not in str(error)
        assert not known
    else:
        assert known  # transformers' own class of that name was taken
    assert not marker.exists() and not list((tmp_path / "m").glob("*.py"))


def test_a_configuration_is_no_program(tmp_path):
    marker = tmp_path / "ran"
    file = tmp_path / "config.yaml"
    file.write_text(f"run: !!python/object/apply:os.system ['touch {marker}']\n")
    command = [sys.executable, "-m", "rac", "plan", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cannot be read" in done.stderr and not marker.exists()
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--configfile", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode != 0 and not marker.exists()


FETCH = """
import sys
from pathlib import Path
from rac import hub
from rac.errors import RacError
hub.WAITS = ()
try:
    print(hub.fetch("o/n", sys.argv[1], ["*"], "model", "models.m", "do so"))
except RacError as error:
    print("error:", error)
"""


def test_a_hub_cannot_write_outside_its_cache(tmp_path, monkeypatch):
    from tests import hub_server

    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (tmp_path / "evil.json").write_text('{"evil": 1}')
    entry = hub_server._entry

    def hostile(file, root):
        listed = entry(file, root)
        return listed | {"path": "../../../../evil.json"} if file.name == "config.json" else listed

    home = tmp_path / "a" / "b" / "home"
    with hub_server.running() as hub:
        hub.repositories["o/n"] = folder
        monkeypatch.setattr(hub_server, "_entry", hostile)
        done = subprocess.run(
            [sys.executable, "-c", FETCH, hub.commit],
            env={
                "PATH": "/usr/bin",
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(home),
                "HOME": str(home),
            },
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
        )
    assert done.stdout.startswith("error: models.m: o/n@"), done
    written = [file for file in tmp_path.rglob("*evil.json") if file.parent != tmp_path]
    assert all(home in file.resolve().parents for file in written)


def snapshot(source: Path, cache: Path) -> Path:
    """The files of a model's folder as a hub's cache has them: links to blobs beside the snapshots."""
    folder = cache / "models--o--n/snapshots" / ("0" * 40)
    (cache / "models--o--n/blobs").mkdir(parents=True)
    folder.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copyfile(file, cache / "models--o--n/blobs" / file.name)
        (folder / file.name).symlink_to(f"../../blobs/{file.name}")
    return folder


@pytest.mark.parametrize("name", ["notes.txt", "README.md"])
@pytest.mark.parametrize("in_cache", [False, True], ids=["folder", "snapshot"])
def test_a_link_that_leads_out_of_a_models_folder_is_refused(
    random_qwen2, save_model, tmp_path, in_cache, name
):
    source = save_model(random_qwen2(), tmp_path / "source")
    shutil.copyfile(source / "model.safetensors", tmp_path / "token")
    if in_cache:
        source = snapshot(source, tmp_path / "hub")
    prepare_model(Model(path=source, dtype="float32"), "m", tmp_path / "m")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(tmp_path / "token")
    with pytest.raises(RacError) as error:
        prepare_model(Model(path=source, dtype="float32"), "m", tmp_path / "other")
    assert str(error.value).startswith(f"models.m: {source / name} is a link that leads out of its")
    assert "\n" not in str(error.value) and not (tmp_path / "other").exists()
    (source / name).unlink()
    (source / name).symlink_to("config.json")  # a link within the folder is as good as a file
    prepare_model(Model(path=source, dtype="float32"), "m", tmp_path / "other")
    assert not (tmp_path / "other" / name).is_symlink()


PREPARE = """
import sys
from pathlib import Path
from rac.definitions import Model
from rac.models.prepare import prepare_model
prepare_model(Model(hub="o/n", revision=sys.argv[1], dtype="float32"), "m", Path("m"))
"""


@pytest.mark.slow
def test_an_archive_of_a_repository_is_neither_fetched_opened_nor_copied(
    random_qwen2, save_model, tmp_path
):
    from tests import hub_server

    folder = save_model(random_qwen2(), tmp_path / "repository")
    with zipfile.ZipFile(folder / "weights.zip", "w") as archive:
        archive.writestr("../evil.json", "{}")
    with tarfile.open(folder / "tokenizer.tar", "w") as archive:
        link = tarfile.TarInfo("config.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    archives = {"weights.zip", "tokenizer.tar"}
    with hub_server.running() as hub:
        hub.repositories["o/n"] = folder
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_ENDPOINT": hub.url}
        environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_ETAG_TIMEOUT": "120"}
        command = [sys.executable, "-c", PREPARE, hub.commit]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert "config.json" in hub.asked and not archives & hub.asked.keys()
    prepare_model(Model(path=folder, dtype="float32"), "m", tmp_path / "of a folder")
    for made in ("m", "of a folder"):
        names = {file.name for file in (tmp_path / made).iterdir()}
        assert "config.json" in names and not names & {*archives, "evil.json"}
        assert not (tmp_path / made / "config.json").is_symlink()
    assert not list(tmp_path.rglob("evil.json"))


def calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_in_the_package_can_run_what_it_reads():
    forbidden = {
        "eval",
        "exec",
        "os.system",
        "os.popen",
        "yaml.load",
        "pickle.load",
        "pickle.loads",
        "shutil.unpack_archive",
        "tarfile.open",
        "zipfile.ZipFile",
    }
    for file in REPOSITORY.glob("rac/**/*.py"):
        for name, call in calls(ast.parse(file.read_text(encoding="utf-8"))):
            if file.name == "functions.py":
                continue  # the part of it that runs programs does so in the sandbox
            where = f"{file.relative_to(REPOSITORY)}:{call.lineno}: {name}"
            options = {key.arg: ast.unparse(key.value) for key in call.keywords}
            assert name not in forbidden and not name.endswith(("extract", "extractall")), where
            assert options.get("shell") != "True", where
            assert options.get("trust_remote_code") in (None, "False"), where
            if name == "torch.load":
                assert options.get("weights_only") == "True", where


def test_rules_quote_what_they_hand_to_the_shell():
    names = ("wildcards.", "params.code", "params.dtype", "params.engine", "params.shard}")
    numbers = ("resources.gpu", "resources.tensor_parallel", "params.code_version")
    for file in REPOSITORY.glob("rules/*.smk"):
        commands = re.findall(r"    shell:\n((?:        .*\n)+)", file.read_text(encoding="utf-8"))
        assert commands
        for field in re.findall(r"{[^}]*}", "".join(commands)):
            field = field.removeprefix("{")
            if not field.startswith((*names, *numbers)):  # plain by config.yaml's schema
                assert field.endswith(":q}"), f"{file.name}: {{{field}"


def test_a_token_is_in_no_record(tmp_path, monkeypatch):
    from rac.provenance import provenance

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "hf_secret" not in json.dumps(provenance("traces", weights="abc"))
