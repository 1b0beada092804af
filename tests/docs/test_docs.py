"""Every code block of the README and the documentation is executed or checked.

A Python block whose first line is a path (`# chat/consumers.py`) becomes that file of a
throw-away project and is imported; other Python blocks of a page share one namespace.
A block may be exempt only with a reason in a comment above it:
`<!-- not run: needs a second machine -->`.
"""

from __future__ import annotations

import configparser
import functools
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from support.pages.blocks import PAGES, Block, blocks_in, blocks_of
from support.pages.commands import complaint_about
from support.paths import ROOT
from support.servers.brokers import Server
from tiderace import conf, metrics
from tiderace.layers.redis import RedisChannelLayer

# MyST directives, which are prose or are carried out by Sphinx itself.
DIRECTIVES = {
    "{toctree}",
    "{note}",
    "{warning}",
    "{tip}",
    "{automodule}",
    "{eval-rst}",
    "{autoclass}",
}


ALL = [block for page in PAGES for block in blocks_in(page)]


def of(*languages: str) -> list[Block]:
    return [block for block in ALL if block.language in languages and not block.exempt]


# Python: each page in a process and a project of its own.


# What a page that does not say so itself takes for granted.
USUAL_SETTINGS = """
INSTALLED_APPS = ["tiderace", *INSTALLED_APPS]
ASGI_APPLICATION = "mysite.asgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}}
"""


@pytest.fixture(scope="session")
def started_project(tmp_path_factory):
    """The project that `django-admin startproject mysite` creates."""
    folder = tmp_path_factory.mktemp("startproject")
    command = [sys.executable, "-m", "django", "startproject", "mysite", str(folder)]
    subprocess.run(command, check=True, timeout=60)
    return folder


@pytest.fixture
def project(started_project, tmp_path):
    """A fresh project, for one page to write its files into."""
    return shutil.copytree(started_project, tmp_path / "site")


# The server that the pages name; it stands for the one that the tests start.
DOCUMENTED_SERVER = "redis://localhost:6379/0"


@pytest.fixture(scope="module")
def layer_server():
    """A server of these tests' own, started by the first page that needs one."""
    with ExitStack() as stack:
        started = functools.cache(lambda: stack.enter_context(Server()).url)
        yield started


def with_server(blocks: list[Block], url: Callable[[], str]) -> list[Block]:
    """The blocks, with the address of a server that runs."""
    return [
        replace(block, code=block.code.replace(DOCUMENTED_SERVER, url()))
        if DOCUMENTED_SERVER in block.code
        else block
        for block in blocks
    ]


def lay_out(blocks: list[Block], project: Path) -> None:
    """Write the blocks that are files; settings are added to, other files replaced."""
    settings = "".join(b.code for b in blocks if b.file == "mysite/settings.py")
    if "INSTALLED_APPS" not in settings:
        blocks = [
            Block("", 0, "python", f"# mysite/settings.py{USUAL_SETTINGS}"),
            *blocks,
        ]
    for block in blocks:
        if not block.file:
            continue
        path = project / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py":
            for folder in path.relative_to(project).parents[:-1]:
                (project / folder / "__init__.py").touch()
        with path.open("a" if path.name == "settings.py" else "w") as file:
            file.write("\n" + block.code)


def run_page(blocks: list[Block], project: Path) -> subprocess.CompletedProcess[str]:
    lay_out(blocks, project)
    work = [
        {
            "file": block.file,
            "code": block.code,
            "where": block.page,
            "line": block.line,
        }
        for block in blocks
        if block.language == "python"
    ]
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            str(ROOT / "tests" / "support" / "pages" / "runner.py"),
        ],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        cwd=project,
        timeout=50,
        check=False,
    )


def files_and_python_of(page: str) -> list[Block]:
    return [block for block in of("python", "html", "js") if block.page == page]


# Each part of the tutorial continues the one before: browser/guides/test_tutorial.py types them.
PAGES_ALONE = {
    block.page for block in of("python") if not block.page.startswith("docs/tutorial/")
}


@pytest.mark.parametrize("page", sorted(PAGES_ALONE))
def test_the_python_of_a_page_runs(page, project, layer_server):
    done = run_page(with_server(files_and_python_of(page), layer_server), project)

    assert done.returncode == 0, done.stdout + done.stderr


# The suite's own settings are not the project's.
OWN_SETTINGS = {
    name: value
    for name, value in os.environ.items()
    if name != "DJANGO_SETTINGS_MODULE"
}


def manage(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=project,
        env=OWN_SETTINGS,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize("page", ["README.md", "docs/guides/migrating.md"])
def test_the_project_of_a_page_passes_every_check(page, project):
    lay_out(files_and_python_of(page), project)

    done = manage(project, "check", "--fail-level", "WARNING")

    assert done.returncode == 0, done.stderr


# Commands: nothing is run, but every target, command, extra and file must exist.


def check_commands(block: Block, folder: Path) -> None:
    lines = block.code.replace("\\\n", "").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]

    complaints = [
        f"{line}: {said}" for line in lines if (said := complaint_about(line))
    ]

    assert lines, "a block of commands without a command"
    assert not complaints


# The rest must at least parse.


class Tags(HTMLParser):
    """Checks that what is opened is closed, in order."""

    EMPTY = frozenset({"input", "br", "hr", "meta", "link", "img", "source", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"


def check_html(block: Block, folder: Path) -> None:
    tags = Tags()
    tags.feed(block.code)
    tags.close()
    assert not tags.open, f"never closed: {tags.open}"


def check_javascript(block: Block, folder: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node on PATH")
    file = folder / "block.mjs"
    file.write_text(block.code)
    command = [node, "--check", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def check_json(block: Block, folder: Path) -> None:
    json.loads(block.code)


def check_toml(block: Block, folder: Path) -> None:
    tomllib.loads(block.code)


def check_ini(block: Block, folder: Path) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(block.code)


def demand_exemption(block: Block, folder: Path) -> None:
    pytest.fail(
        "nothing here can run it; say in a comment above it who does, or why not"
    )


def leave(block: Block, folder: Path) -> None:
    """Python runs page by page above; output and directives say nothing to check."""


CHECKS: dict[str, Callable[[Block, Path], None]] = {
    "bash": check_commands,
    "console": check_commands,
    "html": check_html,
    "js": check_javascript,
    "json": check_json,
    "toml": check_toml,
    "ini": check_ini,
    **dict.fromkeys(("nginx", "yaml", "dockerfile", "diff"), demand_exemption),
    **dict.fromkeys({"python", "text", *DIRECTIVES}, leave),
}


@pytest.mark.parametrize("block", ALL, ids=str)
def test_a_block_matches_its_language(block, tmp_path):
    assert block.language in CHECKS, f"nothing checks a block in {block.language!r}"

    if not block.exempt:
        CHECKS[block.language](block, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    text = re.sub(
        r"^( *)(`{3,}).*?^\1\2",
        "",
        page.read_text("utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)

    missing = [link for link in links if not (page.parent / link).exists()]

    assert not missing


SITE = "https://tiderace.readthedocs.io/en/latest/"
REPOSITORY = "https://github.com/tiderace/tiderace/blob/main/"
IMAGES = "https://raw.githubusercontent.com/tiderace/tiderace/main/"


def file_behind(link: str) -> Path:
    """The file of this repository that a link of the README shows."""
    for prefix in (REPOSITORY, IMAGES):
        if link.startswith(prefix):
            return ROOT / link.removeprefix(prefix)
    page = link.removeprefix(SITE).partition("#")[0]
    if page == "" or page.endswith("/"):
        page += "index.html"
    return ROOT / "docs" / page.replace(".html", ".md")


def test_the_readme_reads_on_pypi_too():
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\((\S+)\)", text)
    own = [link for link in links if link.startswith((SITE, REPOSITORY, IMAGES))]

    assert not [link for link in links if not link.startswith("https://")]
    assert len(own) >= 8
    assert not [link for link in own if not file_behind(link).is_file()]


def test_the_figures_of_the_readme_are_those_of_the_benchmarks():
    readme = (ROOT / "README.md").read_text("utf-8")
    quoted = re.search(
        r"processor time \| ([\d,]+) \| ([\d,]+) \|.*?"
        r"idle socket \| (\d+) KB \| (\d+) KB \|.*?back \| ([\d.]+) s \| ([\d.]+) s",
        readme,
        re.DOTALL,
    )
    own, channels = "Tiderace, its protocol", "Channels"
    measured = [
        measured_figure(title, row)
        for title in (
            FAN_OUT,
            "Resident memory per idle socket, with consumer and one group",
            "Seconds until 1,000 disconnected sockets have reconnected and received a message",
        )
        for row in (own, channels)
    ]

    assert quoted
    # The page is measured again more often than the README is written.
    assert [number(each) for each in quoted.groups()] == pytest.approx(
        measured, rel=0.25
    )


def test_the_speed_in_the_comparison_is_that_of_the_benchmarks():
    comparison = (ROOT / "docs/comparison.md").read_text("utf-8")
    quoted = re.search(
        r"processor time \| \[([\d,]+)\].*?, ([\d,]+) from a topic with history"
        r" \| ([\d,]+) \|",
        comparison,
    )
    rows = (
        "Tiderace, its protocol",
        "Tiderace, a topic with history, its protocol",
        "Channels",
    )

    assert quoted
    assert [number(each) for each in quoted.groups()] == pytest.approx(
        [measured_figure(FAN_OUT, row) for row in rows], rel=0.25
    )


FAN_OUT = "Deliveries per second of server processor time, fan-out in one process"


def measured_figure(title, row):
    """Return the first figure of a row of a table of the benchmarks."""
    benchmarks = (ROOT / "docs/project/benchmarks.md").read_text("utf-8")
    tables = dict(re.findall(r"\*\*(.+?)\*\*.*?\n\n(.*?)\n\n", benchmarks, re.DOTALL))
    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d.,]+)", tables[title], re.MULTILINE))
    return number(rows[row])


def number(text):
    return float(text.replace(",", ""))


def test_every_system_check_is_in_the_reference():
    package = ROOT / "src/tiderace"
    modules = [
        *(package / "checks").glob("*.py"),
        package / "management/commands/runserver.py",
    ]
    source = "".join(module.read_text("utf-8") for module in modules)
    page = (ROOT / "docs/reference/checks.md").read_text("utf-8")

    used = set(re.findall(r"[\"(]tiderace\.([EW]\d{3})[\")]", source))

    assert set(re.findall(r"`tiderace\.([EW]\d{3})`", page)) == used


def test_every_logger_is_in_the_reference():
    page = (ROOT / "docs/reference/log-messages.md").read_text("utf-8")
    named = {
        name
        for path in (ROOT / "src/tiderace").rglob("*.py")
        if "demo" not in path.parts
        for name in re.findall(r'getLogger\("([\w.]+)"\)', path.read_text("utf-8"))
    } - {"uvicorn.error"}

    assert not [name for name in named if f"`{name}`" not in page]


def test_every_setting_is_in_the_reference():
    page = (ROOT / "docs/reference/settings.md").read_text("utf-8")
    layer = inspect.signature(RedisChannelLayer).parameters.values()
    options = [option.name for option in layer if option.kind != option.VAR_KEYWORD]

    names = [
        *conf.Settings.__struct_encode_fields__,
        *conf.TopicSettings.__struct_encode_fields__,
        *options,
    ]

    assert not [name for name in names if f"`{name}`" not in page]


def test_every_measurement_is_in_the_reference():
    page = (ROOT / "docs/reference/metrics.md").read_text("utf-8")
    row = re.compile(r"^\| `(?!tiderace_)(\w+)` \| ([^|]+) \|", re.MULTILINE)
    rows = dict(row.findall(page))
    measured = {m.name: f"{m.kind}, {m.unit}" for m in metrics.measurements()}
    measured |= {
        counter.name: f"counter by `{counter.label}`, {counter.unit}"
        for counter in metrics.labelled_counters()
    }
    measured |= {each.name: f"histogram, {each.unit}" for each in metrics.histograms()}

    assert rows == measured


# The test of the test.


def test_a_block_has_its_line_its_language_and_its_file():
    [block] = blocks_of(
        "# Page\n\n```python\n# chat/consumers.py\nx = 1\n```\n", "p.md"
    )

    assert (str(block), block.language, block.file) == (
        "p.md:4",
        "python",
        "chat/consumers.py",
    )


def test_a_block_is_exempt_only_with_a_reason_right_above_it():
    reason = "<!-- not run: needs a printer -->"
    page = f"{reason}\n```python\na\n```\n\n{reason}\ntext\n```python\nb\n```\n"

    assert [block.exempt for block in blocks_of(page, "p.md")] == [
        "needs a printer",
        "",
    ]
    assert not blocks_of("<!-- not run: -->\n```python\na\n```", "p.md")[0].exempt


def test_a_block_that_is_never_closed_is_refused():
    with pytest.raises(ValueError, match=r"p\.md:1"):
        blocks_of("```python\nx = 1\n", "p.md")


def test_python_that_raises_is_found_with_its_line(project):
    done = run_page(blocks_of("\n```python\nx = 1\n1 / 0\n```\n", "p.md"), project)

    assert done.returncode == 1
    assert 'File "p.md", line 4' in done.stderr


def test_a_language_that_nothing_checks_is_refused(tmp_path):
    [block] = blocks_of("```cobol\nSTOP RUN.\n```\n", "p.md")

    with pytest.raises(AssertionError, match="nothing checks"):
        test_a_block_matches_its_language(block, tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        "make coffee",
        "python manage.py makecoffee",
        'python -m pip install "tiderace[coffee]"',
        "python benchmarks/coffee.py",
        "npm run coffee",
        "coffee",
    ],
)
def test_a_command_that_does_not_exist_is_found(command):
    assert complaint_about(command)


def test_every_file_that_the_design_names_exists():
    page = (ROOT / "docs/project/design.md").read_text("utf-8")
    named = set(re.findall(r"`([\w/.]+(?:\.py|/))`", page))

    places = [ROOT / "src/tiderace", ROOT]
    missing = [
        name for name in named if not any((place / name).exists() for place in places)
    ]

    assert not missing
