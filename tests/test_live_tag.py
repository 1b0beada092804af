"""The template tag ``{% live %}``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from django.template import Context, Template, TemplateSyntaxError
from django.test import RequestFactory, override_settings

from tiderace.exceptions import LayerUnavailable
from tiderace.templatetags import live
from tiderace.topics import History, Position, Topic, publish
from tiderace.topics.declaration.topic import UnknownTopic, declared


@pytest.fixture(autouse=True)
def topics() -> Iterator[None]:
    """Two topics, and an engine for templates."""

    class Orders(Topic):
        pattern = "orders"
        history = History(size=1, ttl=60)

    class Room(Topic):
        pattern = "room:<str:name>"
        history = History(size=1, ttl=60)

    engine = "django.template.backends.django.DjangoTemplates"
    with override_settings(TEMPLATES=[{"BACKEND": engine}]):
        yield
    declared.remove(Orders)
    declared.remove(Room)


def render(source: str, **context: Any) -> str:
    template = Template("{% load tiderace %}" + source)
    context.setdefault("request", RequestFactory().get("/shop/?page=2"))
    return template.render(Context(context))


def attributes(html: str) -> dict[str, str]:
    opening = re.match(r"<tiderace-live([^>]*)>", html)
    assert opening, html
    found = re.findall(r' ([\w-]+)="([^"]*)"', opening[1])
    return {name: unescape(value) for name, value in found}


def test_the_content_is_rendered_within_an_element() -> None:
    html = render('{% live "orders" %}<b>{{ count }}</b>{% endlive %}', count=3)

    assert html.endswith("><b>3</b></tiderace-live>")
    assert html.count("tiderace-live") == 2


def test_the_address_is_that_of_the_request() -> None:
    html = render('{% live "orders" %}{% endlive %}')

    assert attributes(html)["src"] == "/shop/?page=2"


def test_an_address_cannot_name_another_host() -> None:
    request = RequestFactory().get("/")
    request.path = "//evil.test/"

    html = render('{% live "orders" %}{% endlive %}', request=request)

    assert attributes(html)["src"] == "/%2Fevil.test/"


def test_an_address_can_be_given() -> None:
    html = render('{% live "orders" src=table %}{% endlive %}', table="/table/?a=1&b=2")

    assert attributes(html)["src"] == "/table/?a=1&b=2"


def test_without_a_request_an_address_is_required() -> None:
    source = '{% load tiderace %}{% live "orders" %}{% endlive %}'

    with pytest.raises(TemplateSyntaxError, match=r"the context has no request.*src="):
        Template(source).render(Context())


def test_the_position_is_that_before_the_content_is_rendered() -> None:
    before = publish("orders", 1)
    assert before is not None

    html = render(
        '{% live "orders" %}{{ more }}{% endlive %}', more=lambda: publish("orders", 2)
    )

    place = ["orders", before.epoch, before.offset]
    assert json.loads(attributes(html)["topics"]) == [place]


def test_positions_of_the_view_are_used() -> None:
    html = render(
        '{% live "orders" "room:a" since=places %}{% endlive %}',
        places={"orders": Position("e", 7)},
    )

    assert json.loads(attributes(html)["topics"]) == [["orders", "e", 7], ["room:a"]]


async def test_an_async_view_renders_without_positions() -> None:
    html = render('{% live "orders" %}{% endlive %}')

    assert json.loads(attributes(html)["topics"]) == [["orders"]]


def test_a_broker_that_is_away_does_not_prevent_the_page(monkeypatch, caplog) -> None:
    def away(*names: str) -> None:
        raise LayerUnavailable("no broker")

    monkeypatch.setattr(live, "positions", away)

    html = render('{% live "orders" %}text{% endlive %}')

    assert json.loads(attributes(html)["topics"]) == [["orders"]]
    assert "a page was rendered without positions: no broker" in caplog.text


def test_a_topic_may_be_a_variable() -> None:
    html = render("{% live name %}{% endlive %}", name='room:<b>"a b"')

    given = attributes(html)
    assert json.loads(given["topics"])[0][0] == 'room:<b>"a b"'
    assert given["id"] == 'live-room:<b>"a_b"'


def test_the_interval_and_the_spread_are_written() -> None:
    given = attributes(render('{% live "orders" every=0.5 spread=3 %}{% endlive %}'))
    default = attributes(render('{% live "orders" %}{% endlive %}'))

    assert (given["every"], given["spread"]) == ("0.5", "3")
    assert (default["every"], default["spread"]) == ("1", "0")


def test_two_elements_of_a_topic_need_ids_of_their_own() -> None:
    one = '{% live "orders" %}{% endlive %}'

    with pytest.raises(
        TemplateSyntaxError, match='two live elements have the id "live-o'
    ):
        render(one + one)
    assert 'id="two"' in render(one + '{% live "orders" id="two" %}{% endlive %}')


def test_elements_of_a_loop_have_ids_by_their_topics() -> None:
    source = "{% for each in rooms %}{% live each %}{% endlive %}{% endfor %}"

    html = render(source, rooms=["room:a", "room:b"])

    assert re.findall(r' id="([^"]*)"', html) == ["live-room:a", "live-room:b"]


@pytest.mark.parametrize("name", ["'orderz'", "missing"])
def test_a_topic_that_is_not_declared_is_refused(name: str) -> None:
    with pytest.raises(UnknownTopic):
        render(f"{{% live {name} %}}{{% endlive %}}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", 'live has no topic; name those that change it: {% live "orders" %}'),
        (
            "'orders' evry=2",
            "live has no option 'evry'; after the topics it takes src=",
        ),
        ("'orders' every=2 'room:a'", "live has no option \"'room:a'\""),
        ("every=2", "live has no topic"),
    ],
)
def test_a_tag_that_cannot_be_parsed_is_refused(arguments: str, words: str) -> None:
    with pytest.raises(TemplateSyntaxError) as error:
        render(f"{{% live {arguments} %}}{{% endlive %}}")

    assert words in str(error.value)


@pytest.mark.parametrize("value", ["'2'", "-1", "True", "endless"])
@pytest.mark.parametrize("name", ["every", "spread"])
def test_seconds_that_cannot_be_are_refused(name: str, value: str) -> None:
    source = f"{{% live 'orders' {name}={value} %}}{{% endlive %}}"

    with pytest.raises(
        TemplateSyntaxError, match=f"live option '{name}' is .*; give it seconds"
    ):
        render(source, endless=float("inf"))
