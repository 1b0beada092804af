"""Examines imports of Channels, and dotted paths to it in strings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tiderace.migration.names import (
    OLD_PACKAGES,
    is_old,
    missing_names,
    new_module,
    new_string,
    why_gone,
)
from tiderace.migration.source import SourceFile, Verdict

__all__ = ["dotted", "examine_imports"]

_DOTTED = re.compile(r"(?:channels|channels_redis)(?:\.[A-Za-z_]\w*)+")


def examine_imports(source: SourceFile, skipped: set[int]) -> None:
    """Report every import and dotted string, and rewrite those that have a new name.

    Args:
        source: the file.
        skipped: the ids of string nodes that another part reports.
    """
    chains = _Chains(source)
    for_checkers = {
        id(inner)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.If)
        and (dotted(node.test) or "").endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    inside_f_strings = {
        id(part)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
    }
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and _is_absolute(node):
            _examine_import_from(source, node, for_checkers=id(node) in for_checkers)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                _examine_import(source, node, alias, chains)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in skipped | inside_f_strings
            and _DOTTED.fullmatch(node.value)
        ):
            _examine_string(source, node)


def _is_absolute(node: ast.ImportFrom) -> bool:
    return node.level == 0 and node.module is not None


def _examine_import_from(
    source: SourceFile, node: ast.ImportFrom, *, for_checkers: bool
) -> None:
    module = node.module or ""
    names = [alias.name for alias in node.names]
    shown = f"from {module} import {', '.join(names)}"
    if module.partition(".")[0] == "daphne":
        _examine_daphne(source, node, module, names)
        return
    if not is_old(module):
        return
    new = new_module(module, names)
    if new is None and for_checkers and not why_gone(module, names):
        source.changes(
            node,
            f"{shown}: only type checkers read it, and Tiderace's annotations use other "
            "names",
        )
        return
    if new is None:
        _report_missing(source, node, module, names)
        return
    found = re.compile(rf"from[\s\\]+({re.escape(module)})\b").match(
        source.text, source.span(node)[0]
    )
    if found is None:
        source.changes(node, f"{shown}: write {new} by hand")
        return
    source.same(node, shown)
    source.replace(*found.span(1), new)


def _examine_daphne(
    source: SourceFile, node: ast.stmt, module: str, names: list[str]
) -> None:
    shown = f"from {module} import {', '.join(names)}" if names else f"import {module}"
    why = why_gone(module)
    if why is not None:
        source.unsupported(node, f"{shown}: {why}")
    else:
        source.changes(
            node,
            f"{shown}: works while the package daphne is installed; runserver and tests "
            "use uvicorn",
        )


def _report_missing(
    source: SourceFile, node: ast.stmt, module: str, names: list[str]
) -> None:
    """Report a module, or names of it, that Tiderace does not have."""
    shown = f"from {module} import {', '.join(names)}" if names else f"import {module}"
    why = why_gone(module, names)
    if why is None and "__version__" in names:
        why = (
            "the version of Channels has a value only with install_as_channels(), and "
            "there it is 4.3.2"
        )
    if why is None:
        new = new_module(module)
        missing = missing_names(new, names) if new else []
        why = (
            f"{new} has no {', '.join(missing)}" if missing else "it is not in Tiderace"
        )
    source.unsupported(node, f"{shown}: {why}")


def _examine_import(
    source: SourceFile, node: ast.Import, alias: ast.alias, chains: _Chains
) -> None:
    top = alias.name.partition(".")[0]
    if top == "daphne":
        _examine_daphne(source, node, alias.name, [])
        return
    if not is_old(alias.name):
        return
    start, _ = source.span(alias)
    end = start + len(alias.name)
    in_one_word = source.text[start:end] == alias.name
    if alias.asname is not None:
        new = new_module(alias.name)
        if new is None or not in_one_word:
            _report_missing(source, node, alias.name, [])
            return
        source.same(node, f"import {alias.name} as {alias.asname}")
        source.replace(start, end, new)
        return
    # The name `channels` is bound: every use of it in the file has to be rewritten.
    modules = chains.modules(top)
    if alias.name != top and new_module(alias.name) is not None:
        modules = {*(modules or ()), alias.name} if modules is not None else None
    if not modules or not in_one_word:
        source.report(
            node,
            Verdict.UNSUPPORTED if why_gone(alias.name) else Verdict.CHANGES,
            f"import {alias.name}: {why_gone(alias.name) or chains.why(top)}",
        )
        return
    source.same(node, f"import {alias.name}")
    wanted = [alias.name] if alias.name != top else sorted(modules)
    source.replace(start, end, ", ".join(str(new_module(each)) for each in wanted))
    chains.rewrite(top)


def _examine_string(source: SourceFile, node: ast.Constant) -> None:
    value = str(node.value)
    new = new_string(value)
    if new is None:
        why = why_gone(value) or "nothing in Tiderace has this name"
        source.changes(node, f'"{value}": {why}')
    elif source.replace_string(node, new):
        source.same(node, f'"{value}"')
    else:
        source.changes(node, f'"{value}": write "{new}" by hand')


class _Chains:
    """The uses of ``channels.layers.get_channel_layer`` after ``import channels.layers``.

    Args:
        source: the file.
    """

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._chains: dict[str, list[tuple[ast.Attribute, str]]] = {
            name: [] for name in OLD_PACKAGES
        }
        self._rebound: set[str] = set()
        inner: set[int] = set()
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute) and id(node) not in inner:
                inner.update(id(part) for part in ast.walk(node) if part is not node)
                chain = dotted(node) or ""
                if (top := chain.partition(".")[0]) in self._chains:
                    self._chains[top].append((node, chain))
            elif isinstance(node, ast.Name) and node.id in self._chains:
                if id(node) not in inner:
                    self._rebound.add(node.id)
            elif isinstance(node, ast.arg) and node.arg in self._chains:
                self._rebound.add(node.arg)

    def modules(self, package: str) -> set[str] | None:
        """Return the modules that are used; None if a use cannot be rewritten."""
        if package in self._rebound:
            return None
        used = set()
        for _, chain in self._chains[package]:
            module = _module_of(chain)
            if module is None:
                return None
            used.add(module)
        return used

    def why(self, package: str) -> str:
        """Return why the uses of a package cannot be rewritten."""
        if package in self._rebound:
            return f"the name {package} has another use in this file; rename by hand"
        unknown = [
            chain for _, chain in self._chains[package] if _module_of(chain) is None
        ]
        if any("__version__" in chain for chain in unknown):
            return f"{package}.__version__ has a value only with install_as_channels()"
        if unknown:
            return f"{unknown[0]} is not in Tiderace; rename the others by hand"
        return f"import the modules of tiderace that are used instead of {package}"

    def rewrite(self, package: str) -> None:
        """Rewrite every use of a package."""
        for node, chain in self._chains[package]:
            module = _module_of(chain) or ""
            start, _ = self._source.span(node)
            old = self._source.text[start : start + len(module)]
            if old == module:
                self._source.replace(
                    start, start + len(module), str(new_module(module))
                )


def _module_of(chain: str) -> str | None:
    """Return the longest module in ``chain`` that has the name behind it."""
    names = chain.split(".")
    for length in range(len(names) - 1, 1, -1):
        module = ".".join(names[:length])
        if new_module(module, [names[length]]) is not None:
            # The names of a module that was moved in parts stay with their module.
            return module if new_module(module) is not None else None
    return None


def dotted(node: ast.AST) -> str | None:
    """Return ``a.b.c`` for such an expression, None for any other."""
    parts = list(_parts(node))
    return ".".join(reversed(parts)) if all(parts) and parts else None


def _parts(node: ast.AST) -> Iterator[str]:
    while isinstance(node, ast.Attribute):
        yield node.attr
        node = node.value
    yield node.id if isinstance(node, ast.Name) else ""
