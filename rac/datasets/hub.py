"""Datasets of the hub: some files of a pinned commit."""

from pathlib import Path

from rac import hub
from rac.datasets import files as tables
from rac.datasets import livecodebench
from rac.definitions import Dataset
from rac.errors import RacError


def read(dataset: Dataset, name: str) -> tuple[list[dict], dict]:
    """All rows of the files that the dataset names, in the order of their names, and their origin.

    Raises:
        RacError: they cannot be had, or are of another kind.
    """
    assert dataset.hub and dataset.revision
    key, window = f"datasets.{name}", dataset.livecodebench
    files = list(livecodebench.files(window.release, name)) if window else dataset.files or []
    instead = f"without a network, give the rows as a file: {key}.path"
    wanted = [*files, "README.md"]
    folder = hub.fetch(dataset.hub, dataset.revision, wanted, "dataset", key, instead)
    found = sorted(file for pattern in files for file in folder.glob(pattern))
    if not found:
        raise RacError(f"{key}: {dataset.hub} holds no file {', '.join(files)}")
    rows = [row for file in dict.fromkeys(found) for row in tables.rows(file, key)]
    origin = f"{dataset.hub}@{dataset.revision} {' '.join(files)}"
    if window:
        rows = livecodebench.select(rows, window.release, window.start, window.end, name)
        origin += f" {window.release} {window.start} to {window.end}"
    return rows, {"origin": origin, "licence": _licence(folder)}


def _licence(folder: Path) -> str:
    """The licence that the dataset's card names."""
    from huggingface_hub import RepoCard

    card = folder / "README.md"
    try:
        said = RepoCard(card.read_text(encoding="utf-8")).data.to_dict().get("license")
    except (OSError, ValueError):  # no card, or one without a legible head
        said = None
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said or "unknown")
