"""The demo without a browser: what it reads, keeps, refuses and prints.

Pure parts are tested as they are; the rest through the pages and sockets of a
real server, started the way ``make demo`` does.
"""

from __future__ import annotations

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

from support.demo_process import DemoProcess
from support.paths import ROOT
from support.ports import free_port
from support.waiting import wait_until
from tiderace import __main__ as command_line
from tiderace import demo as demo_package
from tiderace.demo.chat import frames
from tiderace.demo.chat.presence import RoomPresence
from tiderace.demo.people.person import SEEDED, Person, guest_name
from tiderace.demo.secret_key import load_or_create_secret_key

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

WEIGHT = 300_000
ALICE = Person("user-1", "alice", guest=False)
BOB = Person("user-2", "bob", guest=False)

# A message copied 230 times, as if so much had been said since.
FILL = """
insert into chat_message (room_id, author, name, guest, client_id, text, sent_at)
with recursive copy(n) as (select 1 union all select n + 1 from copy where n < 230)
select room_id, author, name, guest, client_id || n, text, sent_at
from chat_message join copy where id = ?
"""


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


# ---- frames: what a page may say


def test_a_message_is_read_with_its_id_and_its_text_trimmed():
    frame = frames.read({"type": "message", "id": "abcd-1234", "text": " hi \r\nyou "})

    assert (frame["id"], frame["text"]) == ("abcd-1234", "hi \nyou")


def test_control_characters_are_removed_from_a_text():
    frame = frames.read({"type": "message", "id": "a" * 8, "text": "a\0b\x07c\td"})

    assert (frame["id"], frame["text"]) == ("a" * 8, "abc\td")


def test_a_lone_surrogate_is_replaced():
    frame = frames.read({"type": "message", "id": "a" * 8, "text": "a\ud800b"})

    assert (frame["id"], frame["text"]) == ("a" * 8, "a?b")


def test_a_text_of_the_maximum_length_is_accepted():
    text = "x" * frames.TEXT_LENGTH

    frame = frames.read({"type": "message", "id": "a" * 8, "text": text})

    assert (frame["id"], frame["text"]) == ("a" * 8, text)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "bad-frame"),
        ([], "bad-frame"),
        ("message", "bad-frame"),
        (7, "bad-frame"),
        ({}, "bad-frame"),
        ({"type": "shout"}, "unknown-type"),
        ({"type": ["message"]}, "unknown-type"),
        ({"type": {"a": 1}}, "unknown-type"),
        ({"type": "websocket.close"}, "unknown-type"),
        ({"type": "message"}, "bad-id"),
        ({"type": "message", "id": 12345678, "text": "x"}, "bad-id"),
        ({"type": "message", "id": "short", "text": "x"}, "bad-id"),
        ({"type": "message", "id": "a" * 65, "text": "x"}, "bad-id"),
        ({"type": "message", "id": "with space", "text": "x"}, "bad-id"),
        ({"type": "message", "id": "aaaaaaaa\n", "text": "x"}, "bad-id"),
        ({"type": "message", "id": "a" * 8}, "bad-text"),
        ({"type": "message", "id": "a" * 8, "text": None}, "bad-text"),
        ({"type": "message", "id": "a" * 8, "text": ["x"]}, "bad-text"),
        ({"type": "message", "id": "a" * 8, "text": ""}, "empty"),
        ({"type": "message", "id": "a" * 8, "text": " \n\0\t"}, "empty"),
        ({"type": "message", "id": "a" * 8, "text": "x" * 2001}, "too-long"),
        ({"type": "since"}, "bad-id"),
        ({"type": "since", "id": "3"}, "bad-id"),
        ({"type": "since", "id": -1}, "bad-id"),
        ({"type": "since", "id": True}, "bad-id"),
        ({"type": "since", "id": 1.5}, "bad-id"),
        ({"type": "since", "id": 2**63}, "bad-id"),
    ],
)
def test_an_invalid_frame_is_refused_with_a_code(content, code):
    with pytest.raises(frames.FrameError) as refusal:
        frames.read(content)

    assert refusal.value.answer["code"] == code


def test_the_error_frame_contains_the_id_of_the_message():
    with pytest.raises(frames.FrameError) as refusal:
        frames.read({"type": "message", "id": "a" * 8, "text": ""})

    assert refusal.value.answer == {
        "type": "error",
        "code": "empty",
        "detail": "the message is empty",
        "client_id": "a" * 8,
    }


# ---- presence, names, key


def test_a_person_with_two_windows_joins_and_leaves_once():
    presence = RoomPresence()

    arrivals = [presence.join("r", ALICE, "w1"), presence.join("r", ALICE, "w2")]
    departures = [presence.leave("r", ALICE, "w1"), presence.leave("r", ALICE, "w2")]

    assert (arrivals, departures) == ([True, False], [False, True])


def test_the_people_of_a_room_are_listed_by_name():
    presence = RoomPresence()
    presence.join("r", BOB, "w1")
    presence.join("r", ALICE, "w2")
    presence.join("other", BOB, "w3")
    before = presence.people("r")

    presence.leave("r", BOB, "w1")

    assert (before, presence.people("r")) == ([ALICE, BOB], [ALICE])


def test_leaving_a_room_without_a_window_has_no_effect():
    assert RoomPresence().leave("r", ALICE, "w1") is False


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
    assert users == [("alice",), ("bob",), ("carol",), ("harbour",)]
    assert (kept, seeded) == (("!changed",), (3,))


def test_ctrl_c_stops_the_demo_without_a_traceback(tmp_path):
    with DemoProcess(tmp_path) as demo:
        visitor = demo.visitor()
        visitor.enter_as_guest("Lin")
        with visitor.room("general") as window:
            status = demo.interrupt()

            with pytest.raises(ConnectionClosed) as closed:
                window.until("never")
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

    weight = sum(file.stat().st_size for file in files if file.suffix != ".pyc")

    assert weight < WEIGHT


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


@pytest.mark.parametrize("path", ["/login/", "/chat/", "/chat/general/", "/notify/"])
def test_no_page_has_inline_code_or_external_resources(alice, stranger, path):
    visitor = stranger if path == "/login/" else alice
    reader = Inline()

    reader.feed(visitor.http.get(path).text)

    assert reader.found == []


def test_stylesheets_and_scripts_use_no_other_host():
    folder = Path(demo_package.__path__[0])
    shipped = [*folder.rglob("*.css"), *folder.rglob("*.js")]

    naming = [file.name for file in shipped if re.search(r"\w+://", file.read_text())]

    assert len(shipped) >= 7
    assert naming == []


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
        window.send({"type": "message", "id": "e" * 8, "text": "<b>&amp;</b>"})
        window.until("message")

    page = alice.http.get("/chat/escaped/").text

    assert "&lt;b&gt;&amp;amp;&lt;/b&gt;" in page
    assert "<b>&amp;</b>" not in page


def test_guests_cannot_send_notices(stranger):
    stranger.enter_as_guest("Gus")

    assert stranger.http.get("/notify/").url.path == "/login/"


# ---- sockets


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("", "bad-json"),
        ("{", "bad-json"),
        ("not json", "bad-json"),
        ("[" * 9_000, "bad-json"),
        ("null", "bad-frame"),
        ('{"type": "close"}', "unknown-type"),
        (b"\x00\x01", "bad-frame"),
        ('"' + "x" * 20_000 + '"', "too-long"),
        ('{"type": "message", "id": "aaaaaaaa"}', "bad-text"),
    ],
)
def test_invalid_input_gets_an_error_and_the_socket_stays_open(alice, raw, code):
    with alice.room("bad-input") as window:
        window.connection.send(raw)
        answer = window.until("error")
        after = window.before_pong()

    assert answer["code"] == code
    assert answer["detail"]
    assert after == []


def test_a_message_reaches_the_room_with_an_id_and_its_author(alice, bob):
    with alice.room("reach") as here, bob.room("reach") as there:
        here.send({"type": "message", "id": "r" * 8, "text": "hello"})
        message = there.until("message")["message"]

    assert message["id"] > 0
    assert (message["name"], message["guest"]) == ("alice", False)
    assert (message["client_id"], message["text"]) == ("r" * 8, "hello")


def test_a_message_sent_twice_is_stored_and_shown_once(alice, bob):
    frame = {"type": "message", "id": "twice-12", "text": "once"}
    with alice.room("twice") as here, bob.room("twice") as there:
        here.send(frame)
        first = here.until("message")["message"]
        here.send(frame)
        second = here.until("message")["message"]
        there.until("message")
        more = [frame for frame in there.before_pong() if frame["type"] == "message"]

    assert first == second
    assert more == []
    assert alice.http.get("/chat/twice/").text.count('data-client-id="twice-12"') == 1


def test_two_people_can_use_the_same_message_id(alice, bob):
    frame = {"type": "message", "id": "same-id-1", "text": "mine"}
    with alice.room("same") as here, bob.room("same") as there:
        here.send(frame)
        first = here.until("message")["message"]
        there.until("message")
        there.send(frame)
        second = here.until("message")["message"]

    assert (first["name"], second["name"]) == ("alice", "bob")
    assert second["id"] > first["id"]


def test_a_returning_page_gets_the_missed_messages_in_order(alice):
    with alice.room("missed") as window:
        ids = []
        for number in range(5):
            window.send({"type": "message", "id": f"missed-{number}", "text": "x"})
            ids.append(window.until("message")["message"]["id"])
    with alice.room("missed") as window:
        window.send({"type": "since", "id": ids[1]})
        missed = window.until("missed")

    told = [message["id"] for message in missed["messages"]]
    assert told == sorted(told)
    assert [one for one in told if one > ids[1]] == ids[2:]
    assert missed["gap"] is False


def test_old_messages_are_deleted_and_a_late_page_gets_a_gap(demo, alice):
    """The room is filled behind the server's back: typing so much takes a minute."""
    with alice.room("long") as window:
        window.send({"type": "message", "id": "long-first", "text": "first"})
        first = window.until("message")["message"]
        with sqlite3.connect(demo.folder / "demo.sqlite3", timeout=20) as database:
            database.execute(FILL, [first["id"]])
        database.close()
        window.send({"type": "message", "id": "long-last", "text": "last"})
        last = window.until("message")["message"]
        window.send({"type": "since", "id": first["id"]})
        missed = window.until("missed")

    assert missed["gap"] is True
    assert len(missed["messages"]) == 200
    assert missed["messages"][-1] == last
    in_template = 1
    page = alice.http.get("/chat/long/").text
    assert page.count("data-client-id=") == 200 + in_template


def test_a_socket_beyond_the_rate_gets_an_error_with_retry_after(stranger):
    stranger.enter_as_guest("Flo")
    with stranger.room("flood") as window:
        for number in range(40):
            window.send({"type": "message", "id": f"flood-{number:04}", "text": "x"})
        answer = window.until("error")

    assert answer["code"] == "too-fast"
    assert re.fullmatch(r"too many at once; go on in \d+ s", answer["detail"])
    assert answer["client_id"].startswith("flood-")
    assert 0 < answer["retry_after"] <= 1


def test_a_socket_without_a_session_is_closed_for_good(stranger):
    with stranger.socket("/ws/chat/general/") as window:
        said = window.next()
        with pytest.raises(ConnectionClosed) as closed:
            window.next()

    assert said == {"type": "signed-out"}
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4501


def test_a_page_of_another_site_cannot_open_a_socket(alice):
    elsewhere = alice.socket("/ws/chat/general/", origin="https://evil.example")

    with pytest.raises(InvalidStatus) as refused, elsewhere:
        pass

    assert refused.value.response.status_code == 403


def test_logging_out_closes_the_sockets_of_that_session_only(demo):
    leaving, staying = demo.visitor(), demo.visitor()
    leaving.enter_as_guest("Pia")
    staying.enter_as_guest("Quin")
    with leaving.room("out") as gone, staying.room("out") as here:
        leaving.post("/logout/", form_on="/chat/")
        gone.until("signed-out")
        left = here.until("people")
        while left["change"] != "left":
            left = here.until("people")
    leaving.close()
    staying.close()

    assert left["person"]["name"] == "Pia"
    assert [person["name"] for person in left["people"]] == ["Quin"]


def test_the_socket_of_notices_refuses_messages(alice):
    with alice.socket("/ws/notices/") as window:
        window.send({"type": "message", "id": "n" * 8, "text": "hello"})
        answer = window.until("error")

    assert answer["code"] == "unknown-type"


def test_typing_is_sent_to_the_others_only(alice, bob):
    with alice.room("keys") as here, bob.room("keys") as there:
        here.send({"type": "typing"})
        heard = there.until("typing")
        own = [frame["type"] for frame in here.before_pong()]

    assert heard["person"]["name"] == "alice"
    assert "typing" not in own


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

    assert (done.returncode, done.stdout) == (0, "Sent to the windows of bob.\n")
    group, message = json.loads((demo.folder / "sent.json").read_text())
    assert re.fullmatch(r"user\.\d+", group)
    assert (message["type"], message["text"]) == ("demo.notice", "hello")
