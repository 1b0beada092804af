"""The levels of the package as data, and the rules for imports between them.

Every import counts, those for type checkers and those inside functions too. The rules
read the source and import nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "tiderace"

# From the bottom up. An import goes down, or stays within its own group; two groups of
# one level do not import each other. A name is a module or package directly under
# tiderace.
LEVELS: list[dict[str, set[str]]] = [
    {
        "values": {
            "exceptions",
            "asgi",
            "history",
            "metrics",
            "ratelimit",
            "conf",
            "dotted_path",
            "json_compat",
        }
    },
    {"runtime": {"runtime", "db", "middleware"}},
    {
        "web": {
            "routing",
            "sessions",
            "auth",
            "security",
            "health",
            "route_inspection",
            "application_parts",
        },
        "protocol": {"protocol"},
        "delivery": {"delivery"},
        "presence": {"presence"},
    },
    {"layers": {"layers"}},
    {
        "consumers": {
            "cluster",
            "connection",
            "consumer",
            "generic",
            "revocation",
            "worker",
        }
    },
    {"topics": {"topics"}},
    {"outbox": {"outbox"}},
    {"server": {"server"}},
    {
        "project": {
            "testing",
            "pytest_plugin",
            "management",
            "monitoring",
            "checks",
            "apps",
            "admin",
            "models",
            "templatetags",
            "compat",
            "demo",
            "migration",
            "__main__",
        }
    },
]

# `tiderace/__init__.py`: every level may read the version there, so it imports nothing
# at import time.
PACKAGE_ROOT = "tiderace"

# Never, whatever the levels allow: (importer, imported, reason). Both are a module or a
# package.
FORBIDDEN: list[tuple[str, str, str]] = [
    ("tiderace.layers", "tiderace.protocol", "a layer carries bytes, not frames"),
    ("tiderace.topics.fanout", "tiderace.topics.client", "commands lie above delivery"),
    *(
        (module, "django", "it is pure or asyncio only, to be tested without Django")
        for module in (
            "tiderace.protocol",
            "tiderace.delivery",
            "tiderace.history",
            "tiderace.presence",
            "tiderace.ratelimit",
            "tiderace.runtime.futures",
            "tiderace.runtime.sync_bridge",
            "tiderace.runtime.tasks",
            "tiderace.runtime.threads",
            "tiderace.layers.broker",
            "tiderace.layers.memory",
            "tiderace.layers.memory_streams",
            "tiderace.layers.pubsub",
            "tiderace.layers.redis",
        )
    ),
]

# A third party that only these modules import.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "redis": ("tiderace.layers.redis",),
    "hiredis": ("tiderace.layers.redis",),
    "psycopg": ("tiderace.layers.database.postgresql",),
    "prometheus_client": ("tiderace.monitoring.prometheus",),
    "opentelemetry": ("tiderace.monitoring.tracing",),
    "cryptography": ("tiderace.layers.serializers", "tiderace.server.certificate"),
    "jwt": ("tiderace.security.keys",),
    "google": ("tiderace.protocol.protobuf",),
}

# Names that do not say what belongs in the module.
# (compat is left out: the names there are Channels', which is its purpose.)
VAGUE_NAMES = {"utils", "util", "helpers", "common", "core", "interfaces", "misc"}

# Imports inside functions: (who, what) -> why it cannot stand at the top. `what` covers the
# modules below it. An entry that is no longer needed fails the suite.
NO_PSYCOPG = "psycopg is an extra, and other databases need none"
NO_REDIS = "without the extra `redis` the sentence that names it must be reached"
NO_CRYPTOGRAPHY = "without the extra `crypto` everything but encryption must work"
NO_PYJWT = "without the extra `jwt` everything but such tokens must work"
NO_PROTOBUF = "without the extra `protobuf` everything but that codec must work"
NO_UVICORN = "without the extra `server` everything else must work"
APPS = "models need the app registry"
OTHER_LAYER = "a site with another layer starts sooner without this one"
SETTINGS = "it is read without Django's settings too"
INSIDE_FUNCTIONS: dict[tuple[str, str], str] = {
    ("tiderace", "tiderace.compat"): "`import tiderace` must load nothing else",
    ("tiderace.apps", "tiderace.monitoring.cluster_connections"): APPS,
    ("tiderace.outbox.apps", "tiderace.outbox"): APPS,
    ("tiderace.management.commands.tiderace_relay", "tiderace.outbox"): APPS,
    ("tiderace.testing.topics.testbed", "tiderace.outbox"): APPS,
    ("tiderace.auth", "django.contrib.auth.models"): APPS,
    ("tiderace.consumer", "django.apps"): SETTINGS,
    ("tiderace.consumer", "django.contrib.auth.models"): APPS,
    ("tiderace.__main__", "tiderace.demo.serve"): NO_UVICORN,
    ("tiderace.demo.manage", "django.core.management"): "DJANGO_SETTINGS_MODULE first",
    ("tiderace.demo.serve", "tiderace.demo"): APPS,
    ("tiderace.demo.bell.apps", "tiderace.demo.bell.mentions"): APPS,
    ("tiderace.layers.serializers", "cryptography"): NO_CRYPTOGRAPHY,
    (
        "tiderace.layers.database.layer",
        "tiderace.layers.database.postgresql",
    ): NO_PSYCOPG,
    (
        "tiderace.layers.database.apps",
        "tiderace.layers.database.postgresql.schema",
    ): NO_PSYCOPG,
    (
        "tiderace.layers.database.migrations.0001_tables",
        "tiderace.layers.database.postgresql.schema",
    ): NO_PSYCOPG,
    ("tiderace.checks.database", "tiderace.layers.database"): OTHER_LAYER,
    ("tiderace.layers.redis.hosts", "redis"): NO_REDIS,
    ("tiderace.layers.redis.options", "redis"): NO_REDIS,
    ("tiderace.layers.redis.sentinel", "redis"): NO_REDIS,
    ("tiderace.security.keys", "jwt"): NO_PYJWT,
    ("tiderace.protocol.stream_codecs", "tiderace.protocol.protobuf"): NO_PROTOBUF,
    ("tiderace.management.commands.runserver", "tiderace.server"): NO_UVICORN,
    ("tiderace.management.commands.tiderace_serve", "tiderace.server"): NO_UVICORN,
    ("tiderace.testing.live", "tiderace.server"): NO_UVICORN,
    ("tiderace.route_inspection", "django.contrib.admindocs"): "it loads docutils",
    (
        "tiderace.pytest_plugin",
        "tiderace.testing.topics.testbed",
    ): "pytest loads the plugin wherever Tiderace is installed",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, as the importing line means it."""

    importer: str
    imported: str
    where: str
    inside_function: bool


def modules(package_root: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted(package_root.rglob("*.py")):
        parts = path.relative_to(package_root.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = path
    return found


def imports(package_root: Path) -> Iterator[Import]:
    """Every import statement of every module, relative ones resolved."""
    known = modules(package_root)
    for importer, path in known.items():
        tree = ast.parse(path.read_text("utf-8"))
        inside = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for node in ast.walk(function)
        }
        package = (
            importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        )
        for node in ast.walk(tree):
            for imported in set(targets(node, package, known)):
                where = f"{path.relative_to(package_root.parent)}:{node.lineno}"  # type: ignore[attr-defined]
                yield Import(importer, imported, where, id(node) in inside)


def targets(node: ast.AST, package: str, known: dict[str, Path]) -> Iterator[str]:
    """The modules one statement imports; `from a import b` means a.b if that is one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = source_of(node, package)
        for name in {alias.name for alias in node.names}:
            yield f"{base}.{name}" if f"{base}.{name}" in known else base


def source_of(node: ast.ImportFrom, package: str) -> str:
    """The module a `from ... import` reads, seen from a module in `package`."""
    if not node.level:
        return node.module or ""
    above = package.split(".")
    above = above[: len(above) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def covers(prefix: str, module: str) -> bool:
    """Whether `module` is `prefix` or lies below it."""
    return module == prefix or module.startswith(prefix + ".")


def level_of(module: str) -> tuple[int, str] | None:
    """Return the height and the group of a module's level, or None."""
    name = module.split(".")[1]
    for height, groups in enumerate(LEVELS):
        for group, members in groups.items():
            if name in members:
                return height, group
    return None


def modules_without_a_level(package_root: Path) -> list[str]:
    """Modules that no level names."""
    return [
        f"{path.relative_to(package_root.parent)} has no level; add {name.split('.')[1]!r} "
        "to LEVELS of tests/test_architecture.py, or move it into a package that has one"
        for name, path in modules(package_root).items()
        if name != PACKAGE_ROOT and level_of(name) is None
    ]


def upward_imports(package_root: Path) -> list[str]:
    """Imports that go up, or across to another group of the same level."""
    complaints = []
    for entry in imports(package_root):
        if not covers(PACKAGE_ROOT, entry.imported) or allowed_inside(entry):
            continue
        if entry.importer == PACKAGE_ROOT:
            complaints.append(
                f"{entry.where}: tiderace/__init__.py imports {entry.imported}, and `import "
                "tiderace` must cost nothing and need no Django"
            )
        elif entry.imported != PACKAGE_ROOT:
            here, there = level_of(entry.importer), level_of(entry.imported)
            if here is None or there is None or here == there or there[0] < here[0]:
                continue
            verb = "goes up to" if there[0] > here[0] else "goes across to"
            complaints.append(
                f"{entry.where}: {entry.importer} of {here[1]} {verb} "
                f"{there[1]} by importing {entry.imported}; return the data or take a "
                "callable instead"
            )
    return complaints


def forbidden_imports(package_root: Path) -> list[str]:
    """Imports that FORBIDDEN and ONLY_IN rule out."""
    complaints = [
        f"{entry.where}: {entry.importer} imports {entry.imported}, but {reason}"
        for entry in imports(package_root)
        for who, what, reason in FORBIDDEN
        if covers(who, entry.importer) and covers(what, entry.imported)
    ]
    complaints += [
        f"{entry.where}: {entry.importer} imports {party}; only {', '.join(homes)} may"
        for entry in imports(package_root)
        for party, homes in ONLY_IN.items()
        if covers(party, entry.imported)
        and not any(covers(home, entry.importer) for home in homes)
    ]
    return complaints


def circles(package_root: Path) -> list[str]:
    """Circles of imports between our modules, each told once as a path."""
    arrows: dict[str, set[str]] = {name: set() for name in modules(package_root)}
    for entry in imports(package_root):
        if entry.imported in arrows and not allowed_inside(entry):
            arrows[entry.importer].add(entry.imported)
    complaints: dict[frozenset[str], str] = {}
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            circle = path[path.index(module) :]
            text = " -> ".join([*circle, module])
            complaints.setdefault(frozenset(circle), f"a circle of imports: {text}")
        elif module not in done:
            for next_module in sorted(arrows[module]):
                walk(next_module, [*path, module])
            done.add(module)

    for name in arrows:
        walk(name, [])
    return list(complaints.values())


def vague_names(package_root: Path) -> list[str]:
    """Modules and packages whose name says nothing."""
    return [
        f"{path.relative_to(package_root.parent)} has a vague name; name the thing, or put it "
        "where it is used"
        for name, path in modules(package_root).items()
        if VAGUE_NAMES & {part.lstrip("_") for part in name.split(".")[1:]}
        and not covers("tiderace.compat", name)
    ]


def allowed_inside(entry: Import) -> bool:
    """Whether this import inside a function is in the table of exceptions."""
    return entry.inside_function and any(
        entry.importer == who and covers(what, entry.imported)
        for who, what in INSIDE_FUNCTIONS
    )


def imports_inside_functions(package_root: Path) -> list[str]:
    """Imports inside functions that the table does not explain."""
    return [
        f"{entry.where}: {entry.importer} imports {entry.imported} inside a function; "
        "move it to the top, or add it with its reason to INSIDE_FUNCTIONS"
        for entry in imports(package_root)
        if entry.inside_function and not allowed_inside(entry)
    ]


RULES = [
    modules_without_a_level,
    upward_imports,
    forbidden_imports,
    circles,
    vague_names,
    imports_inside_functions,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_root_has_no(rule):
    complaints = rule(PACKAGE)

    assert not complaints, "\n" + "\n".join(complaints)


def test_every_exception_for_an_import_inside_a_function_is_still_needed():
    inside = [entry for entry in imports(PACKAGE) if entry.inside_function]

    stale = [
        f"{who} no longer imports {what} inside a function; remove the entry"
        for who, what in INSIDE_FUNCTIONS
        if not any(e.importer == who and covers(what, e.imported) for e in inside)
    ]

    assert not stale, "\n".join(stale)


def test_the_design_describes_the_same_levels():
    page = (PACKAGE.parents[1] / "docs/project/design.md").read_text("utf-8")
    table = page.partition("| level |")[2].partition("\n\n")[0]
    described = [
        (group, set(re.findall(r"`(\w+)`", members)))
        for group, members in re.findall(r"^\| (\w+) \| (.+?) \|", table, re.MULTILINE)
    ]

    assert dict(described) == {
        name: m for groups in LEVELS for name, m in groups.items()
    }
    heights = [h for name, _ in described for h, g in enumerate(LEVELS) if name in g]
    assert heights == sorted(heights, reverse=True)


# The test of the test: a package_root in a temporary folder, with one thing wrong.


@pytest.fixture
def build(tmp_path):
    """Write modules, given by path and source, into a throw-away package_root."""

    def write(**sources: str) -> Path:
        package_root = tmp_path / "tiderace"
        for name, source in {"__init__": "", **sources}.items():
            path = package_root / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in path.relative_to(package_root).parents:
                (package_root / folder / "__init__.py").touch()
            path.write_text(source)
        return package_root

    return write


def test_a_clean_package_has_no_complaints(build):
    package_root = build(
        exceptions="",
        delivery__in__hub="from tiderace.exceptions import ChannelFull",
        layers__in__memory="from ..delivery import hub\nfrom . import base",
        layers__in__base="import asyncio",
    )

    assert [rule(package_root) for rule in RULES] == [[] for _ in RULES]


def test_an_upward_import_is_named_with_its_line_and_both_groups(build):
    package_root = build(
        layers__in__memory="",
        delivery__in__hub="import asyncio\nfrom tiderace.layers import memory",
    )

    [complaint] = upward_imports(package_root)

    assert complaint.startswith(
        "tiderace/delivery/hub.py:2: tiderace.delivery.hub of delivery "
        "goes up to layers by importing tiderace.layers.memory"
    )


@pytest.mark.parametrize(
    "source",
    [
        "from tiderace import layers",
        "import tiderace.layers",
        "from .. import layers",
        "from ..layers import anything",
        "import typing\nif typing.TYPE_CHECKING:\n    from tiderace import layers",
        "def later():\n    from tiderace import layers",
        "class Room:\n    async def enter(self):\n        from tiderace import layers",
    ],
)
def test_an_upward_import_is_found_however_it_is_written(build, source):
    package_root = build(layers__in__memory="", delivery__in__hub=source)

    assert len(upward_imports(package_root)) == 1


def test_groups_of_one_level_do_not_import_each_other(build):
    package_root = build(auth="from tiderace.delivery import hub", delivery__in__hub="")

    [complaint] = upward_imports(package_root)

    assert "tiderace.auth of web goes across to delivery" in complaint


def test_the_package_root_imports_nothing(build):
    package_root = build(__init__="from tiderace.exceptions import A", exceptions="")

    assert len(upward_imports(package_root)) == 1


def test_a_circle_is_printed_as_a_path(build):
    package_root = build(sessions="from . import auth", auth="import tiderace.sessions")

    assert circles(package_root) == [
        "a circle of imports: tiderace.auth -> tiderace.sessions -> tiderace.auth"
    ]


def test_django_in_a_pure_package_is_refused(build):
    package_root = build(delivery__in__hub="from django.conf import settings")

    assert "imports django.conf" in forbidden_imports(package_root)[0]


def test_redis_outside_its_package_is_refused(build):
    package_root = build(auth="import redis.asyncio", layers__in__redis="import redis")

    [complaint] = forbidden_imports(package_root)

    assert "tiderace.auth imports redis; only tiderace.layers.redis may" in complaint


def test_a_vague_name_is_refused(build):
    assert vague_names(build(layers__in__utils=""))
    assert vague_names(build(_helpers=""))


def test_a_module_without_a_level_is_refused(build):
    assert "has no level" in modules_without_a_level(build(attic=""))[0]


def test_an_unexplained_import_inside_a_function_is_refused(build):
    package_root = build(history="def load():\n    import json")

    assert "history.py:2" in imports_inside_functions(package_root)[0]
