"""The demo without a browser: what it reads, keeps, refuses and prints.

Pure parts are tested as they are; the rest through the pages and sockets of a
real server, started the way ``make demo`` does.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.metadata import EntryPoint
from pathlib import Path

import httpx
import pytest
from django.core.exceptions import ValidationError
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from support.clients.npm_packages import script_of
from support.paths import ROOT
from support.servers.demo_process import DemoProcess
from support.servers.ports import free_port
from support.waiting import wait_until
from tiderace import __main__ as command_line
from tiderace import demo as demo_package
from tiderace.demo.chat.text import as_html, cleaned
from tiderace.demo.people.person import SEEDED, guest_name
from tiderace.demo.secret_key import load_or_create_secret_key
from tiderace.topics import topic_group

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

# Bytes: of the demo's own files, and of the libraries that its pages need.
WEIGHT = 250_000
VENDORED = 100_000


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoProcess]:
    with DemoProcess(tmp_path_factory.mktemp("demo")) as process:
        yield process
        assert "Traceback" not in process.output()


@pytest.fixture(scope="module")
def alice(demo: DemoProcess):
    visitor = demo.visitor().log_in("alice")
    yield visitor
    visitor.close()


@pytest.fixture(scope="module")
def bob(demo: DemoProcess):
    visitor = demo.visitor().log_in("bob")
    yield visitor
    visitor.close()


@pytest.fixture
def stranger(demo: DemoProcess):
    visitor = demo.visitor()
    yield visitor
    visitor.close()


# ---- names, key


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["alice", "Alice", " ALICE ", "\uff41lice", "BoB"])
def test_a_guest_cannot_take_the_name_of_a_seeded_user(name):
    with pytest.raises(ValidationError, match="belongs to a user"):
        guest_name(name)


@pytest.mark.django_db
def test_a_guest_cannot_take_the_name_of_any_other_user(django_user_model):
    django_user_model.objects.create_user("Dora")

    with pytest.raises(ValidationError, match="belongs to a user"):
        guest_name("dora")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "name", ["", "  ", "a\u200bb", "\u202egnol", "a\0b", "...", "x" * 25]
)
def test_an_invalid_guest_name_is_refused(name):
    with pytest.raises(ValidationError):
        guest_name(name)


@pytest.mark.django_db
def test_the_name_of_a_guest_is_normalized():
    assert guest_name("  Zo\u0065\u0301   van  Dijk ") == "Zo\u00e9 van Dijk"


def test_the_secret_key_is_created_once_and_readable_by_its_owner_only(tmp_path):
    path = tmp_path / "folder" / "key"

    first, second = load_or_create_secret_key(path), load_or_create_secret_key(path)

    assert first == second
    assert len(first) >= 50
    assert path.stat().st_mode & 0o077 == 0
    assert list(path.parent.iterdir()) == [path]


# ---- starting it


def test_the_terminal_shows_the_address_and_every_login(demo):
    address = demo.url + "/"

    wait_until(lambda: address in demo.output(), what="the greeting")

    said = demo.output()
    for name, password in SEEDED.items():
        assert re.search(rf"{name} +password {password}", said)


def test_a_second_seed_changes_nothing(demo):
    changed = "update auth_user set password = '!changed' where username = 'carol'"
    with sqlite3.connect(demo.folder / "demo.sqlite3") as database:
        database.execute(changed)
    database.close()

    done = demo.manage("seed")

    assert (done.returncode, done.stderr) == (0, "")
    database = sqlite3.connect(demo.folder / "demo.sqlite3")
    users = database.execute("select username from auth_user order by 1").fetchall()
    kept = database.execute(
        "select password from auth_user where username = 'carol'"
    ).fetchone()
    seeded = database.execute(
        "select count(*) from chat_room where slug in ('general', 'design', 'support')"
    ).fetchone()
    database.close()
    assert users == [
        (name,) for name in ("alice", "bob", "carol", "harbour", "marina", "otto")
    ]
    assert (kept, seeded) == (("!changed",), (3,))


def test_ctrl_c_stops_the_demo_without_a_traceback(tmp_path):
    with DemoProcess(tmp_path) as demo:
        visitor = demo.visitor()
        visitor.enter_as_guest("Lin")
        with visitor.room("general") as window:
            status = demo.interrupt()

            with pytest.raises(ConnectionClosed) as closed:
                window.until_closed()
        visitor.close()
        said = demo.output()

    assert (status, closed.value.rcvd and closed.value.rcvd.code) == (0, 1012)
    assert "Traceback" not in said


def test_a_port_in_use_is_reported_in_one_line(demo):
    second = subprocess.run(
        [sys.executable, "-m", "tiderace", "demo", "--port", str(demo.port)],
        cwd=demo.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr.count("\n") == 1
    assert f"port {demo.port}" in second.stderr
    assert "--port" in second.stderr


@pytest.mark.parametrize("missing", ["uvicorn", "websockets"])
def test_a_missing_package_is_reported_with_the_install_command(
    missing, monkeypatch, capsys
):
    found = command_line.importlib.util.find_spec
    monkeypatch.setattr(
        command_line.importlib.util,
        "find_spec",
        lambda name: None if name == missing else found(name),
    )

    status = command_line.main(["demo"])

    assert status == 1
    assert capsys.readouterr().err == (
        f"the demo needs {missing}, which is not installed; "
        "run: python -m pip install 'tiderace[demo]'\n"
    )


def test_the_console_script_runs_the_commands_without_a_project(capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    script = EntryPoint("tiderace", project["scripts"]["tiderace"], "console_scripts")

    with pytest.raises(SystemExit):
        script.load()(["--help"])

    assert capsys.readouterr().out.startswith("usage: tiderace ")


def test_the_demo_passes_all_system_checks(demo):
    checked = demo.manage("check", "--fail-level", "WARNING")

    assert checked.returncode == 0, checked.stderr


def test_the_migrations_match_the_models(demo):
    compared = demo.manage("makemigrations", "--check", "--dry-run")

    assert compared.returncode == 0, compared.stdout


def test_the_demo_stays_light():
    folder = Path(demo_package.__path__[0])
    files = [file for file in folder.rglob("*") if file.is_file()]

    sizes = {file: file.stat().st_size for file in files if file.suffix != ".pyc"}
    vendored = sum(size for file, size in sizes.items() if "vendor" in file.parts)

    assert sum(sizes.values()) - vendored < WEIGHT
    assert vendored < VENDORED


# ---- pages


@pytest.mark.parametrize(
    "path", ["/chat/", "/chat/general/", "/notify/", "/", "/chat/Not-There/"]
)
def test_visitors_without_a_session_are_sent_to_sign_in_and_back(stranger, path):
    response = stranger.http.get(path)

    assert response.url.path == "/login/"


def test_signing_in_redirects_to_the_requested_page(stranger):
    asked = stranger.http.get("/chat/general/")

    response = stranger.post(
        "/guest/", form_on=str(asked.url), name="Uma", next="/chat/general/"
    )

    assert response.url.path == "/chat/general/"


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/"])
def test_signing_in_never_redirects_to_another_site(stranger, target):
    response = stranger.post("/guest/", form_on="/login/", name="Uma", next=target)

    assert response.url.path == "/chat/"
    assert response.url.host == "127.0.0.1"


def test_a_guest_form_with_the_name_of_a_user_shows_an_error(stranger):
    response = stranger.enter_as_guest("ALICE")

    assert response.status_code == 422
    assert "That name belongs to a user" in response.text


def test_forms_without_a_csrf_token_are_refused(stranger):
    responses = [
        stranger.http.post(path, data={"name": "Eve"})
        for path in ("/guest/", "/login/")
    ]

    assert [response.status_code for response in responses] == [403, 403]


@pytest.mark.parametrize(
    "path", ["/login/", "/chat/", "/chat/general/", "/notify/", "/nowhere/"]
)
def test_every_page_has_the_content_security_policy(alice, path):
    policy = alice.http.get(path, follow_redirects=False).headers[
        "content-security-policy"
    ]

    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'self'"
    assert rules["script-src"] == "'self'"
    assert rules["style-src"] == "'self'"
    assert rules["connect-src"] == "'self'"
    assert "unsafe" not in policy


class Inline(HTMLParser):
    """Collects what a strict policy would refuse, and addresses of other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "style" or "style" in given:
            self.found.append(f"style on {tag}")
        data = given.get("type") == "application/json"
        if tag == "script" and "src" not in given and not data:
            self.found.append("inline script")
        self.found += [f"{name} on {tag}" for name in given if name.startswith("on")]
        for name in ("src", "href", "action"):
            if re.match(r"(?:[a-z]+:)?//", given.get(name) or ""):
                self.found.append(f"{tag} from {given[name]}")


@pytest.mark.parametrize(
    "path",
    [
        *("/login/", "/chat/", "/chat/general/", "/notify/", "/break-it/", "/board/"),
        *("/poll/", "/vote/", "/operations/", "/devices/", "/answers/"),
    ],
)
def test_no_page_has_inline_code_or_external_resources(alice, stranger, path):
    visitor = stranger if path == "/login/" else alice
    reader = Inline()

    reader.feed(visitor.http.get(path).text)

    assert reader.found == []


def test_stylesheets_and_scripts_use_no_other_host():
    folder = Path(demo_package.__path__[0])
    shipped = [*folder.rglob("*.css"), *folder.rglob("*.js")]

    # A comment loads nothing.
    code = {
        file: re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.DOTALL)
        for file in shipped
    }
    naming = [file.name for file in shipped if re.search(r"\w+://", code[file])]

    assert len(shipped) >= 7
    assert naming == []


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("htmx.min.js", "htmx.org/dist/htmx.min.js"),
        ("hx-sse.min.js", "htmx.org/dist/ext/hx-sse.min.js"),
        ("htmx.LICENSE", "htmx.org/LICENSE"),
        ("uPlot.iife.min.js", "uplot/dist/uPlot.iife.min.js"),
        ("uPlot.min.css", "uplot/dist/uPlot.min.css"),
        ("uPlot.LICENSE", "uplot/LICENSE"),
    ],
)
def test_a_vendored_file_is_that_of_the_package(name, package):
    vendored = Path(demo_package.__path__[0], "static/vendor", name).read_text()

    assert vendored == script_of(package)


def test_a_new_room_is_listed_and_can_be_opened(alice):
    opened = alice.post("/chat/", name="Tide & Wind")

    assert opened.url.path == "/chat/tide-wind/"
    assert "Tide &amp; Wind" in alice.http.get("/chat/").text


def test_a_room_name_without_letters_shows_an_error(alice):
    response = alice.post("/chat/", name="!!!")

    assert response.status_code == 422
    assert "at least one of the letters" in response.text


def test_viewing_a_room_does_not_create_it(alice):
    page = alice.http.get("/chat/only-looking/")

    assert page.status_code == 200
    assert "only-looking" not in alice.http.get("/chat/").text


def test_the_url_of_a_room_is_case_insensitive(alice):
    assert alice.http.get("/chat/General/").url.path == "/chat/general/"


def test_a_page_escapes_messages(alice):
    with alice.room("escaped") as window:
        window.say("</script><b>&amp;</b>", "e" * 8)

    page = alice.http.get("/chat/escaped/").text

    assert "</script><b>" not in page


@pytest.mark.parametrize(
    "app",
    ["chat", "board", "bell", "people", "breakit", "poll", "ops", "devices", "answers"],
)
def test_the_source_of_each_app_is_shown(alice, app):
    page = alice.http.get(f"/source/{app}/").text

    assert f"{app}/views.py" in page
    assert "from __future__ import annotations" in page


@pytest.mark.parametrize("app", ["auth", "nothing"])
def test_no_other_source_is_shown(alice, app):
    assert alice.http.get(f"/source/{app}/").status_code == 404


# ---- the chat


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({}, 422),
        ({"client_id": "short", "text": "x"}, 422),
        ({"client_id": "with space", "text": "x"}, 422),
        ({"client_id": "a" * 65, "text": "x"}, 422),
        ({"client_id": "aaaaaaaa\n", "text": "x"}, 422),
        ({"client_id": "a" * 8, "text": None}, 422),
        ({"client_id": "a" * 8, "text": ""}, 422),
        ({"client_id": "a" * 8, "text": " \n\0\t"}, 422),
        ({"client_id": "a" * 8, "text": "x" * 2001}, 422),
        ({"client_id": "a" * 8, "text": "", "picture": 999}, 422),
        ({"client_id": "a" * 8, "text": "", "picture": 10**30}, 422),
    ],
)
def test_an_invalid_message_is_refused_and_the_socket_stays_open(alice, data, code):
    with alice.room("bad-input") as window:
        refused = window.publish(data)
        accepted = window.say("fine", "bad-input-0001")

    assert refused["error"]["code"] == code
    assert "error" not in accepted


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (" hi \r\nyou ", "hi \nyou"),
        ("a\0b\x07c\td", "abc\td"),
        ("x" * 2000, "x" * 2000),
    ],
)
def test_a_text_is_stored_trimmed_and_without_control_characters(text, stored):
    assert cleaned(text) == stored


def test_a_lone_surrogate_is_replaced():
    assert cleaned("a\ud800b") == "a?b"


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("**a** *b* `c`", "<strong>a</strong> <em>b</em> <code>c</code>"),
        ("hi @bob", "hi <mark>@bob</mark>"),
        (
            "https://a.b/?c=1&d",
            '<a href="https://a.b/?c=1&amp;d" rel="noopener noreferrer">https://a.b/?c=1&amp;d</a>',
        ),
        ("<b onclick=x>", "&lt;b onclick=x&gt;"),
        ("javascript:alert(1)", "javascript:alert(1)"),
    ],
)
def test_markdown_becomes_html(text, html):
    assert as_html(text) == html


@pytest.mark.parametrize(
    "text",
    [
        'https://a.example/"onclick="x',
        "https://a.example/'onclick='x",
        "`<b onclick=x>`",
    ],
)
def test_markdown_adds_no_attribute_but_that_of_links(text):
    reader = Attributes()

    reader.feed(as_html(text))

    assert reader.names <= {"href", "rel"}


class Attributes(HTMLParser):
    """Collects the names of the attributes in HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {name for name, _ in attrs}


def test_a_message_reaches_the_room_with_an_id_and_its_author(alice, bob):
    with alice.room("reach") as here, bob.room("reach") as there:
        here.say("hello", "r" * 8)
        message = there.publication()

    assert message["id"] > 0
    assert (message["name"], message["guest"]) == ("alice", False)
    assert (message["client_id"], message["text"]) == ("r" * 8, "hello")


def test_the_author_of_a_message_is_that_of_the_session(bob):
    with bob.room("forged") as window:
        window.publish({"client_id": "f" * 8, "text": "x", "name": "alice"})
        message = window.publication()

    assert message["name"] == "bob"


def test_a_message_sent_twice_is_stored_and_shown_once(alice, bob):
    with alice.room("twice") as here, bob.room("twice") as there:
        here.say("once", "twice-12")
        here.say("once", "twice-12")
        here.say("other", "twice-13")
        texts = [there.publication()["text"] for _ in range(2)]

    assert texts == ["once", "other"]


def test_two_people_can_use_the_same_message_id(alice, bob):
    with alice.room("same") as here, bob.room("same") as there:
        here.say("mine", "same-id-1")
        there.say("mine", "same-id-1")
        names = [here.publication()["name"] for _ in range(2)]

    assert names == ["alice", "bob"]


@pytest.mark.parametrize(
    ("method", "arguments"), [("edit", {"text": "changed"}), ("delete", {})]
)
def test_only_the_author_may_change_a_message(alice, bob, method, arguments):
    with alice.room("own") as here, bob.room("own") as there:
        here.say("mine", f"own-{method:>08}".replace(" ", "0"))
        pk = there.publication()["id"]
        refused = there.call(method, pk=pk, **arguments)
        done = here.call(method, pk=pk, **arguments)
        change = there.publication()

    assert refused["error"]["code"] == 403
    assert "error" not in done
    assert change["event"] in ("updated", "deleted")


def test_a_reaction_is_counted_once_for_each_person(alice, bob):
    with alice.room("react") as here, bob.room("react") as there:
        here.say("nice", "react-0001")
        pk = here.publication()["id"]
        for window in (here, there, there):
            window.call("react", pk=pk, reaction="🎉")
        counts = [len(here.publication()["reactions"]["🎉"]) for _ in range(3)]
        refused = here.call("react", pk=pk, reaction="<b>")

    assert counts == [1, 2, 1]
    assert refused["error"]["code"] == 422


def test_earlier_messages_are_returned_in_pages(alice):
    with alice.room("earlier") as window:
        for number in range(45):
            window.say(f"line {number}", f"earlier-{number:04}")
        newest = [window.publication() for _ in range(45)][-1]
        page = window.call("before", pk=newest["id"])["rpc"]["data"]

    assert [each["text"] for each in page] == [f"line {n}" for n in range(4, 44)]


def test_a_picture_is_returned_byte_for_byte(alice, bob):
    data = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 300
    token = alice.http.cookies["tiderace_demo_csrf"]
    stored = alice.http.post(
        "/pictures/",
        content=data,
        headers={"X-CSRFToken": token, "Content-Type": "image/png"},
    )
    with alice.room("pictures") as window:
        window.publish({"client_id": "p" * 8, "picture": stored.json()["id"]})
        address = window.publication()["picture"]

    response = bob.http.get(address)

    assert (response.content, response.headers["content-type"]) == (data, "image/png")
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"<svg onload=alert(1)>", 415), (b"GIF8" + bytes(5 << 20), 413)],
)
def test_a_file_that_is_no_picture_or_too_large_is_refused(alice, data, status):
    token = alice.http.cookies["tiderace_demo_csrf"]

    response = alice.http.post(
        "/pictures/", content=data, headers={"X-CSRFToken": token}
    )

    assert response.status_code == status


def test_a_room_for_staff_is_closed_to_others(alice):
    page = alice.http.get("/chat/bridge/").text
    with alice.socket() as window:
        window.ask(connect={})
        refused = window.ask(subscribe={"channel": "chat:bridge"})

    assert refused["error"]["code"] == 103
    assert '"messages": []' in page


def test_unread_messages_and_mentions_are_counted_in_the_list_of_rooms(alice, bob):
    with alice.room("unread") as here, bob.room("unread") as there:
        here.say("first", "unread-0001")
        there.call("read", pk=there.publication()["id"])
        here.say("second", "unread-0002")
        here.say("third, @bob", "unread-0003")
    page = bob.http.get("/chat/").text.partition('data-room="unread"')[2]

    assert re.findall(r">(@?\d+)</span>", page)[:2] == ["@1", "2"]


@pytest.mark.parametrize("pk", [0, -1, 2**63, 10**30])
def test_a_message_that_cannot_be_is_marked_as_read_without_an_error(alice, pk):
    with alice.room("marks") as window:
        window.say("first", "marks-000001")
        assert "error" not in window.call("read", pk=pk)


def test_a_socket_without_a_session_is_refused(stranger):
    with stranger.socket() as window:
        refused = window.ask(connect={})

    assert refused["error"] == {"code": 401, "message": "sign in first"}


def test_a_page_of_another_site_cannot_open_a_socket(alice):
    elsewhere = alice.socket(origin="https://evil.example")

    with pytest.raises(InvalidStatus) as refused, elsewhere:
        pass

    assert refused.value.response.status_code == 403


def test_logging_out_closes_the_sockets_of_that_session_only(demo):
    leaving, staying = demo.visitor(), demo.visitor()
    leaving.enter_as_guest("Pia")
    staying.enter_as_guest("Quin")
    with leaving.room("out") as gone, staying.room("out") as here:
        leaving.post("/logout/", form_on="/chat/")
        with pytest.raises(ConnectionClosed):
            gone.until_closed()
        here.say("still here", "out-00001")
        said = here.publication()["text"]
    leaving.close()
    staying.close()

    assert said == "still here"


# ---- the board


def hang_up(window, text, client_id):
    """Add a note; return its publication."""
    window.publish({"client_id": client_id, "text": text})
    while (change := window.publication())["fields"]["client_id"] != client_id:
        pass
    return change


def test_the_author_of_a_note_is_the_user_of_the_session(bob):
    with bob.topic("board:main") as window:
        draft = {"client_id": "forged-note", "text": "x", "author": "alice"}
        window.publish(draft)
        note = window.publication()

    assert note["fields"]["author"] == "bob"


def test_a_note_sent_twice_is_stored_once(bob):
    with bob.topic("board:main") as window:
        window.publish({"client_id": "note-twice", "text": "once"})
        window.publish({"client_id": "note-twice", "text": "once"})
        hang_up(window, "other", "note-other")
    page = bob.http.get("/board/").text

    assert page.count('<p class="text" dir="auto">once</p>') == 1


def test_the_text_of_a_note_that_another_person_edits_is_locked(alice, bob):
    with alice.topic("board:main") as here, bob.topic("board:main") as there:
        pk = hang_up(here, "mine", "note-lock")["pk"]
        here.call("lock", pk=pk)
        calls = [("edit", {"text": "y"}), ("remove", {}), ("lock", {}), ("unlock", {})]
        refused = [there.call(name, pk=pk, **more)["error"] for name, more in calls]
        moved = there.call("move", pk=pk, column="done")
        here.call("edit", pk=pk, text="changed")
        removed = there.call("remove", pk=pk)

    assert [(error["code"], error["message"]) for error in refused] == [
        (423, "alice is editing this note")
    ] * 4
    assert "error" not in moved
    assert "error" not in removed


def test_each_change_of_a_note_has_a_larger_version(alice):
    with alice.topic("board:main") as window:
        pk = hang_up(window, "counted", "note-version")["pk"]
        for column in ("doing", "done"):
            window.call("move", pk=pk, column=column)
        changes = [window.publication()["fields"] for _ in range(2)]

    assert [(each["version"], each["column"]) for each in changes] == [
        (2, "doing"),
        (3, "done"),
    ]


# ---- the poll


def test_a_vote_for_an_option_of_a_closed_question_is_refused(demo, alice, stranger):
    stranger.http.get("/vote/")
    page = stranger.http.get("/vote/ballot/").text
    option = re.findall(r'name="option" value="(\d+)"', page)[0]
    accepted = stranger.post("/vote/", option=option)
    question = re.findall(
        r'name="question" value="(\d+)"', alice.http.get("/poll/").text
    )
    alice.post("/poll/close/", form_on="/poll/", question=question[0])
    refused = stranger.post("/vote/", option=option)

    assert (accepted.status_code, accepted.url.path) == (200, "/vote/")
    assert refused.status_code == 404
    assert "1 vote, closed" in stranger.http.get("/poll/results/").text


@pytest.mark.parametrize("option", ["", "no", "1.5", "9" * 30, "-1"])
def test_a_vote_for_what_is_no_option_is_refused(stranger, option):
    assert stranger.post("/vote/", option=option).status_code == 404


@pytest.mark.parametrize("options", ["one", "same\nsame", "x" * 61 + "\ny", "1\n" * 7])
def test_a_question_without_two_to_six_short_options_is_refused(alice, options):
    refused = alice.post("/poll/", text="Which?", options=options)

    assert refused.status_code == 422


# ---- notifications


def test_the_bell_of_another_user_is_forbidden(alice):
    with alice.socket() as window:
        window.ask(connect={})
        codes = [
            window.ask(subscribe={"channel": f"bell:{pk}"}).get("error", {}).get("code")
            for pk in (1, 2)
        ]

    assert codes == [None, 103]


def test_a_mention_in_the_chat_rings_the_bell_of_that_user(alice, bob):
    with bob.topic("bell:2") as bell, alice.room("mentions") as window:
        window.say("ahoy @bob and @alice", "mention-1")
        rung = bell.publication()

    assert rung["event"] == "created"
    assert rung["fields"]["by"] == "alice in the chat"


@pytest.mark.parametrize(
    ("path", "by"), [("/notify/task/", "a Celery task"), ("/notify/", "alice")]
)
def test_a_view_and_a_task_ring_a_bell(alice, path, by):
    with alice.topic("bell:1") as bell:
        alice.post(path, form_on="/notify/", text="ding", user="1")
        rung = bell.publication()

    assert rung["fields"]["by"] == by


def test_a_rollback_rings_no_bell(alice):
    with alice.topic("bell:1") as bell:
        alice.post("/notify/rollback/", form_on="/notify/")
        alice.post("/notify/", text="after", user="1")
        rung = bell.publication()

    assert rung["fields"]["text"] == "after"
    assert "rolled back." not in alice.http.get("/chat/").text


def test_an_action_of_the_admin_rings_the_bells_of_the_selected_users(demo, bob):
    with contextlib.closing(demo.visitor()) as staff, bob.topic("bell:2") as bell:
        login = "/admin/login/?next=/admin/auth/user/"
        staff.post(login, username="harbour", password="harbour-tide")
        staff.post("/admin/auth/user/", action="ring", _selected_action="2")
        rung = bell.publication()

    assert rung["fields"]["by"] == "harbour"


# ---- the devices

REPORT = {"wave": 1.5, "temperature": 12, "battery": 80}


@pytest.fixture(scope="module")
def token(demo) -> str:
    """The token of the first device."""
    code = "from tiderace.demo.devices.tokens import token_of; print(token_of(1))"
    return demo.manage("shell", "--verbosity", "0", "-c", code).stdout.strip()


def readings(demo, device: int = 1) -> list[tuple[float]]:
    with contextlib.closing(sqlite3.connect(demo.folder / "demo.sqlite3")) as database:
        rows = "select wave from devices_reading where device_id = ? order by id"
        return database.execute(rows, [device]).fetchall()


def test_a_report_over_http_is_shown_and_stored(demo, alice, token):
    with alice.topic("devices:fleet") as page:
        response = httpx.post(
            f"{demo.url}/devices/report/",
            json={**REPORT, "wave": 2.25},
            headers={"Authorization": f"Bearer {token}"},
        )
        shown = page.publication()

    assert response.status_code == 202
    assert response.json()["interval"] in (1.0, 15.0)
    assert (shown["device"], shown["wave"]) == (1, 2.25)
    wait_until(lambda: (2.25,) in readings(demo), what="the batch of the worker")


def test_a_report_over_a_websocket_is_shown_and_stored(demo, alice, token):
    address = f"{demo.url}/devices/socket/".replace("http", "ws", 1)
    headers = {"Authorization": f"Bearer {token}"}
    with (
        alice.topic("devices:fleet") as page,
        connect(address, additional_headers=headers) as device,
    ):
        interval = json.loads(device.recv(timeout=15))
        device.send(json.dumps({**REPORT, "wave": 99}))
        refused = json.loads(device.recv(timeout=15))
        device.send(json.dumps({**REPORT, "wave": 3.5}))
        while (shown := page.publication())["wave"] != 3.5:
            pass

    assert interval["interval"] in (1.0, 15.0)
    assert "wave" in refused["error"]
    assert shown["device"] == 1
    wait_until(lambda: (3.5,) in readings(demo), what="the batch of the worker")


def test_devices_report_rarely_while_no_page_is_open(demo, alice, token):
    address = f"{demo.url}/devices/socket/".replace("http", "ws", 1)
    headers = {"Authorization": f"Bearer {token}"}
    with connect(address, additional_headers=headers) as device:
        with alice.topic("devices:fleet"):
            told = [json.loads(device.recv(timeout=15))["interval"]]
            while told[-1] != 1.0:
                told.append(json.loads(device.recv(timeout=15))["interval"])
        while told[-1] != 15.0:
            told.append(json.loads(device.recv(timeout=60))["interval"])


def test_an_alarm_begins_and_ends(demo, alice, token):
    headers = {"Authorization": f"Bearer {token}"}
    with alice.topic("devices:alarms") as page:
        changes = []
        for wave in (4.5, 1.0):
            report = {**REPORT, "wave": wave}
            httpx.post(f"{demo.url}/devices/report/", json=report, headers=headers)
            changes.append(page.publication()["fields"]["alarm"])

    assert changes == ["waves of 4.5 m", ""]


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer forged:x:y", "Basic abc"])
def test_a_device_without_its_token_is_refused(demo, header):
    headers = {"Authorization": header}
    response = httpx.post(f"{demo.url}/devices/report/", json=REPORT, headers=headers)
    address = f"{demo.url}/devices/socket/".replace("http", "ws", 1)
    with pytest.raises(InvalidStatus), connect(address, additional_headers=headers):
        pass

    assert response.status_code == 401


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"wave": "high"}', b'{"wave": 31}', b"[" * 9000, b"\xff"]
)
def test_a_body_that_is_no_report_is_refused(demo, token, body):
    headers = {"Authorization": f"Bearer {token}"}

    response = httpx.post(f"{demo.url}/devices/report/", content=body, headers=headers)

    assert response.status_code == 422


# ---- the dashboard


def test_a_new_subscriber_gets_the_last_samples_and_then_one_each_second(alice):
    with alice.topic("ops:metrics") as first:
        samples = [first.publication() for _ in range(3)]
        with alice.topic("ops:metrics") as later:
            now = later.publication()

    seconds = [each["second"] for each in samples]
    # A busy process leaves seconds out; it sends none twice.
    assert seconds == sorted(set(seconds))
    assert {each["process"] for each in samples} == {now["process"]}
    assert now["clients"] >= 1
    assert now["memory"] > 1_000_000


# ---- break it


def test_faults_that_one_process_would_not_survive_are_refused(alice):
    with alice.topic("breakit:1:abcd") as window:
        codes = [
            window.call("fault", name=name)["error"]["code"]
            for name in ("kill-worker", "roll", "cut-broker", "nothing")
        ]

    assert codes == [404] * 4


def test_the_experiment_of_another_visitor_is_forbidden(bob):
    with bob.socket() as window:
        window.ask(connect={})
        refused = window.ask(subscribe={"channel": "breakit:1:abcd"})

    assert refused["error"]["code"] == 103


# ---- the notify command


def test_the_command_reports_that_no_server_answers(demo):
    done = demo.manage("notify", "hello", "--url", f"http://127.0.0.1:{free_port()}")

    assert done.returncode == 1
    assert "python -m tiderace demo" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hello", "--user", "nobody"], "known are alice, bob, carol"),
        (["   "], "a notice has 1 to 300 characters"),
        (["x" * 301], "not 301"),
        (["hello", "--url", "ftp://127.0.0.1/"], "is not an address"),
    ],
)
def test_the_command_explains_its_refusal(demo, arguments, words):
    done = demo.manage("notify", *arguments)

    assert done.returncode == 1
    assert words in done.stderr


@pytest.mark.parametrize("body", [b"", b"hello", b"e30:forged:signature", b"\xff"])
def test_the_url_of_the_command_refuses_a_wrong_signature(demo, body):
    response = httpx.post(f"{demo.url}/notify/command/", content=body)

    assert response.status_code == 403


def test_the_command_needs_no_server_with_a_shared_layer(demo):
    done = demo.manage(
        "notify", "hello", "--user", "bob", settings="sites.demo_shared_layer"
    )

    assert (done.returncode, done.stdout) == (0, "Sent to bob.\n"), done.stderr
    assert (demo.folder / "sent").read_text() == topic_group("bell:2")
