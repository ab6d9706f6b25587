"""docs/configuration.md: every key of config.yaml, from the definitions themselves."""

import json
from typing import Any

from rac.config import Config

HEAD = """\
# What config.yaml may say

Every key, from the definitions themselves: `make schema` writes this page and `schemas/config.schema.json`,
from which editors complete. An unknown key, a wrong value or a definition that does not fit another one is
refused in one line before any job. Names of definitions become folders: letters, digits, `.`, `_` and `-`.
"""


def reference() -> str:
    """The page, in Markdown: a table a definition, those first that config.yaml itself names."""
    schema = Config.model_json_schema()
    parts = [HEAD, _table("config.yaml", schema)]
    waiting, seen = [schema["properties"]], set()
    while waiting:
        for name in _named(waiting.pop(0)):
            if name not in seen:
                seen.add(name)
                waiting.append(schema["$defs"][name])
                parts.append(_table(name, schema["$defs"][name]))
    return "\n".join(parts)


def _named(definition: dict) -> list[str]:
    """The definitions that one names, in its order."""
    found = []
    for key, value in definition.items():
        if key == "$ref":
            found.append(value.rpartition("/")[2])
        for inner in value if isinstance(value, list) else [value]:
            found += _named(inner) if isinstance(inner, dict) else []
    return found


def _table(name: str, definition: dict) -> str:
    said = f"\n{definition['description']}\n" if name != "config.yaml" else ""
    rows = [
        f"| `{key}` | {_takes(of)} | {_default(key, definition)} | {of['description']} |"
        for key, of in definition["properties"].items()
    ]
    head = ["| key | takes | if left out | |", "|---|---|---|---|"]
    return "\n".join([f"## {name}", said, *head, *rows, ""])


def _takes(of: dict) -> str:
    """What values a key takes."""
    if "$ref" in of:
        name = of["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in of:
        return " or ".join(_takes(one) for one in of["anyOf"] if one.get("type") != "null")
    if "enum" in of or "const" in of:
        return ", ".join(f"`{value}`" for value in of.get("enum", [of.get("const")]))
    if "prefixItems" in of:
        return "[" + ", ".join(map(_takes, of["prefixItems"])) + "]"
    if of.get("type") == "array":
        return f"list of {_takes(of['items'])}"
    if of.get("type") == "object":
        return f"names, each with {_takes(of['additionalProperties'])}"
    kind = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}
    return " ".join([of.get("format") or kind[of["type"]], *_bounds(of)])


def _bounds(of: dict) -> list[str]:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    return [f"{sign} {of[key]:,}" for key, sign in signs.items() if key in of]


def _default(key: str, definition: dict) -> str:
    if key in definition.get("required", []):
        return "required"
    value: Any = definition["properties"][key]["default"]
    if value is None or isinstance(value, dict):
        return ""
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"
