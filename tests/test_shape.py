"""Sizes that keep the code readable; a change that needs more needs another cut."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "src" / "anser").rglob("*.py"))
NATIVE = sorted(p for p in (ROOT / "native").iterdir() if p.suffix in (".cpp", ".h"))

VAGUE = re.compile(
    r"(^|_)(utils?|helpers?|misc|common|manager|processor|stuff)(_|$)", re.IGNORECASE
)


@pytest.fixture(params=MODULES, ids=lambda path: str(path.relative_to(ROOT / "src" / "anser")))
def module(request):
    return request.param


def _functions(module):
    tree = ast.parse(module.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _is_command(function):
    """Say whether a function is a command of the terminal: its parameters are its options."""
    names = [d.func if isinstance(d, ast.Call) else d for d in function.decorator_list]
    return any(isinstance(name, ast.Attribute) and name.attr == "command" for name in names)


def _is_kernel(function):
    """Say whether a function is compiled for a GPU: its parameters are pointers and sizes."""
    return any("jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def test_modules_are_short(module):
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 400


def test_functions_are_short(module):
    for function in _functions(module):
        if _is_kernel(function):
            continue
        assert function.end_lineno - function.lineno < 80, function.name


def test_functions_take_few_parameters(module):
    # the operator wkv7 takes the operands of one equation: r w k v a b, the state and the lengths
    for function in _functions(module):
        parameters = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        named = [p for p in parameters if p.arg not in ("self", "cls")]
        exempt = _is_command(function) or _is_kernel(function) or module.stem.startswith("wkv7")
        assert exempt or len(named) <= 7, function.name


def test_modules_say_what_they_own(module):
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    assert docstring
    assert len(docstring.splitlines()[0]) > 10


def test_names_are_words_of_the_domain(module):
    assert not VAGUE.search(module.stem)
    for function in _functions(module):
        assert not VAGUE.search(function.name), function.name


def test_native_code_is_small():
    lines = [line.strip() for path in NATIVE for line in path.read_text().splitlines()]
    assert len([line for line in lines if line and not line.startswith("//")]) <= 1986


def test_python_enters_the_native_code_in_one_file():
    assert [path.name for path in NATIVE if "nanobind" in path.read_text()] == ["bindings.cpp"]
