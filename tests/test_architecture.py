"""The house as data: which room stands on which floor, and that no import climbs.

Every import counts, those for type checkers and those inside functions too, because
that is where the rot of well-kept houses sits. It reads source and imports nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1] / "src" / "tiderace"

# From the ground up. Wings on one line stand side by side and do not know each other.
# A room is a module or a package directly under tiderace.
FLOORS: list[dict[str, set[str]]] = [
    {
        "ground": {
            "exceptions",
            "asgi",
            "history",
            "metrics",
            "ratelimit",
            "bridge",
            "threads",
            "conf",
            "dotted",
            "jsontext",
            "db",
            "middleware",
            "readiness",
        }
    },
    {
        "porch": {
            "routing",
            "sessions",
            "auth",
            "security",
            "lifespan",
            "mounts",
            "drain",
            "health",
            "control",
        },
        "protocol": {"protocol"},
        "delivery": {"delivery"},
    },
    {"layers": {"layers"}},
    {"consumers": {"connection", "consumer", "generic", "revalidation", "worker"}},
    {"topics": {"topics"}},
    {"server": {"server"}},
    {
        "roof": {
            "testing",
            "management",
            "monitoring",
            "checks",
            "application_checks",
            "apps",
            "admin",
            "models",
            "templatetags",
            "compat",
            "demo",
            "__main__",
        }
    },
]

# The package itself (`tiderace/__init__.py`) is the front door: anyone may read the
# version there, so it may import nothing at import time.
FRONT_DOOR = "tiderace"

# Never, whatever the floors say: (who, what, why). `who` is a module or a package.
FORBIDDEN: list[tuple[str, str, str]] = [
    ("tiderace.layers", "tiderace.protocol", "a layer carries bytes, not frames"),
    *(
        (room, "django", "it is pure or asyncio only, to be tested without Django")
        for room in (
            "tiderace.protocol",
            "tiderace.delivery",
            "tiderace.history",
            "tiderace.ratelimit",
            "tiderace.bridge",
            "tiderace.threads",
            "tiderace.layers.announcements",
            "tiderace.layers.broker",
            "tiderace.layers.futures",
            "tiderace.layers.kept",
            "tiderace.layers.listeners",
            "tiderace.layers.memory",
            "tiderace.layers.presence",
            "tiderace.layers.presence_memory",
            "tiderace.layers.presence_redis",
            "tiderace.layers.queues",
            "tiderace.layers.redis_broker",
            "tiderace.layers.redis_calls",
            "tiderace.layers.redis_connections",
            "tiderace.layers.redis_link",
            "tiderace.layers.redis_members",
            "tiderace.layers.redis_names",
            "tiderace.layers.redis_options",
            "tiderace.layers.redis_queues",
            "tiderace.layers.redis_reader",
            "tiderace.layers.redis_scripts",
            "tiderace.layers.redis_streams",
            "tiderace.layers.service",
            "tiderace.layers.streams",
            "tiderace.layers.subscriptions",
            "tiderace.layers.hosts",
        )
    ),
]

# A third party that one room keeps to itself. Redis has a few: the layer, the calls, the
# connections, and where the servers are (`channels_redis.utils`, which has to work on its
# own).
KEPT_IN: dict[str, tuple[str, ...]] = {
    "redis": (
        "tiderace.layers.redis",
        "tiderace.layers.redis_calls",
        "tiderace.layers.redis_connections",
        "tiderace.layers.redis_link",
        "tiderace.layers.redis_options",
        "tiderace.layers.redis_reader",
        "tiderace.layers.hosts",
    ),
    "hiredis": (
        "tiderace.layers.redis_calls",
        "tiderace.layers.redis_connections",
        "tiderace.layers.redis_link",
        "tiderace.layers.redis_reader",
    ),
    "prometheus_client": ("tiderace.monitoring.prometheus",),
    "opentelemetry": ("tiderace.monitoring.tracing",),
    "cryptography": ("tiderace.layers.formats",),
    "jwt": ("tiderace.security.keys",),
    "google": ("tiderace.protocol.protobuf",),
}

# A drawer has no sentence that says what belongs in it.
# (compat is left out: the names there are Channels', which is its whole purpose.)
DRAWERS = {"utils", "util", "helpers", "common", "core", "interfaces", "misc"}

# Imports inside functions: (who, what) -> why it cannot stand at the top. `what` covers the
# modules below it. An entry that is no longer needed fails the suite.
NO_REDIS = "without the extra `redis` the sentence that names it must be reached"
NO_CRYPTOGRAPHY = "without the extra `crypto` everything but encryption must work"
NO_PYJWT = "without the extra `jwt` everything but such tokens must work"
NO_PROTOBUF = "without the extra `protobuf` everything but that codec must work"
NO_UVICORN = "without the extra `server` everything else must work"
APPS = "models need the app registry"
SETTINGS = "it is read without Django's settings too"
INSIDE_FUNCTIONS: dict[tuple[str, str], str] = {
    ("tiderace", "tiderace.compat"): "`import tiderace` must load nothing else",
    ("tiderace.apps", "tiderace.monitoring.rollcall"): APPS,
    ("tiderace.auth", "django.contrib.auth.models"): APPS,
    ("tiderace.security.bearer", "django.contrib.auth.models"): APPS,
    ("tiderace.topics.identity", "django.contrib.auth.models"): APPS,
    ("tiderace.conf", "django.conf"): SETTINGS,
    ("tiderace.consumer", "django.apps"): SETTINGS,
    ("tiderace.consumer", "django.contrib.auth.models"): APPS,
    ("tiderace.__main__", "tiderace.demo.serve"): NO_UVICORN,
    ("tiderace.demo.manage", "django.core.management"): "DJANGO_SETTINGS_MODULE first",
    ("tiderace.demo.serve", "tiderace.demo"): APPS,
    ("tiderace.layers.formats", "cryptography"): NO_CRYPTOGRAPHY,
    ("tiderace.layers.hosts", "redis"): NO_REDIS,
    ("tiderace.layers.redis_options", "redis"): NO_REDIS,
    ("tiderace.security.keys", "jwt"): NO_PYJWT,
    ("tiderace.topics.codecs", "tiderace.protocol.protobuf"): NO_PROTOBUF,
    ("tiderace.management.commands.runserver", "tiderace.server"): NO_UVICORN,
    ("tiderace.testing.live", "tiderace.server"): NO_UVICORN,
    ("tiderace.server", "tiderace.server.protocol"): NO_UVICORN,
    ("tiderace.testing", "tiderace.testing.live"): "it brings Django's test framework",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, as the importing line means it."""

    importer: str
    imported: str
    where: str
    inside_function: bool


def modules(house: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    found = {}
    for path in sorted(house.rglob("*.py")):
        parts = path.relative_to(house.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        found[name] = path
    return found


def imports(house: Path) -> Iterator[Import]:
    """Every import statement of every module, relative ones resolved."""
    rooms = modules(house)
    for importer, path in rooms.items():
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
            for imported in set(targets(node, package, rooms)):
                where = f"{path.relative_to(house.parent)}:{node.lineno}"  # type: ignore[attr-defined]
                yield Import(importer, imported, where, id(node) in inside)


def targets(node: ast.AST, package: str, rooms: dict[str, Path]) -> Iterator[str]:
    """The modules one statement imports; `from a import b` means a.b if that is one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = source_of(node, package)
        for name in {alias.name for alias in node.names}:
            yield f"{base}.{name}" if f"{base}.{name}" in rooms else base


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


def floor_of(module: str) -> tuple[int, str] | None:
    """The height and name of the floor a module of ours stands on."""
    room = module.split(".")[1]
    for height, wings in enumerate(FLOORS):
        for wing, rooms in wings.items():
            if room in rooms:
                return height, wing
    return None


def homeless_rooms(house: Path) -> list[str]:
    """Modules that no floor names."""
    return [
        f"{path.relative_to(house.parent)} stands on no floor; name {name.split('.')[1]!r} "
        "in FLOORS of tests/test_architecture.py, or move it into a room that has one"
        for name, path in modules(house).items()
        if name != FRONT_DOOR and floor_of(name) is None
    ]


def climbing_imports(house: Path) -> list[str]:
    """Imports that go up, or across to another wing of the same height."""
    complaints = []
    for entry in imports(house):
        if not covers(FRONT_DOOR, entry.imported) or allowed_inside(entry):
            continue
        if entry.importer == FRONT_DOOR:
            complaints.append(
                f"{entry.where}: the front door imports {entry.imported}, and `import "
                "tiderace` must cost nothing and need no Django"
            )
        elif entry.imported != FRONT_DOOR:
            here, there = floor_of(entry.importer), floor_of(entry.imported)
            if here is None or there is None or here == there or there[0] < here[0]:
                continue
            verb = "climbs to" if there[0] > here[0] else "crosses to its neighbour"
            complaints.append(
                f"{entry.where}: {entry.importer} on the {here[1]} floor {verb} "
                f"{there[1]} by importing {entry.imported}; return the data or take a "
                "callable instead"
            )
    return complaints


def forbidden_imports(house: Path) -> list[str]:
    """Imports that a room has sworn off."""
    complaints = [
        f"{entry.where}: {entry.importer} imports {entry.imported}, but {reason}"
        for entry in imports(house)
        for who, what, reason in FORBIDDEN
        if covers(who, entry.importer) and covers(what, entry.imported)
    ]
    complaints += [
        f"{entry.where}: {entry.importer} imports {party}; only {', '.join(homes)} may"
        for entry in imports(house)
        for party, homes in KEPT_IN.items()
        if covers(party, entry.imported)
        and not any(covers(home, entry.importer) for home in homes)
    ]
    return complaints


def circles(house: Path) -> list[str]:
    """Circles of imports between our modules, each told once as a path."""
    arrows: dict[str, set[str]] = {name: set() for name in modules(house)}
    for entry in imports(house):
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


def drawers(house: Path) -> list[str]:
    """Modules and packages whose name says nothing."""
    return [
        f"{path.relative_to(house.parent)} is a drawer; name the thing, or put it where "
        "it is used"
        for name, path in modules(house).items()
        if DRAWERS & {part.lstrip("_") for part in name.split(".")[1:]}
        and not covers("tiderace.compat", name)
    ]


def allowed_inside(entry: Import) -> bool:
    """Whether this import inside a function is in the table of exceptions."""
    return entry.inside_function and any(
        entry.importer == who and covers(what, entry.imported)
        for who, what in INSIDE_FUNCTIONS
    )


def hidden_imports(house: Path) -> list[str]:
    """Imports inside functions that the table does not explain."""
    return [
        f"{entry.where}: {entry.importer} imports {entry.imported} inside a function; "
        "move it to the top, or add it with its reason to INSIDE_FUNCTIONS"
        for entry in imports(house)
        if entry.inside_function and not allowed_inside(entry)
    ]


RULES = [
    homeless_rooms,
    climbing_imports,
    forbidden_imports,
    circles,
    drawers,
    hidden_imports,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_has_no(rule):
    complaints = rule(HOUSE)

    assert not complaints, "\n" + "\n".join(complaints)


def test_every_exception_for_an_import_inside_a_function_is_still_needed():
    inside = [entry for entry in imports(HOUSE) if entry.inside_function]

    stale = [
        f"{who} no longer imports {what} inside a function; remove the entry"
        for who, what in INSIDE_FUNCTIONS
        if not any(e.importer == who and covers(what, e.imported) for e in inside)
    ]

    assert not stale, "\n".join(stale)


# The test of the test: a house in a temporary folder, with one thing wrong.


@pytest.fixture
def build(tmp_path):
    """Write modules, given by path and source, into a throw-away house."""

    def write(**sources: str) -> Path:
        house = tmp_path / "tiderace"
        for name, source in {"__init__": "", **sources}.items():
            path = house / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in path.relative_to(house).parents:
                (house / folder / "__init__.py").touch()
            path.write_text(source)
        return house

    return write


def test_a_clean_house_has_nothing_to_complain_about(build):
    house = build(
        exceptions="",
        delivery__in__hub="from tiderace.exceptions import ChannelFull",
        layers__in__memory="from ..delivery import hub\nfrom . import base",
        layers__in__base="import asyncio",
    )

    assert [rule(house) for rule in RULES] == [[] for _ in RULES]


def test_a_climbing_import_is_named_with_its_line_and_both_floors(build):
    house = build(
        layers__in__memory="",
        delivery__in__hub="import asyncio\nfrom tiderace.layers import memory",
    )

    [complaint] = climbing_imports(house)

    assert complaint.startswith(
        "tiderace/delivery/hub.py:2: tiderace.delivery.hub on the delivery floor "
        "climbs to layers by importing tiderace.layers.memory"
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
def test_a_climbing_import_is_found_however_it_is_written(build, source):
    house = build(layers__in__memory="", delivery__in__hub=source)

    assert len(climbing_imports(house)) == 1


def test_wings_of_one_floor_do_not_import_each_other(build):
    house = build(auth="from tiderace.delivery import hub", delivery__in__hub="")

    [complaint] = climbing_imports(house)

    assert (
        "tiderace.auth on the porch floor crosses to its neighbour delivery"
        in complaint
    )


def test_the_front_door_imports_nothing(build):
    house = build(__init__="from tiderace.exceptions import A", exceptions="")

    assert len(climbing_imports(house)) == 1


def test_a_circle_is_told_as_a_path(build):
    house = build(sessions="from . import auth", auth="import tiderace.sessions")

    assert circles(house) == [
        "a circle of imports: tiderace.auth -> tiderace.sessions -> tiderace.auth"
    ]


def test_django_in_a_pure_room_is_refused(build):
    house = build(delivery__in__hub="from django.conf import settings")

    assert "imports django.conf" in forbidden_imports(house)[0]


def test_redis_outside_its_room_is_refused(build):
    house = build(auth="import redis.asyncio", layers__in__redis="import redis")

    [complaint] = forbidden_imports(house)

    assert "tiderace.auth imports redis; only tiderace.layers.redis, " in complaint


def test_a_drawer_is_refused(build):
    assert drawers(build(layers__in__utils=""))
    assert drawers(build(_helpers=""))


def test_a_room_without_a_floor_is_refused(build):
    assert "stands on no floor" in homeless_rooms(build(attic=""))[0]


def test_an_unexplained_import_inside_a_function_is_refused(build):
    house = build(history="def load():\n    import json")

    assert "history.py:2" in hidden_imports(house)[0]
