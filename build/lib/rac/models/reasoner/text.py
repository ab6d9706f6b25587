"""General text that ships with the reasoner: web documents (C4) and statements of math problems.

The web documents are split by a hash of their text. `calibration` is what calibration on C4 reads,
`heldout` measures the loss on web text; the reasoner and its tokenizer see neither. Sources and
licences are in `text/SOURCE.md`.
"""

import gzip
import hashlib
import json
from pathlib import Path

SPLITS = ("train", "calibration", "heldout")
FOLDER = Path(__file__).with_name("text")


def documents(split: str) -> list[str]:
    """The general text of a split; `train` holds the math problem statements as well.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    web = [text for text in _read("c4.jsonl.gz") if _split_of(text) == split]
    return web + _read("math_problems.jsonl.gz") if split == "train" else web


def _split_of(text: str) -> str:
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    return "heldout" if bucket < 4 else "calibration" if bucket < 25 else "train"


def _read(name: str) -> list[str]:
    with gzip.open(FOLDER / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]
