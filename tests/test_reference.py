"""docs/configuration.md is of the definitions as they are, and leaves nothing out."""

import re
from pathlib import Path

from rac import config, reference

PAGE = Path(__file__).parents[1] / "docs/configuration.md"


def tables(page: str) -> dict[str, dict[str, list[str]]]:
    """Cells by heading and key."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in page.splitlines():
        if line.startswith("## "):
            rows = found.setdefault(line.removeprefix("## "), {})
        elif match := re.match(r"\| `(\w+)` \|(.*)\|$", line):
            rows[match[1]] = [cell.strip() for cell in match[2].split("|")]
    return found


def test_the_page_of_the_repository_is_current():
    assert PAGE.read_text(encoding="utf-8") == reference.reference(), "make schema writes it"


def test_every_key_of_every_definition_has_a_row_that_says_what_it_is():
    found = tables(reference.reference())
    schema = config.Config.model_json_schema()
    defined = {"config.yaml": schema} | schema["$defs"]
    assert list(found)[:3] == ["config.yaml", "Model", "Dataset"]
    assert found.keys() == defined.keys()
    for name, definition in defined.items():
        assert list(found[name]) == list(definition["properties"])
        for key, (takes, default, said) in found[name].items():
            assert takes and said, (name, key)
            assert (default == "required") == (key in definition.get("required", []))


def test_what_a_key_takes_is_said_in_words():
    found = tables(reference.reference())
    assert found["Sampling"]["top_p"][:2] == ["number ≥ 1e-06 ≤ 1", "`0.95`"]
    assert found["Variant"]["scope"][0] == "[Scope](#scope)"
    assert found["Select"]["tokens"][0] == "[integer, integer]"
    assert found["Calibration"]["sum"][0] == "names, each with number"
    assert found["Run"]["cells"][:2] == ["list of [Block](#block)", "`[]`"]
    assert found["Eval"]["sandbox"][:2] == ["`bubblewrap`, `rlimits`", "`bubblewrap`"]
