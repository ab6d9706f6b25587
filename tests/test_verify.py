"""A results folder against its own hashes: what was flipped, cut or lost is named, and nothing else."""

import os
import shutil

import pytest

from rac.artifacts import read_json, write_json, write_jsonl
from rac.compress import compress
from rac.errors import RacError
from rac.provenance import hashes, write_record
from rac.variants import Variant
from rac.verify import verify


@pytest.fixture
def project(tmp_path, tiny_model, tiny_hessians, write_sequences):
    """A folder with an artefact of each kind, and parts of an unfinished one."""
    results = tmp_path / "results/tiny"
    shutil.copytree(tiny_model, tmp_path / "resources/models/tiny")
    shutil.copytree(tiny_hessians["text"], results / "hessians/text")
    source = results / "sources/text"
    write_sequences(source / "sequences.safetensors", tiny_model, "text", [9, 5])
    write_record(source / "sequences.json", hashes(source, "sequences.safetensors"))
    traces = results / "traces/t"
    write_jsonl(traces / "traces.jsonl.zst", [{"id": "a", "token_ids": [1, 2]}])
    write_record(traces / "info.json", {"traces": 1} | hashes(traces, "traces.jsonl.zst"))
    requests = results / "requests/e"
    write_jsonl(requests / "requests.jsonl.zst", [{"id": "a"}])
    write_record(requests / "requests.json", hashes(requests, "requests.jsonl.zst"))
    variant = Variant(solver="magnitude", sparsity=0.5)
    names = {"model": "tiny", "calibration": "none", "variant": "magnitude-0.5"}
    checkpoint = results / "none/magnitude-0.5/checkpoint"
    compress(tiny_model, {}, None, variant, "unstructured 0.5", names, checkpoint)
    (results / "benchmarks").mkdir()
    (results / "benchmarks/model.tsv").write_text("s\n1\n")  # Snakemake's own
    (tmp_path / "results/figures").mkdir()
    for name in ("summary.csv", "figures/a.svg"):
        (tmp_path / "results" / name).write_text("model,accuracy\nm,50.0\n")
    tables = hashes(tmp_path / "results", "summary.csv", "figures/a.svg")
    write_record(tmp_path / "results/summary.json", tables)
    (traces / "work").mkdir()
    (traces / "work/part-00000-0123456789abcdef.jsonl.zst").write_bytes(b"half of")
    return tmp_path


def wrong(project):
    return {str(found.file.relative_to(project)) for found in verify(project) if found.wrong}


def test_a_sound_folder_has_nothing_wrong(project):
    assert len(list(verify(project))) > 12 and wrong(project) == set()


@pytest.mark.parametrize(
    "name",
    [
        "resources/models/tiny/model.safetensors",
        "resources/models/tiny/tokenizer.json",
        "results/tiny/hessians/text/layer-001.safetensors",
        "results/tiny/sources/text/sequences.safetensors",
        "results/tiny/traces/t/traces.jsonl.zst",
        "results/tiny/requests/e/requests.jsonl.zst",
        "results/tiny/none/magnitude-0.5/checkpoint/README.md",
        "results/tiny/none/magnitude-0.5/checkpoint/config.json",
        "results/summary.csv",
        "results/figures/a.svg",
    ],
)
def test_a_flipped_byte_is_named(project, name):
    file = project / name
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    assert wrong(project) == {name}


def test_a_changed_digit_of_a_record_is_named(project):
    record = project / "results/tiny/traces/t/info.json"
    record.write_text(record.read_text().replace('"traces": 1,', '"traces": 2,'))
    assert wrong(project) == {"results/tiny/traces/t/info.json"}


def test_lost_and_unreadable_files_are_named(project):
    (project / "results/tiny/hessians/text/layer-000.safetensors").unlink()
    (project / "results/tiny/traces/t/info.json").write_text('{"traces": ')
    assert wrong(project) == {
        "results/tiny/hessians/text/layer-000.safetensors",
        "results/tiny/traces/t/info.json",
    }
    said = [found.wrong for found in verify(project) if found.wrong]
    assert any(
        f"layer-000.safetensors is missing; delete {project}/results/tiny/hessians/text to" in line
        for line in said
    )
    (project / "results/summary.csv").write_text("model\n")
    said = [found.wrong for found in verify(project) if found.wrong]
    assert any(
        f"delete {project}/results/summary.csv to have it made again" in line for line in said
    )


@pytest.mark.parametrize(
    ("record", "data"),
    [
        ("results/tiny/sources/text/sequences.json", "sequences.safetensors"),
        ("results/tiny/requests/e/requests.json", "requests.jsonl.zst"),
        ("results/tiny/traces/t/info.json", "traces.jsonl.zst"),
        ("results/summary.json", "summary.csv"),
    ],
)
def test_a_file_without_its_record_is_named(project, record, data):
    (project / record).unlink()
    assert str((project / record).with_name(data).relative_to(project)) in wrong(project)
    lines = [found.wrong for found in verify(project) if found.wrong]
    assert any(f"{data} has no record: none names it" in line for line in lines)


def test_only_what_a_record_names_is_made_again_by_its_path(project):
    (project / "results/notes.csv").write_text("a user's own\n")
    (project / "results/summary.csv").write_text("model\n")
    units = {found.file.name: found.unit for found in verify(project) if found.wrong}
    assert units == {"notes.csv": None, "summary.csv": project / "results/summary.csv"}


@pytest.mark.parametrize(
    "name",
    [
        "resources/models/tiny/model.json",
        "results/tiny/hessians/text/index.json",
        "results/tiny/none/magnitude-0.5/checkpoint/compression.json",
        "results/tiny/traces/t/info.json",
    ],
)
def test_a_record_that_lost_its_own_hash_is_named(project, name):
    record = read_json(project / name)
    del record["record_sha256"]
    write_json(project / name, record)
    assert wrong(project) == {name}


def test_where_nothing_is_to_be_compared_nothing_is_said_to_be_well(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(RacError, match="has neither resources/ nor results/"):
            list(verify(folder))


def test_what_cannot_be_read_is_named_and_the_rest_compared(project, monkeypatch):
    name = "results/tiny/traces/t/traces.jsonl.zst"
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda file, mode: file.name != "traces.jsonl.zst" and access(file, mode)
    )
    assert wrong(project) == {name}
    assert f"{project / name} cannot be read" in [found.wrong for found in verify(project)]


def test_a_folder_that_cannot_be_read_ends_it(project, monkeypatch):
    scan = os.scandir

    def refuse(folder):
        if str(folder).endswith("hessians"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(RacError, match="cannot read .*/hessians: Permission denied"):
        list(verify(project))
