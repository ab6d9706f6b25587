"""Datasets of the hub at a pinned commit."""

from rac.config import Dataset
from rac.errors import RacError


def read(dataset: Dataset, name: str) -> tuple[list[dict], dict]:
    """All rows of a split of `dataset.hub`, and its origin and licence.

    Raises:
        RacError: it cannot be reached or has no such subset or split; names the way without a network.
    """
    from datasets import load_dataset

    try:
        data = load_dataset(
            dataset.hub, dataset.subset, split=dataset.split, revision=dataset.revision
        )
    except (OSError, ValueError) as error:
        raise RacError(
            f"datasets.{name}: cannot read {dataset.hub}@{dataset.revision} "
            f"({' '.join(str(error).split())}); without a network, save its rows as .jsonl or .parquet "
            f"and give that file as datasets.{name}.path"
        ) from None
    origin = f"{dataset.hub}@{dataset.revision} {dataset.subset or ''} {dataset.split}"
    return list(data), {
        "origin": " ".join(origin.split()),
        "licence": data.info.license or "unknown",
    }
