"""What made an artefact, and the hashes of its files."""

import json
import platform
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rac.artifacts import read_json, sha256_file
from rac.fingerprint import stage
from rac.provenance import RECORD, hashes, is_whole, provenance, write_record


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


@pytest.mark.gpu
def test_a_gpu_is_named(gpu):
    made = provenance("traces")["provenance"]
    assert torch.cuda.get_device_name() in made["machine"]["gpus"]
