"""Word problems of one to five operations, each with a thought that works them digit by digit.

This is the task of the embedded reasoner. Another task takes this module's place by offering the
same two names: `SPLITS` and `generate(split, rows, seed)`; `docs/reasoner.md` says what they keep.

A problem's split hangs on its arithmetic alone (start number and operations), so that the same
arithmetic never appears in two splits under other names or objects.
"""

import hashlib
import random

SPLITS = ("train", "validation", "calibration", "test")
LARGEST = 999
ORDINALS = ("First", "Second", "Third", "Fourth", "Fifth")
# fmt: off
NAMES = (
    "Ada", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ivy", "Jack",
    "Kate", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Zoe",
)
OBJECTS = (
    "apples", "books", "cards", "coins", "cups", "eggs", "flowers", "keys",
    "lamps", "maps", "nuts", "pens", "plums", "rings", "shells", "stamps",
)
# fmt: on
VERBS = {"+": ("buys", "finds", "gets", "wins"), "-": ("drops", "gives away", "loses", "sells")}

Operation = tuple[str, int]


def canonical(start: int, operations: list[Operation]) -> str:
    """The arithmetic of a problem as text, e.g. `63 -48 *3`."""
    return " ".join([str(start), *(f"{sign}{number}" for sign, number in operations)])


def split_of(problem: str) -> str:
    """The split of a canonical problem: validation, calibration and test get one in twenty each."""
    bucket = int.from_bytes(hashlib.sha256(problem.encode()).digest()[:8], "big") % 20
    return SPLITS[bucket + 1] if bucket < 3 else "train"


def generate(split: str, rows: int, seed: int = 0) -> list[dict]:
    """The first `rows` problems of the endless list that `split` and `seed` stand for.

    The same on every machine and Python version; the first n of m > n rows are the n rows. No two
    rows share their arithmetic.

    Returns:
        Dicts with `id`, `problem` (the user's text), `answer` (a decimal integer as text) and
        `solution`: what a model should write after the `<think>` line that the chat template opens.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    # random() alone promises the same sequence in all versions of Python.
    rng = random.Random(f"{split} {seed}")
    seen: set[str] = set()
    found: list[dict] = []
    while len(found) < rows:
        start, operations = _draw(rng)
        key = canonical(start, operations)
        style = [rng.random() for _ in range(7)]
        if split_of(key) == split and key not in seen:
            seen.add(key)
            name = f"reasoner-{split}-{seed}-{len(found):05d}"
            found.append({"id": name, **_render(start, operations, style)})
    return found


def _between(rng: random.Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _draw(rng: random.Random) -> tuple[int, list[Operation]]:
    """A start number and one to five operations whose results all lie in 1 … LARGEST."""
    count = _between(rng, 1, 5)
    start = value = _between(rng, 2, 99 if rng.random() < 0.5 else 499)
    operations: list[Operation] = []
    for _ in range(count):
        top = 99 if rng.random() < 0.5 else 499
        choices = []
        if value < LARGEST:
            choices.append(("+", _between(rng, 1, min(top, LARGEST - value))))
        if value > 1:
            choices.append(("-", _between(rng, 1, min(top, value - 1))))
        if 2 * value <= LARGEST:
            choices.append(("*", _between(rng, 2, min(4, LARGEST // value))))
        sign, number = choices[_between(rng, 0, len(choices) - 1)]
        value = apply(value, sign, number)
        operations.append((sign, number))
    return start, operations


def apply(value: int, sign: str, number: int) -> int:
    """`value` after one operation."""
    return {"+": value + number, "-": value - number, "*": value * number}[sign]


def _render(start: int, operations: list[Operation], style: list[float]) -> dict:
    """Problem, answer and solution; `style` (seven numbers in [0, 1)) chooses the words."""
    name, thing = NAMES[int(style[0] * len(NAMES))], OBJECTS[int(style[1] * len(OBJECTS))]
    value, story, thought = start, [], [f"Start with {start}."]
    for i, (sign, number) in enumerate(operations):
        if sign == "*":
            event = f"{ORDINALS[i]}, {name} ends up with {number} times as many."
        else:
            verb = VERBS[sign][int(style[2 + i] * len(VERBS[sign]))]
            event = f"{ORDINALS[i]}, {name} {verb} {number}."
        result = apply(value, sign, number)
        story.append(event)
        thought.append(f"{event} {_work(value, sign, number)}. So {name} has {result}.")
        value = result
    return {
        "problem": "\n".join(
            [f"{name} has {start} {thing}.", *story, f"How many {thing} does {name} have now?"]
        ),
        "answer": str(value),
        "solution": "\n".join([*thought, "</think>", f"The answer is \\boxed{{{value}}}."]),
    }


def _work(value: int, sign: str, number: int) -> str:
    """One operation written out from the last digit to the first, with its carries or borrows.

    Every equation is true: in `3-8-0=-5 write5 borrow1` the digit written is 10 − 5.
    """
    word, carry, steps = "borrow" if sign == "-" else "carry", 0, []
    for i in range(max(len(str(value)), 1 if sign == "*" else len(str(number)))):
        a, b = value // 10**i % 10, number if sign == "*" else number // 10**i % 10
        total = apply(a, sign, b) + (-carry if sign == "-" else carry)
        equation = f"{a}{sign}{b}{'-' if sign == '-' else '+'}{carry}={total}"
        carry = abs(total // 10)
        steps.append(f"{equation} write{total % 10} {word}{carry}")
    if carry:
        steps.append(f"write{carry}")
    return f"{value}{sign}{number}: " + "; ".join(steps)
