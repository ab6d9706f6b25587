"""Energy, where the machine's counters can be read: of processors (RAPL, Linux) and of GPUs (NVML).

A processor's counter is of all that runs on it, and only root can read it on most machines; a GPU's is of
that GPU. Counters of processors start again at their range.
"""

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

POWERCAP = Path("/sys/class/powercap")


class Reading(NamedTuple):
    """A counter in joules, and where it starts again (None: nowhere)."""

    joules: float
    range: float | None


def read(powercap: Path = POWERCAP) -> dict[str, Reading]:
    """The counters of this machine's processors and of the GPUs that this process sees, by name.

    None at all where it works with GPUs that do not say theirs: what the processors spent beside them
    would look like the whole.

    Args:
        powercap: the folder of Linux's powercap interface.
    """
    gpus = _gpus()
    return {} if not gpus and _works_with_gpus() else _processors(powercap) | gpus


def spent(before: dict[str, Reading], after: dict[str, Reading]) -> float | None:
    """Joules between two readings, not further apart than a counter's range; None without counters.

    Counters are added up, whatever they count: with one that only one reading has, nothing is known.
    """
    if not before or before.keys() != after.keys():
        return None
    total = 0.0
    for name, (joules, wraps) in after.items():
        difference = joules - before[name].joules
        total += difference % wraps if wraps else difference
    return total


def _processors(powercap: Path) -> dict[str, Reading]:
    """A processor's counters; those of its parts (`intel-rapl:0:0`) are in its own."""
    found = {}
    for folder in sorted(powercap.glob("intel-rapl:*")):
        if folder.name.count(":") > 1:
            continue
        try:
            joules, wraps = (
                int((folder / name).read_text()) / 1e6
                for name in ("energy_uj", "max_energy_range_uj")
            )
        except (OSError, ValueError):
            continue
        found[folder.name] = Reading(joules, wraps)
    return found


def _gpus() -> dict[str, Reading]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        import pynvml

        pynvml.nvmlInit()
        every = [str(i) for i in range(pynvml.nvmlDeviceGetCount())]
        names = every if visible is None else [name for name in visible.split(",") if name]
        return {
            f"gpu {name}": Reading(
                pynvml.nvmlDeviceGetTotalEnergyConsumption(_handle(pynvml, name)) / 1e3, None
            )
            for name in names
        }
    except (ImportError, ValueError):
        return {}
    except pynvml.NVMLError:  # no driver, no such GPU, or one that does not count
        return {}


def _works_with_gpus() -> bool:
    torch = sys.modules.get("torch")  # a process that has not imported it works with none
    return torch is not None and torch.cuda.device_count() > 0


def _handle(nvml: Any, name: str) -> Any:
    """Of a GPU as CUDA_VISIBLE_DEVICES names it: its number, or its UUID."""
    by_uuid = name.startswith(("GPU-", "MIG-"))
    return (
        nvml.nvmlDeviceGetHandleByUUID(name)
        if by_uuid
        else nvml.nvmlDeviceGetHandleByIndex(int(name))
    )
