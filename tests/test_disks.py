"""Disks that are full or read-only: real ones, small enough to fill."""

import pytest

from rac import hessians, sources, traces
from rac.artifacts import read_jsonl, write_jsonl
from rac.definitions import Model, Source
from rac.engines import transformers as engine
from rac.errors import RacError

SOURCE = Source.model_validate(
    {"kind": "traces", "dataset": "d", "tokens": 900, "max_new_tokens": 24, "batch": 3}
)
MODEL = Model.model_validate({"embedded": "reasoner", "dtype": "float32"})


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


def test_traces_on_a_full_disk_lose_a_batch_and_go_on(
    disk, tiny_model, problems, tmp_path, monkeypatch, record_property
):
    drawn, generate = [], engine.generate

    def counting(model, stop, prompts, *arguments):
        drawn.append(len(prompts))
        return generate(model, stop, prompts, *arguments)

    monkeypatch.setattr(engine, "generate", counting)

    def write(output):
        asked = traces.Asked(SOURCE, "s", MODEL, tiny_model, problems, "transformers", 1, "c")
        traces.write_traces(asked, output)
        return read_jsonl(output)

    expected = write(tmp_path / "elsewhere" / "t.jsonl.zst")
    whole = sum(drawn)
    drawn.clear()
    disk.remount("size=24k")
    with pytest.raises(RacError, match=r"cannot write .*part-[-\w]+\.jsonl\.zst: No space left"):
        write(disk.folder / "t" / "t.jsonl.zst")
    assert not any(name.endswith(".tmp") for name in disk.everything())
    stored = sum(len(read_jsonl(part)) for part in disk.folder.rglob("part-*"))
    lost = sum(drawn) - stored
    assert stored > 0 and 0 < lost <= SOURCE.batch
    record_property(
        "counted", f"traces on a full disk: {lost} rows lost of {sum(drawn)} drawn, {stored} kept"
    )
    drawn.clear()
    disk.remount("size=4m")
    assert write(disk.folder / "t" / "t.jsonl.zst") == expected
    assert sum(drawn) == whole - stored


def test_a_read_only_disk_is_one_line(disk, tiny_model, problems, tmp_path):
    write_jsonl(disk.folder / "rows.jsonl.zst", [{"id": 1}])
    disk.remount("ro")
    source = Source(kind="prompts", dataset="d", tokens=50)
    with pytest.raises(RacError, match=r"cannot write .*: Read-only file system"):
        sources.write_sequences(source, "s", tiny_model, problems, None, disk.folder / "f" / "s")
    with pytest.raises(RacError, match=r"cannot write .*rows.*: Read-only file system"):
        write_jsonl(disk.folder / "rows.jsonl.zst", [{"id": 2}])
    assert read_jsonl(disk.folder / "rows.jsonl.zst") == [{"id": 1}]
