"""Tests of the template tags."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django
import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.template import Context, Template, TemplateSyntaxError
from django.test import RequestFactory, override_settings
from django.urls.base import get_script_prefix, set_script_prefix
from django.utils.functional import SimpleLazyObject

import tiderace
from support.paths import ROOT
from tiderace.topics import History, Position, Topic, publish
from tiderace.topics.declaration.topic import declared

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("site")


@pytest.fixture
def site() -> Iterator[None]:
    """A site that renders templates and serves static files."""
    engine = "django.template.backends.django.DjangoTemplates"
    with override_settings(TEMPLATES=[{"BACKEND": engine}], STATIC_URL="/static/"):
        yield


def render(source: str, **context: Any) -> str:
    return Template("{% load tiderace %}" + source).render(Context(context))


@contextmanager
def override_script_prefix(prefix: str) -> Iterator[None]:
    before = get_script_prefix()
    set_script_prefix(prefix)
    try:
        yield
    finally:
        set_script_prefix(before)


def config(html: str) -> dict[str, Any]:
    match = re.search(
        r'<script id="tiderace-config" type="application/json">(.*?)</script>', html
    )
    assert match, html
    settings: dict[str, Any] = json.loads(match[1])
    return settings


class FalseUntilRead(SimpleLazyObject):
    """A nonce as Django 6 and django-csp make it: false until it was needed."""

    def __init__(self) -> None:
        super().__init__(lambda: "bm9uY2U=")

    def __bool__(self) -> bool:
        return False


def test_the_script_is_a_module_at_the_static_url() -> None:
    html = render("{% tiderace_script %}")

    assert '<script type="module" src="/static/tiderace/tiderace.js"></script>' in html


def test_a_script_without_options_has_empty_settings() -> None:
    assert config(render("{% tiderace_script %}")) == {}


def test_addresses_are_below_the_script_name() -> None:
    with override_script_prefix("/shop/"):
        html = render("{% tiderace_script base='/ws/' %}")
        elsewhere = render(
            "{% tiderace_script base='wss://other.test/' topics='/shop/live/' %}"
        )

    assert config(html) == {"base": "/shop/ws/", "topics": "/shop/connection/"}
    assert config(elsewhere) == {"base": "wss://other.test/", "topics": "/shop/live/"}


def test_options_reach_the_client_under_their_javascript_names() -> None:
    html = render(
        "{% tiderace_script base='/ws/' min_delay=0.2 max_delay=5 max_attempts=3 "
        "stable_after=1 connect_timeout=4 heartbeat=25 heartbeat_timeout=6 "
        "heartbeat_message='hi' retry_on=codes queue_limit=9 queue_size=1000 "
        "when_full='drop-oldest' %}",
        codes=[4408],
    )

    assert config(html) == {
        "base": "/ws/",
        "minDelay": 0.2,
        "maxDelay": 5,
        "maxAttempts": 3,
        "stableAfter": 1,
        "connectTimeout": 4,
        "heartbeat": 25,
        "heartbeatTimeout": 6,
        "heartbeatMessage": "hi",
        "retryOn": [4408],
        "queueLimit": 9,
        "queueSize": 1000,
        "whenFull": "drop-oldest",
    }


def test_every_option_of_the_tag_exists_in_the_client() -> None:
    from tiderace.templatetags.tiderace import _OPTIONS

    path = finders.find("tiderace/tiderace.js")
    assert isinstance(path, str)
    built = Path(path).read_text(encoding="utf-8")

    for name, _ in _OPTIONS.values():
        assert re.search(rf"\b{name}:", built), name


def test_every_option_of_the_tag_is_in_the_guides_table() -> None:
    from tiderace.templatetags.tiderace import _OPTIONS

    path = ROOT / "docs/guides/browser-socket.md"
    guide = path.read_text(encoding="utf-8")

    for name, (client_name, _) in _OPTIONS.items():
        assert f"| `{client_name}` | `{name}`" in guide


def test_an_option_of_none_is_omitted() -> None:
    assert config(render("{% tiderace_script max_attempts=None %}")) == {}


def test_the_error_for_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(TemplateSyntaxError, match=r"no option 'heart_beat'.*heartbeat"):
        render("{% tiderace_script heart_beat=25 %}")


@pytest.mark.parametrize(
    "argument",
    [
        "heartbeat='25'",
        "heartbeat=True",
        "heartbeat=-1",
        "max_delay=endless",
        "when_full='explode'",
        "base=7",
        "retry_on=4401",
    ],
)
def test_an_invalid_value_of_an_option_is_refused(argument: str) -> None:
    name = argument.partition("=")[0]

    with pytest.raises(TemplateSyntaxError, match=f"option '{name}' is "):
        render(f"{{% tiderace_script {argument} %}}", endless=float("inf"))


def test_settings_cannot_end_their_element() -> None:
    evil = "</script><script>alert(1)</script>"

    html = render("{% tiderace_script base=evil %}", evil=evil)

    assert html.count("<script") == 2
    assert config(html) == {"base": evil}


def test_without_a_nonce_no_attribute_is_written() -> None:
    assert "nonce" not in render("{% tiderace_script %}{% tiderace_importmap %}")


def test_an_explicit_nonce_is_written_escaped() -> None:
    html = render("{% tiderace_script nonce=value %}", value='a"b')

    assert 'nonce="a&quot;b"' in html


@pytest.mark.parametrize("tag", ["tiderace_script", "tiderace_importmap"])
def test_djangos_lazy_nonce_is_used_although_it_is_false_until_read(
    tag: str,
) -> None:
    html = render(f"{{% {tag} %}}", csp_nonce=FalseUntilRead())

    assert 'nonce="bm9uY2U="' in html


@pytest.mark.parametrize("tag", ["tiderace_script", "tiderace_importmap"])
def test_the_nonce_of_django_csp_is_read_from_the_request(tag: str) -> None:
    request = RequestFactory().get("/")
    request.csp_nonce = FalseUntilRead()  # type: ignore[attr-defined]

    assert 'nonce="bm9uY2U="' in render(f"{{% {tag} %}}", request=request)


if django.VERSION >= (6, 0):

    def test_the_nonce_equals_that_in_the_header_of_djangos_middleware() -> None:
        from django.http import HttpRequest, HttpResponse
        from django.middleware.csp import ContentSecurityPolicyMiddleware
        from django.template.context_processors import csp
        from django.utils.csp import CSP

        def view(request: HttpRequest) -> HttpResponse:
            return HttpResponse(render("{% tiderace_script %}", **csp(request)))

        with override_settings(SECURE_CSP={"script-src": [CSP.NONCE]}):
            middleware = ContentSecurityPolicyMiddleware(view)
            response = middleware(RequestFactory().get("/"))

        policy = response["Content-Security-Policy"]
        nonce = re.search(r"'nonce-(.+?)'", policy)
        assert nonce, policy
        assert f'nonce="{nonce[1]}"' in response.content.decode()


def test_an_explicit_nonce_takes_precedence_over_that_of_the_request() -> None:
    html = render("{% tiderace_script nonce='mine' %}", csp_nonce="theirs")

    assert 'nonce="mine"' in html
    assert "theirs" not in html


def test_the_importmap_maps_tiderace_to_the_client() -> None:
    html = render("{% tiderace_importmap %}")

    assert html == (
        '<script type="importmap">'
        '{"imports": {"tiderace": "/static/tiderace/tiderace.js", '
        '"tiderace/grow": "/static/tiderace/grow.js", '
        '"tiderace/stream": "/static/tiderace/stream.js"}}</script>'
    )


def test_entries_of_the_page_are_merged_into_the_importmap() -> None:
    html = render("{% tiderace_importmap extra %}", extra={"app/": "/static/app/"})

    assert '"app/": "/static/app/"' in html
    assert '"tiderace": "/static/tiderace/tiderace.js"' in html


def test_entries_of_the_importmap_cannot_end_their_element() -> None:
    html = render("{% tiderace_importmap extra %}", extra={"x": "</script><b>&"})

    assert html.count("<") == 2
    text = html.removeprefix('<script type="importmap">').removesuffix("</script>")
    assert json.loads(text)["imports"]["x"] == "</script><b>&"


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[Path]:
    """The static files collected under names that carry their hash."""
    backend = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
    with override_settings(
        INSTALLED_APPS=["django.contrib.staticfiles", "tiderace"],
        STATIC_ROOT=str(tmp_path),
        STORAGES={"staticfiles": {"BACKEND": backend}},
    ):
        call_command("collectstatic", interactive=False, verbosity=0)
        yield tmp_path


def test_the_tag_writes_the_hashed_name_of_a_manifest(manifest: Path) -> None:
    html = render("{% tiderace_script %}")

    match = re.search(r'src="/static/(tiderace/tiderace\.[0-9a-f]{12}\.js)"', html)
    assert match, html
    assert (manifest / match[1]).is_file()


def test_the_map_of_a_hashed_script_resolves(manifest: Path) -> None:
    (script,) = manifest.glob("tiderace/tiderace.????????????.js")

    last = script.read_text(encoding="utf-8").splitlines()[-1]
    name = last.removeprefix("//# sourceMappingURL=")

    assert re.fullmatch(r"tiderace\.js\.[0-9a-f]{12}\.map", name), name
    assert json.loads((script.parent / name).read_text(encoding="utf-8"))["mappings"]


def test_the_page_contains_positions_for_the_first_subscription() -> None:
    html = render(
        "{% tiderace_positions positions %}",
        positions={"room:<a>": Position("e", 7)},
    )

    match = re.fullmatch(
        r'<script id="tiderace-positions" type="application/json">(.*)</script>', html
    )
    assert match
    assert "<a>" not in match[1]
    assert json.loads(match[1]) == {"positions": {"room:<a>": ["e", 7]}}


def test_a_topic_named_in_the_template_is_looked_up() -> None:
    class Anywhere(Topic):
        pattern = "anywhere"
        history = History()

    try:
        at = publish("anywhere", 1)
        html = render('{% tiderace_positions "anywhere" %}')
    finally:
        declared.remove(Anywhere)

    assert at is not None
    assert json.dumps([at.epoch, at.offset]) in html


def test_the_client_reads_the_settings_of_a_script_only():
    client = Path(tiderace.__file__).parent / "static/tiderace/tiderace.js"

    assert re.search(r"querySelector\([`\"']script#", client.read_text("utf-8"))
    assert "getElementById" not in client.read_text("utf-8")
