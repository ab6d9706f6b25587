"""The datasets that ship with the package: word problems, a sample of C4, and problems made of it.

All are split by hash.
"""

from rac.datasets import word_order
from rac.datasets.files import Reader
from rac.definitions import Dataset
from rac.errors import RacError
from rac.models.reasoner import problems, text


def check(dataset: Dataset, name: str) -> None:
    """Refuse a definition that names no embedded rows.

    Raises:
        RacError: no such split, or `rows` is missing where the list is endless, or the kind is wrong.
    """
    kind = "documents" if dataset.embedded == "c4" else "problems"
    # What the reasoner was trained on is for training alone.
    known = {"word-problems": problems.SPLITS, "c4": text.SPLITS, "word-order": ("heldout",)}
    splits = [split for split in known[str(dataset.embedded)] if split != "train"]
    if dataset.kind != kind:
        raise RacError(
            f"datasets.{name}: '{dataset.embedded}' is of kind '{kind}': set kind: {kind}"
        )
    if dataset.split not in splits:
        raise RacError(f"datasets.{name}: split '{dataset.split}' is none of {', '.join(splits)}")
    if dataset.embedded == "word-problems" and dataset.rows is None:
        raise RacError(f"datasets.{name}: word problems have no end: set rows, such as rows: 200")


def read(dataset: Dataset, name: str) -> tuple[Reader, dict]:
    """What gives the rows of an embedded dataset's split, and its origin and licence.

    Raises:
        RacError: as `check`.
    """
    check(dataset, name)
    meta = {"origin": "allenai/c4 (a sample)", "licence": "ODC-BY 1.0"}
    if dataset.embedded == "c4":
        documents = text.documents(str(dataset.split))
        rows = [{"id": str(i), "text": document} for i, document in enumerate(documents)]
    elif dataset.embedded == "word-order":
        rows = list(word_order.problems(text.documents(str(dataset.split)), dataset.seed))
    else:
        assert dataset.rows is not None
        rows = problems.generate(str(dataset.split), dataset.rows, dataset.seed)
        meta = {"origin": "rac.models.reasoner.problems", "licence": "Apache-2.0"}
    return lambda wanted: iter(rows), meta
