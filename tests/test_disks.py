"""Disks that are full or read-only: real ones, small enough to fill."""

import subprocess
from pathlib import Path

import pytest

from rac import hessians, sources, traces
from rac.artifacts import read_jsonl, write_jsonl
from rac.definitions import Model, Source
from rac.errors import RacError

SOURCE = Source.model_validate(
    {"kind": "traces", "dataset": "d", "tokens": 900, "max_new_tokens": 24, "batch": 3}
)
MODEL = Model.model_validate({"embedded": "reasoner", "dtype": "float32"})


class Disk:
    """A file system in memory, of a size that can be changed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True)

    def everything(self) -> set[str]:
        return {str(file.relative_to(self.folder)) for file in self.folder.rglob("*")}


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"this machine lets nobody mount a disk here: {made.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def problems(tmp_path):
    rows = [{"id": f"p{i}", "problem": f"Ada has {i} apples."} for i in range(60)]
    write_jsonl(tmp_path / "data.jsonl", rows)
    return tmp_path / "data.jsonl"


def test_hessians_on_a_full_disk_leave_nothing_and_then_succeed(
    disk, tiny_model, tiny_hessians, write_sequences, tmp_path
):
    sequences = write_sequences(tmp_path / "s", tiny_model, "text", [64, 64, 32])
    output = disk.folder / "hessians"
    with pytest.raises(
        RacError, match=r"cannot write .*hessians: .*(No space left|I/O error)"
    ) as e:
        hessians.accumulate(tiny_model, sequences, "float32", output)
    assert "\n" not in str(e.value) and disk.everything() == set()
    disk.remount("size=4m")
    hessians.accumulate(tiny_model, sequences, "float32", output)
    assert (output / "index.json").exists()


def test_traces_on_a_full_disk_keep_their_parts_and_go_on(disk, tiny_model, problems, tmp_path):
    def write(output):
        asked = traces.Asked(SOURCE, "s", MODEL, tiny_model, problems, "transformers", 1, "c")
        traces.write_traces(asked, output)
        return read_jsonl(output)

    expected = write(tmp_path / "elsewhere" / "t.jsonl.zst")
    disk.remount("size=24k")
    with pytest.raises(RacError, match=r"cannot write .*part-\d+\.jsonl\.zst: No space left"):
        write(disk.folder / "t" / "t.jsonl.zst")
    parts = {name for name in disk.everything() if "part-" in name}
    assert parts and not any(name.endswith(".tmp") for name in disk.everything())
    disk.remount("size=4m")
    assert write(disk.folder / "t" / "t.jsonl.zst") == expected


def test_a_read_only_disk_is_one_line(disk, tiny_model, problems, tmp_path):
    write_jsonl(disk.folder / "rows.jsonl.zst", [{"id": 1}])
    disk.remount("ro")
    source = Source(kind="prompts", dataset="d", tokens=50)
    with pytest.raises(RacError, match=r"cannot write .*: Read-only file system"):
        sources.write_sequences(source, "s", tiny_model, problems, None, disk.folder / "f" / "s")
    with pytest.raises(RacError, match=r"cannot write .*rows.*: Read-only file system"):
        write_jsonl(disk.folder / "rows.jsonl.zst", [{"id": 2}])
    assert read_jsonl(disk.folder / "rows.jsonl.zst") == [{"id": 1}]
