"""What made an artefact, and the hashes of its files."""

import json
import platform
import re
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rac.artifacts import read_json, sha256_file, write_json
from rac.errors import RacError
from rac.fingerprint import stage
from rac.provenance import (
    RECORD,
    checked_sha256,
    hashes,
    is_whole,
    provenance,
    read_record,
    write_record,
)


def test_provenance_is_json_and_names_inputs_code_versions_and_machine():
    made = json.loads(json.dumps(provenance("traces", weights="abc")))["provenance"]
    assert (made["stage"], made["inputs"]) == ("traces", {"weights": "abc"})
    assert made["code"].endswith(stage("traces"))
    assert made["versions"]["torch"].startswith("2.")
    assert made["versions"]["python"] == platform.python_version()
    assert {"host", "cores", "gpus"} <= set(made["machine"])


def test_hashes_are_of_the_files_that_are_named_or_of_all(tmp_path):
    (tmp_path / "a.json").write_text("a")
    (tmp_path / "b.zst").write_text("b")
    (tmp_path / "folder").mkdir()
    of_all = {name: sha256_file(tmp_path / name) for name in ("a.json", "b.zst")}
    assert hashes(tmp_path) == {"sha256": of_all}
    assert hashes(tmp_path, "b.zst") == {"sha256": {"b.zst": of_all["b.zst"]}}


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=5,
        ),
    )
)
def test_a_record_tells_whether_it_is_the_one_that_was_written(values):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "record.json")
        write_record(file, values)
        read = read_json(file)
    assert is_whole(read)
    assert not is_whole(read | {"another key": 1})
    assert not is_whole({key: value for key, value in read.items() if key != RECORD})


@pytest.mark.parametrize("content", [None, [], [{}], {}, {"rows": 3}, {"rows": 3, RECORD: "0"}])
def test_what_is_no_whole_record_is_refused(content, tmp_path):
    file = tmp_path / "meta.json"
    write_json(file, content)
    for read in (read_record, checked_sha256):
        with pytest.raises(
            RacError, match=r"meta.json was changed after it was written; delete .*/meta.json to"
        ):
            read(file)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("data.jsonl", "meta.json"),
        ("requests.jsonl.zst", "requests.json"),
        ("traces.jsonl.zst", "info.json"),
        ("generations.jsonl.zst", "generation.json"),
        ("scores.jsonl.zst", "metrics.json"),
        ("heldout+text.tokens.jsonl.zst", "heldout+text.json"),
        *(("summary.csv", "summary.json"), ("comparisons.csv", "summary.json")),
        *(("budgets.csv", "summary.json"), ("half-2.5.csv", "half-2.5.json")),
    ],
)
def test_a_file_is_the_one_that_its_record_names(name, record, tmp_path):
    file, beside = tmp_path / name, tmp_path / record
    with pytest.raises(RacError, match="is missing$"):
        checked_sha256(file)
    file.write_text("one\ntwo\n")
    assert checked_sha256(file) == sha256_file(file)  # a user's own, without a record
    write_record(beside, hashes(tmp_path, name))
    assert checked_sha256(file) == sha256_file(file) and checked_sha256(beside)
    for changed in ("one\n", "one\ntwp\n"):
        file.write_text(changed)
        with pytest.raises(RacError) as error:
            checked_sha256(file)
        assert str(error.value) == (
            f"{file} is not the file that its {record} was written for; delete {file} to have it made again"
        )
    write_record(beside, {"rows": 1})  # names no file
    with pytest.raises(RacError, match=f"that its {re.escape(record)} was written for"):
        checked_sha256(file)
    write_json(beside, None)
    with pytest.raises(
        RacError
    ) as error:  # never the record alone: the file would be taken as it is
        checked_sha256(file)
    assert str(error.value) == (
        f"{beside} was changed after it was written; delete {file} to have it made again"
    )


@pytest.mark.gpu
def test_a_gpu_is_named(gpu):
    made = provenance("traces")["provenance"]
    assert torch.cuda.get_device_name() in made["machine"]["gpus"]
