"""Whatever happens to clients: each has everything in order, or was told of a loss."""

from __future__ import annotations

import asyncio

import pytest

from support.clients.wire_client import WireClient
from support.topics.storm import InProcess, Storm
from support.topics.storm_site import storm_site
from tiderace.topics import (
    ahistory,
    apublish,
)


@pytest.fixture(autouse=True)
def site(settings):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "tiderace.layers.InMemoryChannelLayer"}
    }
    # A client that dozes off is soon too slow.
    settings.TIDERACE = {"OUTBOX_LIMIT": 2000, "TOPICS": {"RECOVERED": 2000}}


@pytest.fixture
def app():
    with storm_site() as endpoint:
        yield endpoint


def storm(app, seed, topic):
    async def open_socket(visitor, chance):
        return InProcess(app, visitor)

    async def publish(data):
        await apublish(topic, data)

    async def end():
        position = (await ahistory(topic, limit=0)).position
        return position.epoch, position.offset

    return Storm(
        seed, topic, open_socket=open_socket, publishers=[publish, publish], end=end
    )


@pytest.mark.parametrize("seed", range(6))
async def test_no_client_loses_a_publication_that_is_kept(app, seed):
    tide = storm(app, seed, "tide:high")
    await tide.rage()

    for visitor in tide.visitors:
        assert {"recovered false", "error 112"}.isdisjoint(visitor.signals)
    # Otherwise nothing would have been tried.
    assert sum(visitor.recovered for visitor in tide.visitors) > 10


@pytest.mark.parametrize("seed", range(6))
async def test_every_loss_is_reported_to_the_client(app, seed):
    await storm(app, seed, "pool:small").rage(publications=300)


async def test_a_storm_makes_clients_lose_publications(app):
    """The tests above would show nothing if their storms were none."""
    signals = set()
    for seed in range(4):
        pool = storm(app, seed, f"pool:{seed}")
        await pool.rage(publications=300)
        signals.update(*(visitor.signals for visitor in pool.visitors))

    assert signals >= {"recovered false", "error 112", "close 3008"}


async def test_a_client_that_subscribes_under_load_gets_all_later_publications(app):
    async def publish_all():
        for n in range(1, 401):
            await apublish("tide:load", n)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publish_all())
        for _ in range(8):
            await asyncio.sleep(0)
            async with WireClient(app) as client:
                answer = await client.subscribe("tide:load")
                first = answer.get("offset", 0) + 1
                if first + 20 < 400:
                    heard = await client.publications(20)
                    assert heard == list(range(first, first + 20))


async def test_a_client_that_recovers_under_load_gets_missed_and_later_publications(
    app,
):
    async with WireClient(app) as client:
        epoch = (await client.subscribe("tide:back"))["epoch"]
        await client.done("unsubscribe", channel="tide:back")
        for n in range(1, 101):
            await apublish("tide:back", n)

        async def publish_more():
            for n in range(101, 301):
                await apublish("tide:back", n)
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(publish_more())
            answer = await client.subscribe(
                "tide:back", recover=True, offset=40, epoch=epoch
            )
            heard = [each["data"] for each in answer["publications"]]
            heard += await client.publications(300 - 40 - len(heard))

    assert answer["recovered"] is True
    assert heard == list(range(41, 301))
