"""Smaller caps on the generated tokens, whose scores come from the same samples."""

PARTS = (8, 4, 2)  # of the cap


def smaller(cap: int) -> list[int]:
    """Budgets below the cap, in tokens: an eighth, a quarter and a half of it."""
    return [max(cap // part, 1) for part in PARTS]
