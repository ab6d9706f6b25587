"""What lies in results/, resources/ and logs/ that no run of config.yaml needs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from rac import inventory, matrix
from rac.config import Config

# Folders of results/ that hold artefacts of several cells, by how deep their artefacts lie.
DEPTHS = {"traces": 4, "sources": 4, "hessians": 4, "requests": 4, "overlaps": 4, "benchmarks": 0}
SHARDS = {"traces": 6, "hessians": 6, "generate": 8}


def unused(config: Config) -> list[Path]:
    """The artefacts of no run: a dataset, a model, traces, Hessians, …, or a stage's work of a cell.

    Of a model of no run, its logs and its benchmark files too.
    """
    needed, models = set(), set[str]()
    for run in config.runs:
        active = config.model_copy(update={"run": run})
        models |= matrix.restrict(active).models.keys()
        files = [*matrix.summary_files(active), *matrix.report_files(active)]
        files += [file for made in inventory.shared(active) for file in (made.path, *made.shards)]
        needed |= {_unit(Path(file).parts) for file in files}
        needed |= {_unit(Path(file).parts) for file in inventory.generation_shards(active)}
    there = {
        _unit(file.parts)
        for root in ("resources/datasets", "resources/models", "results")
        for file in Path(root).rglob("*")
    }
    found = {Path(*unit) for unit in there if unit and _whole(unit) not in needed}
    return sorted(found | {path for path, model in _told() if model not in models})


def _told() -> Iterator[tuple[Path, str]]:
    """The logs and the folders of benchmark files of single models, and whose they are.

    A folder in logs/ of which results/ knows nothing is left to who made it.
    """
    for path in Path("logs/models").glob("*.log"):
        yield path, path.stem
    for path in Path("results").glob("*/benchmarks"):
        yield path, path.parent.name
        if (logs := Path("logs", path.parent.name)).is_dir():
            yield logs, path.parent.name


def remove(artefacts: list[Path]) -> list[str]:
    """Remove artefacts, and the folders that become empty; a line for each that cannot be removed."""
    left = []
    for path in artefacts:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            left.append(f"cannot remove {path}: {error.strerror}")
            continue
        for parent in path.parents:
            if parent.name in ("results", "resources", "logs", "") or any(parent.iterdir()):
                break
            parent.rmdir()
    return left


def _whole(unit: tuple[str, ...]) -> tuple[str, ...]:
    """The unit that another one is of: `0.work` of shard 0, a record of its table of overlaps."""
    name = unit[-1].removesuffix(".work")
    if "overlaps" in unit[2:3]:
        name = f"{name.removesuffix('.json').removesuffix('.csv')}.csv"
    return (*unit[:-1], name)


def _unit(parts: tuple[str, ...]) -> tuple[str, ...] | None:
    """The part of a path that is removed as one; None for what belongs to no single run, or holds such."""
    if parts[0] == "resources":
        depth = 3
    elif len(parts) < 3 or parts[1] in inventory.OF_RUN:
        return None
    elif parts[2] == "shards":
        depth = SHARDS.get(parts[3], 4) if len(parts) > 3 else 4
    elif parts[2] in DEPTHS:
        depth = DEPTHS[parts[2]]
    else:
        depth = 6 if len(parts) > 4 and parts[4] in matrix.PER_FILE else 5
    return parts[:depth] if 0 < depth <= len(parts) else None
