"""What the page reads of samples: answers side by side, and how many tokens a model wrote."""

from pathlib import Path

from rac.artifacts import read_json, read_jsonl
from rac.evaluate.thoughts import CLOSE

PROBLEMS = 20  # of an eval whose answers are shown, in the eval's order
PARTS = ("text", "prompt", "decode")
CHARACTERS = 12_000  # of a thought or answer that are shown
TOGETHER = 200_000  # characters of all answers that the page shows


def there(path: str | None, missing: list[str]) -> bool:
    """Whether a file exists; one that was named and does not is added to `missing`."""
    if path and not Path(path).exists() and path not in missing:
        missing.append(path)
    return bool(path) and Path(str(path)).exists()


def side_by_side(cells: list[dict], missing: list[str]) -> list[dict]:
    """The first problems of an eval with the first sample of every cell.

    Args:
        cells: dicts of one (model, eval) with "calibration", "variant", "generations", "scores" and
            perhaps "problems".
        missing: paths that were not found are added.

    Returns:
        Dicts of "id", "problem" and "answer" (None if unknown) and "cells": dicts of "calibration",
        "variant", "verdict" (correct, wrong or unfinished; None without an answer), "reason",
        "tokens", "thought" and "answer".
    """
    asked: dict[int, str] = {}
    columns = []
    for cell in cells:
        if not (there(cell["generations"], missing) & there(cell["scores"], missing)):
            continue
        scores = {(row["doc_id"], row["sample"]): row for row in read_jsonl(cell["scores"])}
        answers = {}
        for row in read_jsonl(cell["generations"]):
            if row["sample"] == 0:
                answers[row["doc_id"]] = row | scores.get((row["doc_id"], 0), {})
                asked.setdefault(row["doc_id"], row["id"])
        columns.append((cell, answers))
    problems: dict[str, dict] = {}
    for path in dict.fromkeys(cell["problems"] for cell in cells if "problems" in cell):
        if there(path, missing):
            problems |= {row["id"]: row for row in read_jsonl(path)}
    return [
        {
            "id": name,
            "problem": problems.get(name, {}).get("problem"),
            "answer": problems.get(name, {}).get("answer"),
            "cells": [_answer(cell, answers.get(doc_id)) for cell, answers in columns],
        }
        for doc_id, name in sorted(asked.items())[:PROBLEMS]
    ]


def _answer(cell: dict, row: dict | None) -> dict:
    shown = {"calibration": cell["calibration"], "variant": cell["variant"], "verdict": None}
    if row is None or "correct" not in row:
        return shown
    thought, closed, answer = row["text"].rpartition(CLOSE)
    if not closed and not row["finished"]:
        thought, answer = row["text"], ""
    verdict = "correct" if row["correct"] else "wrong" if row["finished"] else "unfinished"
    return shown | {
        "verdict": verdict,
        "reason": row["reason"],
        "tokens": row["tokens"],
        "thought": thought.strip(),
        "answer": answer.strip(),
    }


def shorten(problems: list[dict]) -> None:
    """Cut the middle of long thoughts and answers, in place, so that a page with all of them stays light.

    Args:
        problems: of `side_by_side`, of all evals of the page.
    """
    cells = [cell for problem in problems for cell in problem["cells"] if cell["verdict"]]
    longest = min(CHARACTERS, TOGETHER // max(len(cells), 1))
    for cell in cells:
        for key in ("thought", "answer"):
            cell[key] = _cut(cell[key], longest)


def _cut(text: str, longest: int) -> str:
    """A long text without its middle."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


def source_tokens(sources: list[dict], missing: list[str]) -> list[dict]:
    """Tokens of each source: dicts of "model", "name", "kind", "text", "prompt" and "decode"."""
    found = []
    for source in sources:
        if there(source["index"], missing):
            index = read_json(source["index"])
            parts = {part: index["parts"].get(part, {}).get("tokens", 0) for part in PARTS}
            names = {"model": source["model"], "name": source["source"]}
            found.append(names | {"kind": f"source of {index['kind']}"} | parts)
    return found


def eval_tokens(cells: list[dict], missing: list[str]) -> list[dict]:
    """Tokens that the dense model read and wrote in each eval, as `source_tokens` gives them."""
    found = []
    for cell in cells:
        if cell["variant"] == "dense" and there(cell.get("requests"), missing):
            if not there(cell["scores"], missing):
                continue
            lengths = {row["doc_id"]: len(row["token_ids"]) for row in read_jsonl(cell["requests"])}
            scores = read_jsonl(cell["scores"])
            found.append(
                {
                    "model": cell["model"],
                    "name": cell["eval"],
                    "kind": "eval, dense model",
                    "prompt": sum(lengths[row["doc_id"]] for row in scores),
                    "decode": sum(row["tokens"] for row in scores),
                    "text": 0,
                }
            )
    return found
