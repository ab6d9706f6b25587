import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rac import energy
from rac.energy import Reading


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    """As if the machine had no NVIDIA library and this process no torch, whatever they have."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def counter(folder, joules, wraps=1000):
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{joules * 10**6}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps * 10**6}\n")


def test_processors_are_read_without_their_parts_and_those_that_are_closed(tmp_path):
    counter(tmp_path / "intel-rapl:0", 5)
    counter(tmp_path / "intel-rapl:0:0", 3)
    counter(tmp_path / "intel-rapl:1", 7)
    (tmp_path / "intel-rapl:2").mkdir()
    assert energy.read(tmp_path) == {
        "intel-rapl:0": Reading(5, 1000),
        "intel-rapl:1": Reading(7, 1000),
    }


@pytest.mark.parametrize(("gpus", "known"), [(0, True), (2, False)])
def test_processors_do_not_stand_for_gpus_that_are_not_read(monkeypatch, tmp_path, gpus, known):
    counter(tmp_path / "intel-rapl:0", 5)
    torch = SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: gpus))
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert bool(energy.read(tmp_path)) is known


def test_a_machine_without_counters_says_nothing(tmp_path):
    assert energy.read(tmp_path / "none") == {}
    assert energy.spent({}, {}) is None


@given(st.floats(0, 999), st.floats(0, 999), st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_is_spent_is_the_sum_of_the_counters_also_where_one_starts_again(a, used, b, more):
    before = {"intel-rapl:0": Reading(a, 1000), "gpu 0": Reading(b, None)}
    after = {"intel-rapl:0": Reading((a + used) % 1000, 1000), "gpu 0": Reading(b + more, None)}
    assert energy.spent(before, after) == pytest.approx(used + more, abs=1e-6)


def test_a_counter_that_came_or_went_leaves_nothing_known():
    one = {"gpu 0": Reading(1, None)}
    assert energy.spent(one, {}) is energy.spent({}, one) is None


class NVMLError(Exception):
    pass


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, {"gpu 0": 10.0, "gpu 1": 20.0}),
        ("1", {"gpu 1": 20.0}),
        ("GPU-b,0", {"gpu GPU-b": 20.0, "gpu 0": 10.0}),
        ("", {}),
        ("7", {}),
        ("all", {}),
    ],
)
def test_gpus_are_those_that_the_process_sees(monkeypatch, tmp_path, visible, expected):
    counts = {0: 10_000, 1: 20_000, "GPU-b": 20_000}

    def total(handle):
        if handle not in counts:
            raise NVMLError
        return counts[handle]

    library = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    read = energy.read(tmp_path)
    assert {name: reading.joules for name, reading in read.items()} == expected


def test_a_driver_that_is_not_there_is_no_error(monkeypatch, tmp_path):
    def fail():
        raise NVMLError("Driver Not Loaded")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError, nvmlInit=fail))
    assert energy.read(tmp_path) == {}


@pytest.mark.gpu
def test_a_gpu_says_what_it_spends(gpu, monkeypatch):
    monkeypatch.undo()
    import torch

    before = energy.read()
    assert "gpu 0" in before
    x = torch.randn(8192, 8192, device=gpu)
    for _ in range(100):
        x @ x
    torch.cuda.synchronize()
    assert energy.spent(before, energy.read()) > 10
