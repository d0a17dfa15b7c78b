"""Tests, benchmarks and tools go through public names: what is private can change without breaking them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [file for folder in ("tests", "benchmarks", "tools") for file in sorted((ROOT / folder).rglob("*.py"))]
ALLOWED = {
    "_util",  # a package of ours, internal like its neighbours, with public names in it
    *("_asdict", "_fields", "_make", "_replace"),  # documented methods of named tuples
    "_exit",  # of os, documented: ends a process as a crash does
}
BY_NAME = {"setattr", "getattr", "delattr", "hasattr"}  # the built-in functions, and methods of MonkeyPatch


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in ALLOWED


def reaches(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each private attribute of another object, and of each private name of another module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Call) and called(node.func) in BY_NAME:
            words = [arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            yield from ((node.lineno, word) for word in words if any(map(is_private, word.split("."))))


def called(function: ast.expr) -> str:
    """The last part of the name of what is called."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("engine._session.run()", ["_session"]),
        ("a.b._c = a._b.d", ["_c", "_b"]),
        ("from attri.runtime.tokenizer import _clean", ["_clean"]),
        ("monkeypatch.setattr(module, '_installed', list)", ["_installed"]),
        ("monkeypatch.setattr('attri.runtime.tokenizer._clean', str)", ["attri.runtime.tokenizer._clean"]),
        ("getattr(engine, '_session')", ["_session"]),
        ("self._engine._session", ["_session"]),
        ("self._engine.run(_helper)", []),
        ("from attri.runtime._util.cpus import usable_cpus", []),
        ("from attri.runtime import _util", []),
        ("monkeypatch.setattr('attri.runtime._util.cpus.usable_cpus', int)", []),
        ("version._replace(minor=2).__class__.__name__", []),
    ],
)
def test_a_reach_is_found(code: str, names: list[str]) -> None:
    assert [name for _, name in reaches(ast.parse(code))] == names


def test_nothing_reaches_into_private_attributes() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line} {name}"
        for file in FILES
        for line, name in reaches(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert len(FILES) > 100
    assert found == []
