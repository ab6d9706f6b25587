"""The nodes of a YAML document, before its tags and merges stand for anything."""

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml


def nodes(document: "yaml.Node | None") -> Iterator[Any]:
    """Every node once: aliases make of a document a graph."""
    waiting, seen = [document] if document else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node.value, list):
            pairs = (item if isinstance(item, tuple) else (item,) for item in node.value)
            waiting += chain.from_iterable(pairs)
