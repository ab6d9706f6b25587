"""What a calibration adds up: parts of sources, and what a token of each counts."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rac.definitions import Calibration
from rac.errors import RacError


class Part(NamedTuple):
    """One part of a source in a calibration's weighted sum."""

    source: str
    part: str
    weight: float
    tokens: int


def weigh(
    calibration: Calibration, tokens: Mapping[str, Mapping[str, int]]
) -> dict[str, list[Part]]:
    """What a calibration adds up: key (`source` or `source.part`) → parts with their weights.

    By `sum`, sums over tokens are added with the weights given. By `share`, each key's mean Σ x xᵀ / n
    is weighted with its share and multiplied by the tokens of all keys together, so that shares are
    shares of tokens at an equal total.

    Args:
        calibration: its definition.
        tokens: source → part → its tokens.

    Raises:
        RacError: a source or part is missing, or a share is of no tokens.
    """
    found = {}
    for key, weight in (calibration.sum or calibration.share or {}).items():
        source, part = (key, None) if key in tokens else key.rpartition(".")[::2]
        if source not in tokens:
            raise RacError(f"nothing was given of '{key}'; given: {', '.join(tokens) or 'nothing'}")
        if part is not None and part not in tokens[source]:
            raise RacError(f"'{key}': the source holds {', '.join(tokens[source])} and no '{part}'")
        names = [part] if part else list(tokens[source])
        found[key] = [Part(source, name, weight, tokens[source][name]) for name in names]
    if calibration.share:
        of_key = {key: sum(part.tokens for part in parts) for key, parts in found.items()}
        for key, parts in found.items():
            if not of_key[key]:
                raise RacError(f"'{key}' has no tokens to take a share of")
            scale = sum(of_key.values()) / of_key[key]
            found[key] = [part._replace(weight=part.weight * scale) for part in parts]
    return found


def token_weights(parts: Iterable[Part]) -> dict[tuple[str, str], float]:
    """What a token counts in the calibration's sum, by source and part of it."""
    weight_of: dict[tuple[str, str], float] = {}
    for part in parts:
        key = part.source, part.part
        weight_of[key] = weight_of.get(key, 0.0) + part.weight
    return weight_of
