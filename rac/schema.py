"""What all parts of config.yaml share: strict models, names that may stand in paths, and near misses."""

import difflib
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

# Folders beside those of models, calibrations and evals.
STAGE_FOLDERS = {
    *("figures", "benchmarks", "traces", "sources", "hessians", "requests", "shards"),
    *("checkpoint", "runtime", "diagnostics", "losses", "overlaps", "preview"),
}
TAKEN = {"none", "dense", "work"}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _name(value: str) -> str:
    if not NAME.fullmatch(value) or value in TAKEN or value.endswith(".work"):
        raise ValueError(
            f"'{value}' cannot be a name: use letters, digits, '.', '_' and '-', starting with a letter "
            f"or digit ({', '.join(sorted(TAKEN))} and what ends in '.work' are taken)"
        )
    return value


def _beside_stages(value: str) -> str:
    if value in STAGE_FOLDERS:
        raise ValueError(f"'{value}' cannot be a name here: a stage's folder is called so")
    return value


Name = Annotated[str, AfterValidator(_name)]
FolderName = Annotated[Name, AfterValidator(_beside_stages)]


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is wanted, and YAML reads yes, no, on and off as true or false")
    return value


# A billion is more than anything here can be, and less than what ends in want of memory.
PositiveInt = Annotated[int, Field(gt=0, le=10**9), BeforeValidator(_no_truth)]
Few = Annotated[
    int, Field(gt=0, le=10_000), BeforeValidator(_no_truth)
]  # jobs, samples of a problem
Share = Annotated[float, Field(gt=0, lt=1)]


class Strict(BaseModel):
    """Every part of the configuration: an unknown key is an error.

    A job reads one definition, and need not wait until the validators of all are built.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


def exactly_one(part: BaseModel, *keys: str) -> None:
    """Raise ValueError unless one of the keys is given."""
    given = [key for key in keys if getattr(part, key) is not None]
    if len(given) != 1:
        wanted = ", ".join(f"'{key}'" for key in keys)
        raise ValueError(f"give exactly one of {wanted} (found {len(given)})")


def nearest(word: str, words: Any) -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return (
        f"; did you mean '{near[0]}'?"
        if near
        else f"; known: {', '.join(sorted({*words})) or 'none'}"
    )
