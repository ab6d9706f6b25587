import itertools

import pytest

from rac.models.reasoner import text
from rac.models.reasoner.train import Recipe, load_data

NUMBERS = {"calibration": 60_000, "heldout": 8_000}


def test_each_document_is_in_one_split():
    splits = {split: text.documents(split) for split in text.SPLITS}
    for one, other in itertools.combinations(text.SPLITS, 2):
        assert not set(splits[one]) & set(splits[other])
    assert sum(map(len, splits.values())) == 300 + 1_500
    assert len(splits["train"]) > 1_500


@pytest.mark.parametrize(("split", "least"), NUMBERS.items())
def test_enough_tokens(split, least, tokenizer):
    assert sum(map(len, tokenizer(text.documents(split))["input_ids"])) >= least


@pytest.mark.slow
def test_training_reads_no_calibration_or_heldout_text():
    tokenizer, _, stream = load_data(Recipe(rows=1), seed=0)
    read = tokenizer.decode(stream)
    assert all(document in read for document in text.documents("train"))
    for split in NUMBERS:
        for document in text.documents(split):
            words = document.split(" ")
            for i in range(0, max(1, len(words) - 20), 50):
                assert " ".join(words[i : i + 20]) not in read


def test_unknown_split():
    with pytest.raises(ValueError, match="'test' is none of train, calibration, heldout"):
        text.documents("test")
