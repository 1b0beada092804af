"""The layer over a SQLite file while its file or its disk fails under load."""

from __future__ import annotations

import asyncio
import itertools
import secrets

import pytest

from support.contracts.process_contract import listen, publish
from support.servers.disks import locked, mounted_disk
from support.servers.postgresql import database_alias
from support.waiting import until, within
from tiderace.exceptions import LayerUnavailable


@pytest.mark.parametrize("pattern", ["layer.sqlite3*", "layer.sqlite3"])
async def test_members_get_a_gap_when_the_file_is_deleted_while_others_publish(
    make_layer, file, pattern
):
    here, there = make_layer(), make_layer()
    listener = await listen(here)

    async def keep_publishing():
        for number in itertools.count():
            await publish(there, number)

    publishing = asyncio.create_task(keep_publishing())
    await until(lambda: len(listener.received) > 50)
    for path in file.parent.glob(pattern):
        if path.is_file():
            path.unlink()

    await until(lambda: None in listener.data)
    told = len(listener.received)
    await until(lambda: len(listener.received) > told + 50)
    publishing.cancel()
    numbers = [int(each) for each in listener.data if each is not None]
    assert numbers == sorted(set(numbers))


async def test_a_full_disk_refuses_publications_until_there_is_room_again(
    make_layer, tmp_path
):
    with mounted_disk(tmp_path / "disk", "8m") as disk:
        path = disk.folder / "layer.sqlite3"
        here, there = make_layer(path=path), make_layer(path=path)
        listeners = [await listen(here), await listen(there)]
        published = []

        async def fill():
            while len(published) < 100:
                data = secrets.token_hex(200_000)
                await publish(here, data)
                published.append(data)

        with pytest.raises(LayerUnavailable, match="database or disk is full"):
            await fill()
        disk.resize("100m")
        await publish(there, "after")

        for listener in listeners:
            await until(lambda: listener.data == [*published, "after"])  # noqa: B023
            assert listener.offsets == list(range(1, len(published) + 2))
        await here.close()
        await there.close()


@pytest.fixture
def site(tmp_path):
    """The alias of a site's database; requested before a layer."""
    name = str(tmp_path / "site.sqlite3")
    settings = {"ENGINE": "django.db.backends.sqlite3", "NAME": name}
    with database_alias("site", settings) as using:
        yield using


async def test_a_transaction_of_the_site_delays_no_publication(
    site, tmp_path, make_layer
):
    layer = make_layer(using=site, path=None)
    listener = await listen(layer)

    with locked(tmp_path / "site.sqlite3"):
        await within(publish(layer, "during"), 5)
        await until(lambda: listener.data == ["during"])

    assert (tmp_path / "site.tiderace.sqlite3").exists()
