"""Growing messages as a client joins them, and their public contract on any engine."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest
from django.db import connections
from django.utils.safestring import SafeString

from support.clients.wire_client import WireClient
from support.paths import TESTS
from support.waiting import PATIENCE, until, within
from tiderace.exceptions import LayerUnavailable, MessageTooLarge
from tiderace.topics import (
    AllowAny,
    Growing,
    History,
    MessageEnded,
    Topic,
    TopicsEndpoint,
    acancel_message,
    agrow,
    ahistory,
    apublish,
)
from tiderace.topics.declaration.topic import declared
from tiderace.topics.growing import writer
from tiderace.topics.growing.records import Message, Record, State
from tiderace.topics.growing.stream import delete_records, publish_end, publish_record
from tiderace.topics.hub import close as close_hub
from tiderace.topics.hub import current

LEASE = 0.6
"""Seconds: short, because the tests wait for its end."""


def join_pub(message, pub):
    """Return a growing message after a publication, by the rule of spec/protocol.md.

    Args:
        message: as it was before, a dict; None for an unknown one.
        pub: the publication, whose tags name the message.
    """
    tags = pub["tags"]
    position = tags.get("grow_position")
    if position is None:
        data = pub["data"]
    else:
        before = message["data"]["text"]
        assert len(before.encode("utf-16-le")) // 2 == int(position), (before, pub)
        data = {**message["data"], "text": before + pub["data"]["text"]}
    return {
        "data": data,
        "state": tags["grow_state"],
        "reason": tags.get("grow_reason", ""),
        "offset": pub.get("offset", 0),
    }


class Device:
    """``async with Device(app, "room:a") as device``: a client that joins the appends."""

    def __init__(self, app, topic, **options):
        self.client = WireClient(app, **options)
        self.topic = topic
        self.messages = {}
        self.ends = []

    async def __aenter__(self):
        await self.client.__aenter__()
        await self.subscribe()
        return self

    async def subscribe(self):
        """Subscribe; what the history has is not recovered."""
        self.subscribed = await self.client.subscribe(self.topic)

    async def __aexit__(self, *error):
        await self.client.__aexit__(*error)

    async def read(self):
        """Read one push; subscribe again where it asks for that."""
        push = await self.client.push()
        if "unsubscribe" in push:
            assert push["unsubscribe"]["code"] >= 2500, push
            await self.subscribe()
        if "pub" not in push:
            return
        pub = push["pub"]
        name = (pub.get("tags") or {}).get("grow")
        if name is not None:
            self.messages[name] = join_pub(self.messages.get(name), pub)
            if "offset" in pub:
                self.ends.append(name)

    async def has(self, message, text):
        """Read until a message has this text."""
        while (
            self.messages.get(message.id, {"data": {"text": None}})["data"]["text"]
            != text
        ):
            await self.read()

    async def ended(self, message):
        """Read the publication of a message that has ended, and return the message."""
        while message.id not in self.ends:
            await self.read()
        return self.messages[message.id]

    async def cancel(self, message_id):
        """Send the command to cancel a message, and return the reply."""
        call = {"channel": self.topic, "method": "$cancel", "data": {"id": message_id}}
        return await self.client.ask("rpc", method="$call", data=call)


def declare():
    """Declare the topics of the contract, and return the endpoint's application."""

    class Room(Topic):
        pattern = "grow-room:<slug:name>"
        growing = Growing(interval=0.01, lease=LEASE, size=100_000)
        history = History(size=2, ttl=60)
        permission_classes = [AllowAny]

        async def can_cancel(self, user, message):
            return message.get("by") == user.pk

    class Bare(Topic):
        pattern = "grow-bare"
        growing = Growing(interval=0.01, lease=LEASE)
        permission_classes = [AllowAny]

    return TopicsEndpoint.as_asgi()


def person(pk):
    return SimpleNamespace(
        pk=pk, is_authenticated=True, is_active=True, is_anonymous=False
    )


class GrowingContract:
    """The contract of growing messages on every engine, within one process.

    A subclass has the fixture ``layers``: the setting ``CHANNEL_LAYERS``.
    """

    @pytest.fixture(autouse=True)
    async def app(self, settings, layers):
        settings.CHANNEL_LAYERS = layers
        before = set(declared)
        yield declare()
        await close_hub()
        for topic in set(declared) - before:
            declared.remove(topic)

    async def test_subscribers_get_the_text_as_it_grows(self, app):
        async with Device(app, "grow-room:a") as device:
            async with agrow("grow-room:a", {"by": "ai"}) as answer:
                await answer.append("Hel")
                await device.has(answer, "Hel")
                await answer.append("lo 😀")
                await device.has(answer, "Hello 😀")
                await answer.append("!")

            assert await device.ended(answer) == {
                "data": {"by": "ai", "text": "Hello 😀!"},
                "state": "finished",
                "reason": "",
                "offset": 1,
            }

    async def test_a_late_subscriber_gets_the_whole_text_in_one_message(self, app):
        async with agrow("grow-room:a", {"by": "ai"}) as answer:
            for word in ("one", "two", "three", "four"):
                await answer.append(word)
                await answer.flush()

            async with Device(app, "grow-room:a") as late:
                await late.read()

                assert late.messages[answer.id]["data"] == {
                    "by": "ai",
                    "text": "onetwothreefour",
                }
                await answer.append("five")
                await late.has(answer, "onetwothreefourfive")

    async def test_a_second_subscriber_of_a_process_gets_the_text_too(self, app):
        async with (
            Device(app, "grow-room:a") as first,
            agrow("grow-room:a") as answer,
        ):
            await answer.append("Hello")
            await first.has(answer, "Hello")

            async with Device(app, "grow-room:a") as second:
                await second.read()

                assert second.messages[answer.id]["data"]["text"] == "Hello"

    async def test_five_devices_end_byte_identical(self, app):
        text = "".join(chr(ord("a") + n % 26) * (n % 7) + "é😀" for n in range(400))
        async with Device(app, "grow-room:a") as one, Device(app, "grow-room:a") as two:
            async with agrow("grow-room:a") as answer:
                late = []
                for number, start in enumerate(range(0, len(text), 50)):
                    await answer.append(text[start : start + 50])
                    if number % 10 == 5 and len(late) < 3:
                        await answer.flush()
                        device = Device(app, "grow-room:a")
                        late.append(await device.__aenter__())
            devices = [one, two, *late]

            ends = [(await each.ended(answer))["data"]["text"] for each in devices]

            assert len(devices) == 5
            assert {each.encode() for each in ends} == {text.encode()}
            for each in late:
                await each.__aexit__()

    async def test_the_history_holds_one_entry_per_message(self, app):
        for number in range(2):
            async with agrow("grow-room:a") as answer:
                for _ in range(20):
                    await answer.append(str(number))
                    await answer.flush()

        page = await ahistory("grow-room:a")

        assert page.messages == [{"text": "0" * 20}, {"text": "1" * 20}]
        assert page.position.offset == 2

    async def test_a_subscriber_that_comes_back_recovers_what_has_ended(self, app):
        async with Device(app, "grow-room:a") as device:
            epoch = device.subscribed["epoch"]
        async with agrow("grow-room:a") as answer:
            await answer.append("Hello")

        async with WireClient(app) as again:
            result = await again.subscribe(
                "grow-room:a", recover=True, epoch=epoch, offset=0
            )

            assert result["recovered"]
            (pub,) = result["publications"]
            assert pub["data"] == {"text": "Hello"}
            assert pub["tags"] == {"grow": answer.id, "grow_state": "finished"}
            assert await again.quiet()

    async def test_more_messages_grow_than_the_history_holds(self, app):
        async with Device(app, "grow-room:a") as early:
            answers = [agrow("grow-room:a") for _ in range(5)]
            for answer in answers:
                await answer.begin()
            for number, answer in enumerate(answers):
                await answer.append(str(number))
                await answer.flush()

            async with Device(app, "grow-room:a") as late:
                for _ in answers:
                    await late.read()
                for answer in answers:
                    await answer.finish()

                for device in (early, late):
                    texts = [
                        (await device.ended(each))["data"]["text"] for each in answers
                    ]
                    assert texts == ["0", "1", "2", "3", "4"]

    async def test_a_topic_without_history_has_growing_messages(self, app):
        async with agrow("grow-bare") as answer:
            await answer.append("Hel")
            await answer.flush()
            async with Device(app, "grow-bare") as late:
                await late.has(answer, "Hel")
                await answer.append("lo")
                await answer.finish(tokens=2)
                while late.messages[answer.id]["data"].get("tokens") != 2:
                    await late.read()

                assert late.messages[answer.id] == {
                    "data": {"tokens": 2, "text": "Hello"},
                    "state": "finished",
                    "reason": "",
                    "offset": 0,
                }

    async def test_other_publications_keep_their_order_and_positions(self, app):
        async with Device(app, "grow-room:a") as device:
            async with agrow("grow-room:a") as answer:
                await answer.append("Hello")
                await answer.flush()
                await apublish("grow-room:a", {"text": "meanwhile"})
            await device.ended(answer)

            assert (await ahistory("grow-room:a")).messages == [
                {"text": "meanwhile"},
                {"text": "Hello"},
            ]
            assert device.messages[answer.id]["offset"] == 2

    async def test_fields_may_change_while_a_message_grows(self, app):
        async with Device(app, "grow-room:a") as device:
            async with agrow("grow-room:a", {"percent": 0}) as job:
                await job.append("started\n")
                await job.update(percent=50)
                await device.has(job, "started\n")
                while device.messages[job.id]["data"]["percent"] != 50:
                    await device.read()
                await job.finish(percent=100)

            assert (await device.ended(job))["data"] == {
                "percent": 100,
                "text": "started\n",
            }

    async def test_an_exception_marks_the_message_failed(self, app):
        async with Device(app, "grow-room:a") as device:
            answer = agrow("grow-room:a")
            with pytest.raises(ZeroDivisionError):
                await _divide_by_zero(answer)

            end = await device.ended(answer)

            assert (end["state"], end["data"]["text"]) == ("failed", "half of")
            assert end["reason"] == ""

    async def test_a_reason_for_a_failure_reaches_the_clients(self, app):
        async with Device(app, "grow-room:a") as device:
            async with agrow("grow-room:a") as answer:
                await answer.fail("the model is overloaded")

            end = await device.ended(answer)

            assert (end["state"], end["reason"]) == (
                "failed",
                "the model is overloaded",
            )

    async def test_a_cancelled_message_ends_the_block_without_an_error(self, app):
        async with Device(app, "grow-room:a") as device:
            async with agrow("grow-room:a") as answer:
                await answer.append("half of")
                await acancel_message("grow-room:a", answer.id)
                await asyncio.sleep(PATIENCE)  # until it is cancelled

            assert answer.state == "cancelled"
            end = await device.ended(answer)
            assert (end["state"], end["data"]["text"]) == ("cancelled", "half of")

    async def test_the_owner_of_a_message_may_cancel_it(self, app):
        async with Device(app, "grow-room:a", user=person(7)) as device:
            async with agrow("grow-room:a", {"by": 7}) as answer:
                await device.has(answer, "")
                reply = await device.cancel(answer.id)
                assert "error" not in reply
                await asyncio.sleep(PATIENCE)  # until it is cancelled

            assert (await device.ended(answer))["state"] == "cancelled"

    async def test_a_client_may_not_cancel_what_is_not_its_own(self, app):
        async with Device(app, "grow-room:a", user=person(8)) as device:
            async with agrow("grow-room:a", {"by": 7}) as answer:
                await device.has(answer, "")
                reply = await device.cancel(answer.id)

                assert reply["error"]["code"] == 103
                await answer.append("goes on")

            assert (await device.ended(answer))["state"] == "finished"

    async def test_nothing_is_cancelled_without_the_hook(self, app):
        async with (
            Device(app, "grow-bare") as device,
            agrow("grow-bare", {"by": 7}) as answer,
        ):
            await device.has(answer, "")
            reply = await device.cancel(answer.id)

            assert reply["error"]["code"] == 103

    async def test_a_message_that_does_not_grow_cannot_be_cancelled(self, app):
        async with Device(app, "grow-room:a") as device:
            reply = await device.cancel("none")

            assert reply["error"]["code"] == 400

    async def test_nothing_can_be_appended_after_the_end(self, app):
        async with agrow("grow-room:a") as answer:
            await answer.finish()

            with pytest.raises(MessageEnded):
                await answer.append("more")

        assert answer.state == "finished"

    async def test_an_id_is_not_used_again_after_its_end(self, app):
        async with agrow("grow-room:a", id="one"):
            pass

        with pytest.raises(MessageEnded):
            async with agrow("grow-room:a", id="one"):
                raise AssertionError("the block must not begin")

    async def test_of_two_writers_the_one_that_began_last_is_shown(self, app):
        async with Device(app, "grow-room:a") as device:
            first = agrow("grow-room:a", id="one")
            await first.begin()
            await first.append("first")
            await device.has(first, "first")
            async with agrow("grow-room:a", id="one") as second:
                await second.append("second")
                await device.has(second, "second")
                await until(lambda: first.ended_elsewhere)
                with pytest.raises(MessageEnded):
                    await first.append(" goes on")

            assert (await device.ended(second))["data"]["text"] == "second"
            with pytest.raises(MessageEnded):
                await first.finish()

    async def test_a_text_beyond_the_topics_size_is_refused(self, app):
        async with Device(app, "grow-room:a") as device:
            async with agrow("grow-room:a") as answer:
                await answer.append("x" * 100_000)
                with pytest.raises(MessageTooLarge, match="100000 bytes"):
                    await answer.append("y")

            assert (await device.ended(answer))["data"]["text"] == "x" * 100_000

    async def test_a_long_text_reaches_a_late_subscriber_whole(self, app):
        text = "".join(f"{number} " for number in range(12_000))
        async with agrow("grow-room:a") as answer:
            for start in range(0, len(text), 500):
                await answer.append(text[start : start + 500])
                await answer.flush()
            async with Device(app, "grow-room:a") as late:
                await late.read()

                assert late.messages[answer.id]["data"]["text"] == text

    async def test_a_writer_that_gives_no_sign_is_marked_failed(self, app):
        async with Device(app, "grow-room:a") as device:
            answer = agrow("grow-room:a")
            await answer.begin()
            await answer.append("half of")
            await device.has(answer, "half of")
            await answer._tasks.cancel()  # as a process that was killed

            end = await device.ended(answer)

            assert (end["state"], end["data"]["text"]) == ("failed", "half of")
            assert "gone" in end["reason"]
            assert len((await ahistory("grow-room:a")).messages) == 1

    async def test_a_writer_that_waits_is_not_marked_failed(self, app):
        async with Device(app, "grow-room:a") as device:
            async with agrow("grow-room:a") as answer:
                await device.has(answer, "")
                (feed,) = current()._growing._feeds.values()
                seen = feed.log.messages[answer.id].seen_at
                # Longer than the lease, by the signs that arrive.
                await until(
                    lambda: feed.log.messages[answer.id].seen_at - seen > LEASE * 1.5
                )
                await answer.append("still here")

            end = await device.ended(answer)

            assert (end["state"], end["data"]["text"]) == ("finished", "still here")

    async def test_a_writer_whose_message_another_process_ended_raises(self, app):
        async with Device(app, "grow-room:a") as device:
            answer = agrow("grow-room:a")
            with pytest.raises(MessageEnded, match="ended by another process"):
                await _stay_silent(answer)

            assert (await device.ended(answer))["state"] == "failed"

    async def test_a_process_asks_for_a_text_whose_beginning_it_lacks(self, app):
        async with agrow("grow-room:a", {"by": "ai"}) as answer:
            await answer.append("Hello")
            await answer.flush()
            await delete_records(declared.resolve("grow-room:a"))

            async with Device(app, "grow-room:a") as late:
                await answer.append(" there")
                await late.has(answer, "Hello there")

                assert late.messages[answer.id]["data"]["by"] == "ai"

    async def test_an_end_that_was_not_published_is_published_by_another_process(
        self, app, monkeypatch
    ):
        async with Device(app, "grow-room:a") as device:
            answer = agrow("grow-room:a")
            await answer.begin()
            await answer.append("Hello")
            monkeypatch.setattr(writer, "publish_end", _break_off)
            with pytest.raises(LayerUnavailable):
                await answer.finish(tokens=1)

            assert (await device.ended(answer))["data"] == {
                "tokens": 1,
                "text": "Hello",
            }
            assert device.messages[answer.id]["state"] == "finished"

    async def test_a_published_end_counts_although_its_records_are_not_deleted(
        self, app, monkeypatch
    ):
        answer = agrow("grow-room:a")
        await answer.begin()
        answer._shared_at = float("-inf")
        monkeypatch.setattr(writer, "delete_records", _break_off)

        await answer.finish()

        assert answer.state == "finished"
        assert len((await ahistory("grow-room:a")).messages) == 1

    async def test_an_end_may_be_tried_again(self, app, monkeypatch):
        async with Device(app, "grow-room:a") as device:
            answer = agrow("grow-room:a")
            await answer.begin()
            with monkeypatch.context() as broken:
                broken.setattr(writer, "publish_end", _break_off)
                with pytest.raises(LayerUnavailable):
                    await answer.finish()
            await answer.finish()

            assert (await device.ended(answer))["state"] == "finished"
            assert len((await ahistory("grow-room:a")).messages) == 1

    async def test_an_end_whose_reply_was_lost_may_be_tried_again(
        self, app, monkeypatch
    ):
        async def publish_and_lose_the_reply(*arguments):
            await publish_end(*arguments)
            raise LayerUnavailable("the reply was lost")

        async with Device(app, "grow-room:a") as device:
            answer = agrow("grow-room:a")
            await answer.begin()
            with monkeypatch.context() as broken:
                broken.setattr(writer, "publish_end", publish_and_lose_the_reply)
                with pytest.raises(LayerUnavailable):
                    await answer.finish()
            await answer.finish()

            assert answer.state == "finished"
            assert (await device.ended(answer))["state"] == "finished"
            assert len((await ahistory("grow-room:a")).messages) == 1

    async def test_a_message_that_was_ended_elsewhere_cannot_be_ended_again(self, app):
        answer = agrow("grow-room:a")
        await answer.begin()
        other = Message(Record(answer.id, answer.token, data={}))
        other.state = State.FAILED
        await publish_record(
            answer._topic, Record(answer.id, answer.token, state=State.FAILED)
        )
        await publish_end(answer._topic, other)

        with pytest.raises(MessageEnded):
            await answer.finish()

    async def test_text_of_a_subclass_is_appended_as_a_plain_one(self, app):
        async with agrow("grow-room:a") as answer:
            await answer.append(SafeString("Hi"))

        (message,) = (await ahistory("grow-room:a")).messages
        assert message["text"] == "Hi"

    async def test_tags_that_are_no_strings_are_refused(self, app):
        with pytest.raises(
            TypeError, match="'part' of 'grow-room:a' is 1, not a string"
        ):
            agrow("grow-room:a", tags={"part": 1})

    async def test_tags_are_sent_with_all_of_a_message(self, app):
        async with Device(app, "grow-room:a") as device:
            async with agrow("grow-room:a", tags={"lang": "en"}) as answer:
                await answer.append("Hi")
                pushes = [await device.client.push("pub") for _ in range(2)]
            pushes.append(await device.client.push("pub"))

            assert {each["pub"]["tags"]["lang"] for each in pushes} == {"en"}
            assert {each["pub"]["tags"]["grow"] for each in pushes} == {answer.id}


async def _break_off(*arguments):
    raise LayerUnavailable("the broker is away")


async def _divide_by_zero(answer):
    async with answer:
        await answer.append("half of")
        1 / 0  # noqa: B018


async def _stay_silent(answer):
    async with answer:
        await answer._tasks.cancel()  # as a loop that was blocked
        await asyncio.sleep(PATIENCE)  # until it is ended


class WriterProcess:
    """``async with WriterProcess(layers) as writer``: a process that writes "one".

    Args:
        layers: its setting ``CHANNEL_LAYERS``.
        sync: whether sync code writes it.
        silent: whether it appends nothing to "one-1", and so on after each cancellation.
    """

    id = "one"

    def __init__(self, layers, *, sync=False, silent=False, by=None):
        used = {alias: connections.databases[alias] for alias in _aliases(layers)}
        task = {
            "id": self.id,
            "layers": layers,
            "databases": {name: _plain(each) for name, each in used.items()},
            "data": {} if by is None else {"by": by},
            "sync": sync,
            "silent": silent,
        }
        self._arguments = json.dumps(task, default=str)

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(TESTS / "support" / "contracts" / "growing_writer.py"),
            self._arguments,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(TESTS)},
        )
        assert await self.line() == "begun"
        return self

    async def __aexit__(self, *error):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    async def line(self):
        """Return the next line that it prints."""
        return (await within(self.process.stdout.readline())).decode().strip()


def _aliases(layers):
    using = layers["default"].get("CONFIG", {}).get("using")
    return [using] if using else []


def _plain(database):
    return {
        name: value
        for name, value in database.items()
        if isinstance(value, str | int | float | bool | dict) and name != "TEST"
    }


class GrowingProcessContract(GrowingContract):
    """The contract of growing messages between processes, on engines that connect them."""

    async def test_a_message_of_a_killed_process_is_marked_failed(self, app, layers):
        async with Device(app, "grow-room:a") as device:
            async with WriterProcess(layers) as writer:
                while (
                    len(device.messages.get(writer.id, _NOTHING)["data"]["text"]) < 40
                ):
                    await device.read()
                writer.process.kill()
                await writer.process.wait()
            end = await device.ended(writer)

            assert end["state"] == "failed"
            assert end["data"]["text"].startswith("0 1 2 3 4 5 ")
            assert (await ahistory("grow-room:a")).messages == [end["data"]]

    async def test_a_message_of_a_killed_process_is_ended_for_a_later_subscriber(
        self, app, layers
    ):
        async with WriterProcess(layers) as writer:
            writer.process.kill()
            await writer.process.wait()

        async with Device(app, "grow-room:a") as device:
            assert (await device.ended(writer))["state"] == "failed"

    async def test_five_devices_of_two_processes_see_one_end(self, app, layers):
        devices = []
        async with WriterProcess(layers, by=7) as writer, AsyncExitStack() as stack:
            for _ in range(5):
                device = Device(app, "grow-room:a", user=person(7))
                devices.append(await stack.enter_async_context(device))
                text = device.messages.get(writer.id, _NOTHING)["data"]["text"]
                while len(text) < 20:
                    await device.read()
                    text = device.messages[writer.id]["data"]["text"]
            await devices[0].cancel(writer.id)

            ends = [await each.ended(writer) for each in devices]

            assert {each["state"] for each in ends} == {"cancelled"}
            assert len({each["data"]["text"].encode() for each in ends}) == 1

    @pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
    async def test_a_client_cancels_a_message_of_another_process(
        self, app, layers, sync
    ):
        async with Device(app, "grow-room:a", user=person(7)) as device:
            async with WriterProcess(layers, by=7, sync=sync) as writer:
                await device.read()
                await device.cancel(writer.id)

                assert await writer.line() == "cancelled"

            assert (await device.ended(writer))["state"] == "cancelled"

    async def test_a_cancellation_takes_at_most_100_ms_to_another_process(
        self, app, layers
    ):
        durations = []
        async with (
            WriterProcess(layers, by=7, silent=True) as writer,
            Device(app, "grow-room:a", user=person(7)) as device,
        ):
            for number in range(1, 6):
                while f"one-{number}" not in device.messages:
                    await device.read()
                started = time.perf_counter()
                await device.cancel(f"one-{number}")
                assert await writer.line() == "cancelled"
                durations.append(time.perf_counter() - started)
                assert await writer.line() == "begun"

        assert sorted(durations)[2] < 0.1, durations


_NOTHING = {"data": {"text": ""}}
