"""Tests that call a function, which lives in another process than they do.

This file is copied into two sandboxes and run there, so it uses the standard library alone. One
holds `program.py` and serves its functions (`serve`); the other holds `test.json` and runs the
test (`check`). Between them pass lines of JSON that stand for plain values. What the program
returns is built anew out of Python's own types, so no method of the program's ever runs beside the
test, and it can neither read the test nor speak for it: it can only return values.
"""

import ast
import builtins
import importlib
import json
import operator
import os
import sys
import types
from collections.abc import Callable
from typing import Any

UNTESTED = "untested"
LINE = 64 * 2**20  # bytes of one message
TYPES = (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, object)
ACTIONS: dict[str, Callable[..., Any]] = {
    "get": getattr,
    "set": setattr,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "item": operator.getitem,
    "call": lambda function, arguments, options: function(*arguments, **options),
}


def encode(value: Any, refer: Callable[[Any], int]) -> Any:
    """A value as JSON: itself, or {type: content}; `refer` numbers what is not plain."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value) if abs(value) < 2**53 else {"int": hex(value)}
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: value.hex()}
    if isinstance(value, list):
        return [encode(item, refer) for item in value]
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item, refer) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, refer), encode(v, refer)] for k, v in value.items()]}
    if isinstance(value, range):
        return {"range": [encode(n, refer) for n in (value.start, value.stop, value.step)]}
    if type(value).__name__ == "Decimal":
        return {"Decimal": str(value)}
    if type(value).__name__ == "Fraction":
        return {"Fraction": [encode(value.numerator, refer), encode(value.denominator, refer)]}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), refer)
    if any(value is kind for kind in TYPES):
        return {"type": value.__name__}
    return {"ref": refer(value)}


def decode(value: Any, resolve: Callable[[int], Any]) -> Any:
    """What `encode` wrote, built of exact built-in types; `resolve` gives what has a number.

    Raises:
        ValueError, TypeError: it is not what `encode` writes.
    """
    if isinstance(value, list):
        return [decode(item, resolve) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "int":
        return int(inside, 16)
    if kind == "float":
        return float.fromhex(inside)
    if kind == "complex":
        return complex(*map(float.fromhex, inside))
    if kind in ("bytes", "bytearray"):
        return (bytes if kind == "bytes" else bytearray).fromhex(inside)
    if kind in ("tuple", "set", "frozenset"):
        return getattr(builtins, kind)(decode(item, resolve) for item in inside)
    if kind == "dict":
        return {decode(k, resolve): decode(v, resolve) for k, v in inside}
    if kind == "range":
        return range(*(decode(n, resolve) for n in inside))
    if kind == "Decimal":
        return importlib.import_module("decimal").Decimal(inside)
    if kind == "Fraction":
        numbers = (decode(n, resolve) for n in inside)
        return importlib.import_module("fractions").Fraction(*numbers)
    if kind == "type":
        return next(kind for kind in TYPES if kind.__name__ == inside)
    if kind == "ref":
        return resolve(inside)
    raise ValueError(f"no plain type is called {kind!r}")


def serve(source: str) -> None:
    """Run a program, then do what the test asks of its functions and objects."""
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # as site does
    program = types.ModuleType("program")
    sys.modules["program"] = program
    objects: list[Any] = []

    def refer(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    def look(name: str) -> Any:
        solution = getattr(program, "Solution", None)
        if hasattr(solution, name):
            return getattr(solution(), name)  # type: ignore[misc]  # as LeetCode calls it
        if not hasattr(program, name):
            raise NameError(f"the program defines no {name!r}")
        return getattr(program, name)

    def perform(action: str, target: Any, arguments: list) -> Any:
        if action == "load":
            return exec(compile(source, "program.py", "exec"), program.__dict__)
        return look(target) if action == "look" else ACTIONS[action](target, *arguments)

    while line := asked.readline():
        try:
            request = decode(json.loads(line), objects.__getitem__)
            answer = ["value", encode(perform(*request), refer)]
            text = json.dumps(answer)
        except BaseException as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            text = json.dumps(["raise", kinds, str(error)[:200]])
        answers.write(text.encode() + b"\n")
        answers.flush()


class Ended(Exception):
    """The program's process is gone, or does not speak as `serve` does."""


class Remote:
    """An object of the program's, seen from the test: equal to itself alone."""

    def __init__(self, ask: Callable[..., Any], number: int) -> None:
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", self, name, value)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._ask("call", self, list(arguments), options)

    def __iter__(self) -> Any:
        return self._ask("iter", self)

    def __next__(self) -> Any:
        return self._ask("next", self)

    def __len__(self) -> int:
        return self._ask("len", self)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", self, key)

    def __bool__(self) -> bool:
        return self._ask("bool", self)


def connect(raised: list[BaseException], asked_for: set[str]) -> Callable[..., Any]:
    """How the test asks: a function of an action (ACTIONS), its target and arguments.

    Args:
        raised: is given every exception that the program, and not the test, raised.
        asked_for: is given every action that was asked for.
    """
    answers, asked = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)

    def number(value: Any) -> int:
        if type(value) is not Remote:
            raise TypeError(f"a test cannot hand over a {type(value).__name__}")
        return object.__getattribute__(value, "_number")

    def remote(number: Any) -> Remote:
        if type(number) is not int:
            raise ValueError("a reference is a number")
        return Remote(ask, number)

    def ask(action: str, target: Any = None, *arguments: Any) -> Any:
        asked_for.add(action)
        request = encode([action, target, list(arguments)], number)
        try:
            asked.write(json.dumps(request).encode() + b"\n")
            asked.flush()
            line = answers.readline(LINE)
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise Ended("an answer is too long" if line else "it ended before it answered")
        try:
            answer = json.loads(line)
            if answer[0] == "value":
                return decode(answer[1], remote)
            kinds, message = answer[1:]
            told = _exception(kinds, str(message))
        except Exception as error:
            raise Ended(f"an answer is malformed ({type(error).__name__})") from None
        raised.append(told)
        raise told

    return ask


def _exception(kinds: list[str], message: str) -> Exception:
    """The nearest exception of Python's own to one that the program raised."""
    for name in kinds:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception) and kind is not Exception:
            try:
                error = kind(message)
            except TypeError:  # such as UnicodeDecodeError, which takes five arguments
                continue
            break
    else:
        error = Exception(message)
    error.kind = kinds[0]  # type: ignore[attr-defined]
    return error


def check(test: dict) -> tuple[str, str]:
    """Run a test (`entry_point`, `test_code`): a verdict and a detail.

    `test_code` sees the function as `candidate` and under its own name; its `check(candidate)`, if
    it defines one and does not call it, is called. A test that calls nothing of the program's says
    nothing of it: the verdict is UNTESTED.
    """
    raised: list[BaseException] = []
    asked_for: set[str] = set()
    ask = connect(raised, asked_for)
    try:
        ask("load")
        function = ask("look", test["entry_point"])
        tree = ast.parse(test["test_code"])
        names = {test["entry_point"]: function, "candidate": function, "__name__": "test"}
        names |= _borrowed(tree, names, ask, raised)
        exec(compile(tree, "test.py", "exec"), names)
        if names.get("check", function) is not function and not _calls(tree, "check"):
            names["check"](function)
    except Ended as error:
        return "runtime error", f"the program: {error}"
    except BaseException as error:
        text = " ".join(str(error).split())[:200]
        if any(error is other for other in raised):
            kind = str(getattr(error, "kind", type(error).__name__))[:100]
            verdict = "memory limit" if isinstance(error, MemoryError) else "runtime error"
            return verdict, f"{kind}: {text}"
        return "wrong answer", f"{type(error).__name__}: {text}"
    return ("passed" if "call" in asked_for else UNTESTED), ""


def _borrowed(tree: ast.Module, names: dict, ask: Callable, raised: list) -> dict[str, Any]:
    """What a test uses and does not define: a standard module, or a name of the program's.

    HumanEval's and MBPP's own harnesses run test and program in one namespace.
    """
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in nodes if not isinstance(node.ctx, ast.Load)} | names.keys()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    found = {}
    for name in sorted({node.id for node in nodes} - bound - set(dir(builtins))):
        if name in sys.stdlib_module_names:
            found[name] = importlib.import_module(name)
            continue
        try:
            found[name] = ask("look", name)
        except Exception:
            if not raised:
                raise
            raised.clear()  # the test will say so itself
    return found


def _calls(tree: ast.Module, name: str) -> bool:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(isinstance(function, ast.Name) and function.id == name for function in calls)


def main(folder: str) -> None:
    """Serve the program of a folder, or else run its test and write the verdict to stderr."""
    sys.set_int_max_str_digits(0)
    path = os.path.join(folder, "program.py")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            source = file.read()
        serve(source)
        os._exit(0)
    with open(os.path.join(folder, "test.json"), encoding="utf-8") as file:
        test = json.load(file)
    verdict = [test["token"], *check(test)]
    os.write(2, b"\n" + json.dumps(verdict).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main(os.path.dirname(os.path.abspath(__file__)))
