"""No object holds what holds it: circles between classes, found in the source.

Imports that go one way do not prevent a circle of objects: a ``Protocol`` with one
implementation hides it from every import checker. So a protocol that one class alone
implements counts as that class here.
"""

from __future__ import annotations

import ast
import copy
from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import pytest

from support.paths import ROOT

PACKAGE = ROOT / "src" / "tiderace"

# Left out: the demo's classes are an application's, those of compat stand in for others'.
LEFT_OUT = {"demo", "compat"}

# A type inside these is not held: a callable may be any function, a class is no object.
NOT_HELD = {"Callable", "type"}

# References that may close a circle: `Class.attribute` -> the reason. An entry that is
# no longer needed fails the suite.
QUEUED = "held while it is queued there, for a call less per message"
ALLOWED: dict[str, str] = {
    "ExpiryQueue._heap": QUEUED,
    "ServerFrameWriter._queue": QUEUED,
    "ServerFrameWriter.scheduler": QUEUED,
}


def classes_of(package: Path) -> dict[str, ast.ClassDef]:
    """Every class at the top of a module, by name."""
    return {
        node.name: node
        for path in sorted(package.rglob("*.py"))
        if not LEFT_OUT & {*path.relative_to(package).parts}
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    }


class _Held(ast.NodeTransformer):
    """Takes out of an annotation what does not hold an instance."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        name = node.value.id if isinstance(node.value, ast.Name) else ""
        return ast.Constant(None) if name in NOT_HELD else self.generic_visit(node)


def names_in(annotation: ast.expr | None) -> set[str]:
    """The names of the types that an annotation holds, also those in quotes."""
    if annotation is None:
        return set()
    found = set()
    for node in ast.walk(_Held().visit(copy.deepcopy(annotation))):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= names_in(ast.parse(node.value, mode="eval").body)
    return found


def attributes_of(node: ast.ClassDef) -> Iterator[tuple[str, set[str]]]:
    """The attributes of a class, each with the names of the types it may hold."""
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            yield ast.unparse(statement.target), names_in(statement.annotation)
    for function in node.body:
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _assigned_in(function)


def _assigned_in(
    function: ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[tuple[str, set[str]]]:
    arguments = function.args
    parameters = {
        each.arg: names_in(each.annotation)
        for each in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    }
    for node in ast.walk(function):
        if isinstance(node, ast.AnnAssign):
            target, value, types = node.target, node.value, names_in(node.annotation)
        elif isinstance(node, ast.Assign):
            target, value, types = node.targets[0], node.value, set()
        else:
            continue
        if not ast.unparse(target).startswith("self."):
            continue
        for part in value.values if isinstance(value, ast.BoolOp) else [value]:
            if isinstance(part, ast.Name):
                types = types | parameters.get(part.id, set())
            elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
                types = types | {part.func.id}
        yield ast.unparse(target).removeprefix("self."), types


def members_of(node: ast.ClassDef) -> set[str]:
    """The names of a class's methods and attributes."""
    methods = {
        each.name
        for each in node.body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return methods | {name for name, _ in attributes_of(node)}


def is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).partition("[")[0] == "Protocol" for base in node.bases)


def hidden_classes(classes: dict[str, ast.ClassDef]) -> dict[str, str]:
    """Protocols that one class alone implements, with that class."""
    concrete = {
        name: members_of(node)
        for name, node in classes.items()
        if not is_protocol(node)
    }
    hidden = {}
    for name, node in classes.items():
        wanted = {each for each in members_of(node) if not each.startswith("__")}
        if is_protocol(node) and wanted:
            able = [each for each, members in concrete.items() if wanted <= members]
            if len(able) == 1:
                hidden[name] = able[0]
    return hidden


@cache
def references(package: Path) -> dict[str, dict[str, str]]:
    """The classes that each class holds, with the attribute that holds them."""
    classes = classes_of(package)
    hidden = hidden_classes(classes)
    held: dict[str, dict[str, str]] = defaultdict(dict)
    for owner, node in classes.items():
        for attribute, types in attributes_of(node):
            for each in types:
                other = hidden.get(each, each)
                if other in classes and other != owner:
                    held[owner].setdefault(other, attribute)
    return held


def circles(package: Path, allowed: Collection[str] = ()) -> list[str]:
    """Circles of classes that hold one another, each as a path of attributes."""
    held = references(package)
    found: dict[frozenset[str], str] = {}

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            circle = path[path.index(name) :]
            steps = zip(circle, [*circle[1:], name], strict=True)
            text = " -> ".join(f"{a}.{held[a][b]}" for a, b in steps)
            found.setdefault(frozenset(circle), f"{text} -> {name}")
            return
        for other, attribute in held.get(name, {}).items():
            if f"{name}.{attribute}" not in allowed:
                walk(other, [*path, name])

    for name in held:
        walk(name, [])
    return list(found.values())


def test_no_object_holds_its_own_holder():
    complaints = [
        f"a circle of objects: {path}; pass a function, return a value, or cut it in two"
        for path in circles(PACKAGE, ALLOWED)
    ]

    assert not complaints, "\n" + "\n".join(complaints)


def test_every_allowed_reference_still_closes_a_circle():
    stale = [
        reference
        for reference in ALLOWED
        if not circles(PACKAGE, ALLOWED.keys() - {reference})
    ]

    assert not stale, f"remove from ALLOWED: {stale}"


# The test of the test: classes in a temporary folder.


@pytest.fixture
def build(tmp_path):
    """Write one module of classes into a throw-away package."""

    def write(source: str) -> Path:
        (tmp_path / "module.py").write_text(source)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    b: B\nclass B:\n    a: A",
        'class A:\n    b: "list[B]"\nclass B:\n    a: dict[str, A | None]',
        (
            "class A:\n    def __init__(self):\n        self.b = B(self)\n"
            "class B:\n    def __init__(self, a: A):\n        self.a = a"
        ),
        (
            "class A:\n    def __init__(self, b: B | None):\n        self.b = b or B()\n"
            "class B:\n    a: A"
        ),
        (
            "class A:\n    b: B\n    def go(self): ...\nclass B:\n    a: P\n"
            "class P(Protocol):\n    def go(self): ..."
        ),
    ],
)
def test_a_circle_is_found_however_it_is_written(build, source):
    assert len(circles(build(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    b: B\nclass B:\n    a: Callable[[A], None]",
        "class A:\n    b: B\nclass B:\n    a: type[A]",
        "class A:\n    children: list[A]",
        (
            "class A:\n    b: B\n    def go(self): ...\nclass C:\n    def go(self): ...\n"
            "class B:\n    a: P\nclass P(Protocol):\n    def go(self): ..."
        ),
    ],
)
def test_references_without_a_circle_are_accepted(build, source):
    assert circles(build(source)) == []
