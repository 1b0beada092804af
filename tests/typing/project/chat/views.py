"""The functions of ``tiderace.topics``, with the types of their results."""

from __future__ import annotations

from typing import Any, assert_type

from django.http import HttpRequest, HttpResponse

from chat.topics import Line
from tiderace.topics import (
    HistoryPage,
    Position,
    PresenceInfo,
    ahistory,
    apresence,
    apublish,
    asend_to,
    disconnect,
    history,
    positions,
    presence,
    presence_stats,
    publish,
    send_to,
    subscribe,
)


def say(request: HttpRequest) -> HttpResponse:
    assert_type(publish("room:tea", {"text": "hi"}), Position | None)
    page = history("room:tea", limit=10)
    assert_type(page, HistoryPage)
    assert_type(page.messages, list[Any])
    assert_type(presence("room:tea"), list[PresenceInfo])
    clients, users = presence_stats("room:tea")
    assert_type((clients, users), tuple[int, int])
    assert_type(positions("room:tea"), dict[str, Position])
    send_to(request.user, {"mail": 1})
    subscribe(request.user, "room:tea")
    disconnect(request.user, code=3500, reason="banned")
    return HttpResponse(str(clients))


async def asay(request: HttpRequest) -> HttpResponse:
    said = await apublish("room:tea", Line("hi", "alice"), key="1")
    assert_type(said, Position | None)
    assert_type(await ahistory("room:tea", reverse=True), HistoryPage)
    members = await apresence("room:tea")
    assert_type([member.user_id for member in members], list[str])
    assert_type(members[0], PresenceInfo)
    await asend_to(1, "hi")
    return HttpResponse()
