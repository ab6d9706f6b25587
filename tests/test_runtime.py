"""Run time: every figure is there and possible, and the work is the one that was asked for."""

import pytest
import torch

from rac import runtime
from rac.artifacts import read_json
from rac.compress import compress
from rac.definitions import Workload
from rac.errors import RacError
from rac.variants import Variant

WORKLOAD = Workload(batches=[1, 3], prompt_tokens=4, new_tokens=5, repeats=2)


@pytest.mark.parametrize("scheme", ["fp8", "w8a8", None])
def test_figures_are_there_and_possible(tiny_model, tiny_pruned, tmp_path, scheme):
    checkpoint = tiny_pruned
    if scheme:
        checkpoint, names = tmp_path / "rounded", {"model": "tiny", "calibration": "none"}
        variant = Variant(quantize={"scheme": scheme, "method": "rtn"})
        compress(tiny_model, {}, None, variant, "", names | {"variant": scheme}, checkpoint)
    runtime.measure_runtime(WORKLOAD, tiny_model, checkpoint, "float32", tmp_path / "r.json")
    record = read_json(tmp_path / "r.json")
    assert list(record["batches"]) == ["1", "3"]
    for rates in record["batches"].values():
        assert rates["tokens_per_second"] > 0 and rates["dense_tokens_per_second"] > 0
        assert rates["tokens_per_second_se"] >= 0 and rates["speedup_se"] >= 0
        ratio = rates["tokens_per_second"] / rates["dense_tokens_per_second"]
        assert 0.2 * ratio < rates["speedup"] < 5 * ratio
    assert (record["threads"], record["device"], record["dtype"]) == (1, "cpu", "float32")
    for key in ("peak_memory_bytes", "dense_peak_memory_bytes"):
        assert record[key] is None or 0 <= record[key] < 2**32
    assert record["workload"]["batches"] == [1, 3]


def test_a_resident_set_that_is_counted_late_is_no_memory_below_0(
    tiny_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(runtime, "_status", {"VmRSS": 20480, "VmHWM": 8192}.__getitem__)
    runtime.measure_runtime(WORKLOAD, tiny_model, tiny_model, "float32", tmp_path / "r.json")
    assert read_json(tmp_path / "r.json")["peak_memory_bytes"] in (0, None)


def test_models_take_turns_after_a_round_that_is_not_counted(tiny_model, tmp_path, monkeypatch):
    asked: list[int] = []
    times = iter([50.0, 50.0, 50.0, 1.0, 2.0, 1.0, 4.0])

    def seconds(model, batch, workload):
        asked.append(batch)
        return next(times)

    monkeypatch.setattr(runtime, "_seconds", seconds)
    monkeypatch.setattr(runtime, "_peak_memory", lambda *arguments: None)
    workload = WORKLOAD.model_copy(update={"batches": [3]})
    runtime.measure_runtime(workload, tiny_model, tiny_model, "float32", tmp_path / "r.json")
    rates = read_json(tmp_path / "r.json")["batches"]["3"]
    assert asked == [3] * 7  # one before all, then a round that is not counted, then two
    assert rates["dense_tokens_per_second"] == pytest.approx(15)  # 3 × 5 tokens in 1 s
    assert rates["tokens_per_second"] == pytest.approx((15 / 2 + 15 / 4) / 2)
    assert rates["speedup"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert rates["speedup_se"] == pytest.approx(0.125)  # half the difference of two


def test_a_batch_that_memory_is_short_for_is_one_line_and_no_other_measurement(
    tiny_model, tmp_path, monkeypatch
):
    generate = runtime.generate

    def short(model, stop, prompts, *others):
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return generate(model, stop, prompts, *others)

    monkeypatch.setattr(runtime, "generate", short)
    with pytest.raises(RacError, match=r"^memory of cpu is short for 3 samples at once") as error:
        runtime.measure_runtime(WORKLOAD, tiny_model, tiny_model, "float32", tmp_path / "r.json")
    assert "smaller number in 'batches' of the run's workload" in str(error.value)
    assert "(CUDA out of memory. Tried to allocate 2 GiB)" in str(error.value)
    assert not (tmp_path / "r.json").exists()


def test_one_repeat_has_no_standard_error():
    assert runtime._standard_error([1.0]) is None


def test_a_missing_checkpoint_is_one_line(tiny_model, tmp_path):
    with pytest.raises(RacError, match="config.json is missing"):
        runtime.measure_runtime(
            WORKLOAD, tiny_model, tmp_path / "absent", "float32", tmp_path / "r.json"
        )
    assert not (tmp_path / "r.json").exists()
