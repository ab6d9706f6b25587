import pytest
from transformers import AutoTokenizer

from rac.models.reasoner import WEIGHTS


@pytest.fixture(scope="session")
def tokenizer():
    """The shipped tokenizer."""
    return AutoTokenizer.from_pretrained(WEIGHTS)
