"""The embedded reasoner: a model of 1.7 million parameters that thinks, and its recipe."""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights")
"""The shipped model, a Hugging Face folder."""
