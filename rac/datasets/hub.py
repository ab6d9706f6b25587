"""Datasets of the hub: some files of a pinned commit."""

from collections.abc import Iterator
from pathlib import Path

from rac import hub
from rac.datasets import files as tables
from rac.datasets import livecodebench
from rac.datasets.files import Reader, Wanted
from rac.definitions import Dataset
from rac.errors import RacError


def read(dataset: Dataset, name: str) -> tuple[Reader, dict]:
    """What reads the rows of the files that the dataset names, in the order of their names, and their origin.

    Raises:
        RacError: they cannot be had; when they are read, as `rac.datasets.files.rows`.
    """
    assert dataset.hub and dataset.revision
    key, window = f"datasets.{name}", dataset.livecodebench
    files = list(livecodebench.files(window.release)) if window else dataset.files or []
    instead = f"without a network, give the rows as a file: {key}.path"
    wanted_files = [*files, "README.md"]
    folder = hub.fetch(dataset.hub, dataset.revision, wanted_files, "dataset", key, instead)
    found = sorted(file for pattern in files for file in folder.glob(pattern))
    if not found:
        raise RacError(f"{key}: {dataset.hub} holds no file {', '.join(files)}")
    origin = f"{dataset.hub}@{dataset.revision} {' '.join(files)}"
    if window:
        origin += f" {window.release} {window.start} to {window.end}"

    def every(wanted: Wanted) -> Iterator[dict]:
        for file in dict.fromkeys(found):
            yield from tables.rows(file, key, wanted)

    def within(wanted: Wanted) -> Iterator[dict]:
        assert window
        with_dates = livecodebench.wanted(wanted)
        return livecodebench.select(
            every(with_dates), window.release, window.start, window.end, name
        )

    return within if window else every, {"origin": origin, "licence": _licence(folder)}


def _licence(folder: Path) -> str:
    """The licence that the dataset's card names."""
    from huggingface_hub import RepoCard

    card = folder / "README.md"
    try:
        said = RepoCard(card.read_text(encoding="utf-8")).data.to_dict().get("license")
    except (OSError, ValueError):  # no card, or one without a legible head
        said = None
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said or "unknown")
