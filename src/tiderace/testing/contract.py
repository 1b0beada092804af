"""The contract of a channel layer as tests, for our layers and for yours.

    from tiderace.testing.contract import LayerContract

    class TestMyLayer(LayerContract):
        @pytest.fixture
        def make_layer(self, broker):
            return lambda **options: MyLayer(broker, **options)

        @pytest.fixture
        async def layer(self, make_layer):
            layer = make_layer()
            yield layer
            await layer.close()

        async def advance(self, seconds):
            await broker.let_time_pass(seconds)

It knows a layer by its public methods alone. It needs pytest with an asyncio plugin in
automatic mode (``asyncio_mode = "auto"``) to run, but nothing to be imported.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from enum import Enum
from typing import Any

from asgiref.sync import async_to_sync
from django.apps import apps
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy

from tiderace.delivery.mailbox import Lane, Mailbox
from tiderace.exceptions import ChannelFull

__all__ = ["LayerContract", "LocalDeliveryContract"]

MakeLayer = Callable[..., Any]

_LEGAL_GROUPS = ("a", "Z", "0", "room-1", "room_1", "room.1", ".", "-", "x" * 99)
_LEGAL_CHANNELS = (
    *_LEGAL_GROUPS,
    "specific.x!y",
    "specific!",
    "!".join(("a", "b" * 9)),
)
_ILLEGAL_NAMES: tuple[object, ...] = (
    "",
    " ",
    "two words",
    "line\n",
    "a/b",
    "a:b",
    "ann@example.org",
    "caf\u00e9",
    "\u0661",  # a digit, but not an ASCII one
    "x" * 100,
    "a!b!c",
    "!a",
    None,
    7,
    b"bytes",
    ["list"],
)


class _Colour(Enum):
    RED = "red"


# What is sent, and what arrives.
_CARRIED: dict[str, tuple[Any, Any]] = {
    "nothing": (None, None),
    "true": (True, True),
    "int": (2**63 - 1, 2**63 - 1),
    "negative": (-(2**63), -(2**63)),
    "float": (0.1, 0.1),
    "empty text": ("", ""),
    "unicode": ("\u65e5\u672c \U0001f30a \x00", "\u65e5\u672c \U0001f30a \x00"),
    "bytes": (b"\x00\xff", b"\x00\xff"),
    "list": ([1, [2, []]], [1, [2, []]]),
    "dict": ({"a": {"b": {}}}, {"a": {"b": {}}}),
    "tuple": ((1, (2,)), [1, [2]]),
    "set": ({1}, [1]),
    "safe text": (mark_safe("<b>"), "<b>"),
    "lazy text": (gettext_lazy("x-untranslated"), "x-untranslated"),
    "enum": (_Colour.RED, "red"),
    "uuid": (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    "decimal": (Decimal("1.50"), "1.50"),
    "date": (datetime.date(2024, 2, 29), "2024-02-29"),
    "naive datetime": (datetime.datetime(2024, 2, 29, 12), "2024-02-29T12:00:00"),
    "aware datetime": (
        datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
        datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
    ),
}


class _Refused:
    """The error that a block raised."""

    error: BaseException


@contextmanager
def _refused(*expected: type[BaseException]) -> Iterator[_Refused]:
    """Fail unless the block raises one of ``expected``."""
    refused = _Refused()
    try:
        yield refused
    except expected as error:
        refused.error = error
    else:
        names = " or ".join(each.__name__ for each in expected)
        raise AssertionError(f"{names} was expected, but nothing was raised")


class LayerContract:
    """What every channel layer does; to be subclassed by a test class.

    The subclass gives two fixtures: ``make_layer``, a function that makes a layer with
    the options ``expiry``, ``group_expiry``, ``capacity`` and ``channel_capacity``, and
    ``layer``, one with its defaults. It also says in ``advance`` how time passes.

    Attributes:
        expiry: seconds after which messages expire in these tests; a layer whose
            ``advance`` really waits sets it low.
        group_expiry: the same for memberships; longer than ``expiry``.
        patience: seconds to wait for what must come, before the test fails.
    """

    expiry: float = 60
    group_expiry: float = 3600
    patience: float = 10

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass for the layers of this test.

        Raises:
            NotImplementedError: when the subclass does not say how.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must say how time passes: define advance(seconds)"
        )

    async def soon(self, awaitable: Awaitable[Any]) -> Any:
        """The result of ``awaitable``, which must come within ``patience``."""
        async with asyncio.timeout(self.patience):
            return await awaitable

    async def drain(self, layer: Any, channel: str) -> list[Any]:
        """All unread messages of ``channel``, in order."""
        await layer.send(channel, {"type": "the.end"})
        messages = []
        while (message := await self.soon(layer.receive(channel))) != {
            "type": "the.end"
        }:
            messages.append(message)
        return messages

    # Channels

    async def test_a_message_arrives_as_it_was_sent(self, layer: Any) -> None:
        await layer.send("queue", {"type": "greet", "to": "you"})

        assert await self.soon(layer.receive("queue")) == {"type": "greet", "to": "you"}

    async def test_messages_arrive_in_the_order_in_which_they_were_sent(
        self, layer: Any
    ) -> None:
        for number in range(50):
            await layer.send("queue", {"type": "count", "number": number})

        received = [await self.soon(layer.receive("queue")) for _ in range(50)]

        assert [message["number"] for message in received] == list(range(50))

    async def test_a_message_waits_for_its_reader(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "early"})

        assert await self.soon(layer.receive(channel)) == {"type": "early"}

    async def test_a_reader_waits_for_its_message(self, layer: Any) -> None:
        reader = asyncio.create_task(layer.receive("queue"))
        await asyncio.sleep(0)

        await layer.send("queue", {"type": "late"})

        assert await self.soon(reader) == {"type": "late"}

    async def test_channels_do_not_hear_each_other(self, layer: Any) -> None:
        one, other = await layer.new_channel(), await layer.new_channel()
        await layer.send(one, {"type": "for.one"})
        await layer.send(other, {"type": "for.other"})

        assert await self.drain(layer, one) == [{"type": "for.one"}]
        assert await self.drain(layer, other) == [{"type": "for.other"}]

    async def test_receive_takes_a_list_of_one_name(self, layer: Any) -> None:
        await layer.send("queue", {"type": "greet"})

        assert await self.soon(layer.receive(["queue"])) == {"type": "greet"}

    async def test_receive_takes_one_name_only(self, layer: Any) -> None:
        for names in ([], ["one", "two"]):
            with _refused(TypeError):
                await self.soon(layer.receive(names))

    async def test_each_message_goes_to_one_of_several_readers(
        self, layer: Any
    ) -> None:
        readers = [asyncio.create_task(layer.receive("queue")) for _ in range(5)]
        await asyncio.sleep(0)

        for number in range(5):
            await layer.send("queue", {"type": "count", "number": number})
        received = await self.soon(asyncio.gather(*readers))

        assert sorted(message["number"] for message in received) == list(range(5))

    async def test_a_cancelled_reader_loses_no_message(self, layer: Any) -> None:
        """Cancelled at another moment each time: before, while and after it is sent."""
        received = []
        for number in range(40):
            reader = asyncio.create_task(layer.receive("queue"))
            for _ in range(number % 4):
                await asyncio.sleep(0)
            await layer.send("queue", {"type": "count", "number": number})
            for _ in range(number // 4 % 10):
                await asyncio.sleep(0)
            reader.cancel()
            try:
                received.append(await reader)
            except asyncio.CancelledError:
                received.append(await self.soon(layer.receive("queue")))

        assert [message["number"] for message in received] == list(range(40))

    async def test_a_cancelled_reader_leaves_the_message_to_another(
        self, layer: Any
    ) -> None:
        first = asyncio.create_task(layer.receive("queue"))
        second = asyncio.create_task(layer.receive("queue"))
        await asyncio.sleep(0)

        first.cancel()
        await layer.send("queue", {"type": "due"})

        assert await self.soon(second) == {"type": "due"}

    # New names

    async def test_new_channels_have_different_names(self, layer: Any) -> None:
        names = [await layer.new_channel() for _ in range(500)]

        assert len(set(names)) == 500

    async def test_new_channels_differ_although_the_random_seed_is_the_same(
        self, layer: Any
    ) -> None:
        names = []
        state = random.getstate()
        try:
            for _ in range(2):
                random.seed(1)
                names.append(await layer.new_channel())
        finally:
            random.setstate(state)

        assert names[0] != names[1]

    async def test_two_layers_never_make_the_same_name(
        self, make_layer: MakeLayer
    ) -> None:
        one, other = make_layer(), make_layer()

        assert await one.new_channel() != await other.new_channel()

    async def test_a_new_channel_begins_with_the_prefix_asked_for(
        self, layer: Any
    ) -> None:
        assert (await layer.new_channel("reply.")).startswith("reply.")
        assert (await layer.new_channel(prefix="reply")).startswith("reply")
        assert (await layer.new_channel()).startswith("specific.")

    async def test_a_new_channel_has_a_legal_name(self, layer: Any) -> None:
        assert layer.require_valid_channel_name(await layer.new_channel())

    # Capacity

    async def test_the_message_beyond_the_capacity_is_refused(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=3)
        for number in range(3):
            await layer.send("queue", {"type": "count", "number": number})

        with _refused(ChannelFull):
            await layer.send("queue", {"type": "count", "number": 3})

        received = [await self.soon(layer.receive("queue")) for _ in range(3)]
        assert [message["number"] for message in received] == [0, 1, 2]

    async def test_a_full_channel_takes_one_more_for_each_that_is_read(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1)
        await layer.send("queue", {"type": "first"})
        await self.soon(layer.receive("queue"))

        await layer.send("queue", {"type": "second"})

        with _refused(ChannelFull):
            await layer.send("queue", {"type": "third"})

    async def test_channels_do_not_share_their_capacity(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=2)
        channels = [await layer.new_channel() for _ in range(5)]

        for channel in channels:
            for _ in range(2):
                await layer.send(channel, {"type": "greet"})

        with _refused(ChannelFull):
            await layer.send(channels[0], {"type": "greet"})

    async def test_channels_may_have_capacities_of_their_own(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1, channel_capacity={"big.*": 3})
        for _ in range(3):
            await layer.send("big.queue", {"type": "greet"})
        await layer.send("queue", {"type": "greet"})

        with _refused(ChannelFull):
            await layer.send("big.queue", {"type": "greet"})
        with _refused(ChannelFull):
            await layer.send("queue", {"type": "greet"})

    # Expiry

    async def test_a_message_is_not_read_after_its_expiry(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry)
        await layer.send("queue", {"type": "old"})

        await self.advance(self.expiry * 1.1)
        await layer.send("queue", {"type": "new"})

        assert await self.soon(layer.receive("queue")) == {"type": "new"}

    async def test_a_message_is_still_there_before_its_expiry(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry)
        await layer.send("queue", {"type": "recent"})

        await self.advance(self.expiry / 2)

        assert await self.soon(layer.receive("queue")) == {"type": "recent"}

    async def test_expired_messages_free_the_capacity(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, capacity=1)
        await layer.send("queue", {"type": "old"})

        await self.advance(self.expiry * 1.1)

        await layer.send("queue", {"type": "new"})
        assert await self.soon(layer.receive("queue")) == {"type": "new"}

    # Names

    async def test_every_legal_name_is_taken(self, layer: Any) -> None:
        for name in _LEGAL_CHANNELS:
            assert layer.require_valid_channel_name(name), name
        for name in _LEGAL_GROUPS:
            assert layer.require_valid_group_name(name), name
            await layer.group_send(name, {"type": "greet"})
            await layer.send(name, {"type": "greet"})

    async def test_an_illegal_channel_name_is_refused(self, layer: Any) -> None:
        text = layer.invalid_name_error.format("Channel")
        for name in _ILLEGAL_NAMES:
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda name=name: layer.send(name, {"type": "greet"}),  # type: ignore[misc]
                lambda name=name: layer.group_add("room", name),  # type: ignore[misc]
                lambda name=name: layer.group_discard("room", name),  # type: ignore[misc]
            ]
            if not isinstance(name, list):
                calls.append(lambda name=name: layer.receive(name))  # type: ignore[misc]
            for call in calls:
                with _refused(TypeError) as refused:
                    await self.soon(call())
                assert str(refused.error) == text, name

    async def test_an_illegal_group_name_is_refused(self, layer: Any) -> None:
        text = layer.invalid_name_error.format("Group")
        for name in (*_ILLEGAL_NAMES, "specific.x!y"):
            if isinstance(name, list):
                continue
            for call in (
                layer.group_add(name, "queue"),
                layer.group_discard(name, "queue"),
                layer.group_send(name, {"type": "greet"}),
            ):
                with _refused(TypeError) as refused:
                    await self.soon(call)
                assert str(refused.error) == text, name

    # What a message may hold

    async def test_every_plain_value_is_carried(self, layer: Any) -> None:
        for what, (sent, arrives) in _CARRIED.items():
            await layer.send("queue", {"type": "carry", "value": sent})
            message = await self.soon(layer.receive("queue"))
            assert message == {"type": "carry", "value": arrives}, what
            assert type(message["value"]) is type(arrives), what

    async def test_a_group_message_carries_every_plain_value(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        for what, (sent, arrives) in _CARRIED.items():
            await layer.group_send("room", {"type": "carry", "value": sent})
            message = await self.soon(layer.receive(channel))
            assert message["value"] == arrives, what

    async def test_keys_other_than_text_arrive_or_are_refused(self, layer: Any) -> None:
        """Never are they taken, only to fail where they are read."""
        try:
            await layer.send("queue", {"type": "count", "by number": {1: "one"}})
        except TypeError:
            return

        message = await self.soon(layer.receive("queue"))
        assert message["by number"] == {1: "one"}

    async def test_a_value_that_cannot_be_carried_is_refused_with_its_place(
        self, layer: Any
    ) -> None:
        for value in (object(), Exception("no"), 2**64, {1}.__iter__()):
            with _refused(TypeError) as refused:
                await layer.send("queue", {"type": "carry", "in": {"here": [1, value]}})
            assert "message['in']['here'][1]" in str(refused.error), value

    async def test_a_model_instance_is_refused_with_its_place(self, layer: Any) -> None:
        # Whichever models the project has; the contract brings none.
        for model in apps.get_models()[:1]:
            with _refused(TypeError) as refused:
                await layer.send("queue", {"type": "carry", "user": model()})

            assert "message['user']" in str(refused.error)
            assert model.__qualname__ in str(refused.error)

    async def test_a_group_without_members_refuses_what_cannot_be_carried(
        self, layer: Any
    ) -> None:
        with _refused(TypeError):
            await layer.group_send("nobody-here", {"type": "carry", "value": object()})

    async def test_a_refused_message_leaves_nothing_behind(self, layer: Any) -> None:
        with _refused(TypeError):
            await layer.send("queue", {"type": "carry", "value": object()})

        assert await self.drain(layer, "queue") == []

    async def test_a_message_that_is_no_dict_is_refused(self, layer: Any) -> None:
        for message in (None, "text", 7, [("type", "greet")], object()):
            with _refused(AssertionError, TypeError):
                await layer.send("queue", message)
            with _refused(AssertionError, TypeError):
                await layer.group_send("room", message)

    async def test_a_megabyte_arrives_whole(self, layer: Any) -> None:
        text = "tide race " * 100_000

        await layer.send("queue", {"type": "carry", "text": text})

        assert (await self.soon(layer.receive("queue")))["text"] == text

    async def test_the_receiver_does_not_see_what_the_sender_changes_later(
        self, layer: Any
    ) -> None:
        message = {"type": "carry", "list": [1], "dict": {"a": 1}}
        await layer.send("queue", message)

        message["list"].append(2)  # type: ignore[attr-defined]
        message["dict"].clear()  # type: ignore[attr-defined]

        assert await self.soon(layer.receive("queue")) == {
            "type": "carry",
            "list": [1],
            "dict": {"a": 1},
        }

    async def test_the_members_do_not_see_what_the_sender_changes_later(
        self, layer: Any
    ) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        message = {"type": "carry", "list": [1]}
        await layer.group_send("room", message)

        message["list"].append(2)  # type: ignore[attr-defined]

        assert await self.soon(layer.receive(channel)) == {"type": "carry", "list": [1]}

    # Groups

    async def test_every_member_gets_a_group_message(self, layer: Any) -> None:
        channels = [await layer.new_channel() for _ in range(5)]
        for channel in channels:
            await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet", "text": "all"})

        for channel in channels:
            received = await self.soon(layer.receive(channel))
            assert received == {"type": "greet", "text": "all"}

    async def test_a_named_queue_may_be_a_member(self, layer: Any) -> None:
        await layer.group_add("room", "queue")

        await layer.group_send("room", {"type": "greet"})

        assert await self.soon(layer.receive("queue")) == {"type": "greet"}

    async def test_every_member_sees_one_senders_messages_in_order(
        self, layer: Any
    ) -> None:
        channels = [await layer.new_channel() for _ in range(3)]
        for channel in channels:
            await layer.group_add("room", channel)

        for number in range(30):
            await layer.group_send("room", {"type": "count", "number": number})

        for channel in channels:
            received = [await self.soon(layer.receive(channel)) for _ in range(30)]
            assert [message["number"] for message in received] == list(range(30))

    async def test_a_group_message_reaches_its_members_only(self, layer: Any) -> None:
        member, stranger = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", member)
        await layer.group_add("hall", stranger)

        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, member) == [{"type": "greet"}]
        assert await self.drain(layer, stranger) == []

    async def test_joining_twice_is_the_same_as_once(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, channel) == [{"type": "greet"}]

    async def test_who_has_left_gets_nothing_more(self, layer: Any) -> None:
        gone, still = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", gone)
        await layer.group_add("room", still)
        await layer.group_send("room", {"type": "before"})

        await layer.group_discard("room", gone)
        await layer.group_send("room", {"type": "after"})

        assert await self.drain(layer, still) == [{"type": "before"}, {"type": "after"}]
        assert await self.drain(layer, gone) == [{"type": "before"}]

    async def test_leaving_a_group_one_is_not_in_is_no_error(self, layer: Any) -> None:
        await layer.group_discard("room", await layer.new_channel())
        await layer.group_discard("room", "queue")

    async def test_who_left_twice_may_join_again(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_discard("room", channel)
        await layer.group_discard("room", channel)
        await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, channel) == [{"type": "greet"}]

    async def test_a_group_without_members_takes_a_message(self, layer: Any) -> None:
        await layer.group_send("nobody-here", {"type": "greet"})

    async def test_a_member_joins_too_late_for_what_was_said_before(
        self, layer: Any
    ) -> None:
        await layer.group_send("room", {"type": "before"})
        channel = await layer.new_channel()

        await layer.group_add("room", channel)

        assert await self.drain(layer, channel) == []

    async def test_a_channel_may_be_in_many_groups(self, layer: Any) -> None:
        channel = await layer.new_channel()
        for number in range(20):
            await layer.group_add(f"room.{number}", channel)

        for number in range(20):
            await layer.group_send(
                f"room.{number}", {"type": "count", "number": number}
            )

        received = await self.drain(layer, channel)
        assert sorted(message["number"] for message in received) == list(range(20))

    async def test_a_full_member_is_passed_over_and_the_others_get_the_message(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=2)
        full, other = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("room", full)
        await layer.group_add("room", other)
        for number in range(2):
            await layer.send(full, {"type": "fill", "number": number})

        await layer.group_send("room", {"type": "greet"})

        assert await self.soon(layer.receive(other)) == {"type": "greet"}
        received = [await self.soon(layer.receive(full)) for _ in range(2)]
        assert [message["type"] for message in received] == ["fill", "fill"]
        assert await self.drain(layer, full) == []

    async def test_a_member_that_was_full_gets_the_next_message(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1)
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "first"})
        await layer.group_send("room", {"type": "dropped"})
        assert await self.soon(layer.receive(channel)) == {"type": "first"}

        await layer.group_send("room", {"type": "next"})

        assert await self.soon(layer.receive(channel)) == {"type": "next"}

    async def test_a_membership_without_a_consumer_expires(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, group_expiry=self.group_expiry)
        await layer.group_add("room", "queue")

        await self.advance(self.group_expiry * 1.1)
        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, "queue") == []

    async def test_joining_again_renews_a_membership(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, group_expiry=self.group_expiry)
        await layer.group_add("room", "queue")
        await self.advance(self.group_expiry * 0.6)

        await layer.group_add("room", "queue")
        await self.advance(self.group_expiry * 0.6)
        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, "queue") == [{"type": "greet"}]

    # Flush

    async def test_flush_forgets_messages_and_groups(self, layer: Any) -> None:
        await layer.send("queue", {"type": "old"})
        await layer.group_add("room", "queue")

        await layer.flush()
        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, "queue") == []

    async def test_a_flushed_layer_works_on(self, layer: Any) -> None:
        await layer.flush()
        channel = await layer.new_channel()
        await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet"})

        assert await self.drain(layer, channel) == [{"type": "greet"}]

    # Loops and threads

    def test_a_message_survives_from_one_event_loop_to_the_next(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer()
        async_to_sync(layer.send)("queue", {"type": "greet"})

        received = async_to_sync(self._receive)(layer, "queue")

        assert received == {"type": "greet"}

    def test_a_membership_survives_from_one_event_loop_to_the_next(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer()
        async_to_sync(layer.group_add)("room", "queue")
        async_to_sync(layer.group_send)("room", {"type": "greet"})

        received = async_to_sync(self._receive)(layer, "queue")

        assert received == {"type": "greet"}

    async def test_threads_send_at_once_and_nothing_is_lost(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=1000)
        start = threading.Barrier(4)

        def send(sender: int) -> None:
            start.wait(self.patience)
            for number in range(10):
                async_to_sync(layer.send)(
                    "queue", {"type": "count", "from": sender, "number": number}
                )

        senders = [asyncio.to_thread(send, sender) for sender in range(4)]
        await self.soon(asyncio.gather(*senders))

        received = await self.drain(layer, "queue")
        for sender in range(4):
            numbers = [each["number"] for each in received if each["from"] == sender]
            assert numbers == list(range(10))

    async def test_a_reader_is_woken_by_a_thread(self, layer: Any) -> None:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        reader = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)

        await asyncio.to_thread(
            async_to_sync(layer.group_send), "room", {"type": "greet"}
        )

        assert await self.soon(reader) == {"type": "greet"}

    async def test_two_event_loops_read_at_once(self, make_layer: MakeLayer) -> None:
        layer = make_layer()
        elsewhere = asyncio.create_task(
            asyncio.to_thread(async_to_sync(self._receive), layer, "queue.elsewhere")
        )
        here = asyncio.create_task(layer.receive("queue.here"))
        await asyncio.sleep(0)

        await layer.send("queue.elsewhere", {"type": "there"})
        await layer.send("queue.here", {"type": "here"})

        assert await self.soon(here) == {"type": "here"}
        assert await self.soon(elsewhere) == {"type": "there"}

    async def _receive(self, layer: Any, channel: str) -> Any:
        return await self.soon(layer.receive(channel))


class LocalDeliveryContract(LayerContract):
    """In addition, what a layer does that puts messages into consumers' mailboxes.

    For layers with ``attach`` and ``detach`` (``tiderace.layers.LocalDelivery``).
    """

    async def attached(self, layer: Any) -> tuple[str, Mailbox[Any]]:
        """A new channel and its mailbox, as a consumer takes them."""
        channel = await layer.new_channel()
        return channel, layer.attach(channel)

    async def read(self, mailbox: Mailbox[Any]) -> Any:
        """The next message of ``mailbox``, as a consumer reads it."""
        lane, message = await self.soon(mailbox.next())
        assert lane is Lane.MESSAGE
        return message

    async def test_an_attached_mailbox_gets_what_is_sent_to_its_channel(
        self, layer: Any
    ) -> None:
        channel, mailbox = await self.attached(layer)

        await layer.send(channel, {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_an_attached_mailbox_gets_what_its_groups_get(
        self, layer: Any
    ) -> None:
        channel, mailbox = await self.attached(layer)
        await layer.group_add("room", channel)

        await layer.group_send("room", {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_the_members_of_a_process_share_one_message(self, layer: Any) -> None:
        boxes = []
        for _ in range(3):
            channel, mailbox = await self.attached(layer)
            await layer.group_add("room", channel)
            boxes.append(mailbox)

        await layer.group_send("room", {"type": "greet"})
        received = [await self.read(mailbox) for mailbox in boxes]

        assert received[0] is received[1] is received[2]
        for mailbox in boxes:
            await layer.detach(mailbox)

    async def test_what_was_sent_before_attaching_is_in_the_mailbox(
        self, layer: Any
    ) -> None:
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "early"})

        mailbox = layer.attach(channel)

        assert await self.read(mailbox) == {"type": "early"}
        await layer.detach(mailbox)

    async def test_a_detached_channel_is_in_no_group_any_more(self, layer: Any) -> None:
        channel, mailbox = await self.attached(layer)
        for group in ("room", "hall"):
            await layer.group_add(group, channel)

        await layer.detach(mailbox)
        for group in ("room", "hall"):
            await layer.group_send(group, {"type": "greet"})

        assert mailbox.groups == set()
        assert await self.drain(layer, channel) == []

    async def test_detaching_leaves_the_other_members_alone(self, layer: Any) -> None:
        gone, mailbox = await self.attached(layer)
        still, other = await self.attached(layer)
        await layer.group_add("room", gone)
        await layer.group_add("room", still)

        await layer.detach(mailbox)
        await layer.group_send("room", {"type": "greet"})

        assert await self.read(other) == {"type": "greet"}
        await layer.detach(other)

    async def test_a_detached_channel_keeps_no_message(self, layer: Any) -> None:
        channel, mailbox = await self.attached(layer)
        await layer.send(channel, {"type": "unread"})

        await layer.detach(mailbox)

        assert len(mailbox) == 0

    async def test_detaching_twice_is_no_error(self, layer: Any) -> None:
        _, mailbox = await self.attached(layer)

        await layer.detach(mailbox)
        await layer.detach(mailbox)

    async def test_a_message_to_a_detached_channel_is_no_error(
        self, layer: Any
    ) -> None:
        channel, mailbox = await self.attached(layer)
        await layer.detach(mailbox)

        await layer.send(channel, {"type": "late"})

    async def test_the_membership_of_an_attached_channel_does_not_expire(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry, group_expiry=self.group_expiry)
        channel, mailbox = await self.attached(layer)
        await layer.group_add("room", channel)

        await self.advance(self.group_expiry * 1.1)
        await layer.group_send("room", {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_an_unread_message_costs_an_attached_channel_no_membership(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(expiry=self.expiry)
        channel, mailbox = await self.attached(layer)
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "unread"})

        await self.advance(self.expiry * 1.1)
        await layer.group_send("room", {"type": "greet"})

        assert await self.read(mailbox) == {"type": "greet"}
        await layer.detach(mailbox)

    async def test_a_full_mailbox_drops_for_itself_alone(
        self, make_layer: MakeLayer
    ) -> None:
        layer = make_layer(capacity=2)
        slow, full = await self.attached(layer)
        quick, other = await self.attached(layer)
        await layer.group_add("room", slow)
        await layer.group_add("room", quick)

        for number in range(4):
            await layer.group_send("room", {"type": "count", "number": number})
            assert (await self.read(other))["number"] == number

        assert [(await self.read(full))["number"] for _ in range(2)] == [0, 1]
        assert len(full) == 0
        await layer.detach(full)
        await layer.detach(other)

    async def test_a_thread_wakes_the_consumer_of_a_mailbox(self, layer: Any) -> None:
        channel, mailbox = await self.attached(layer)
        reader = asyncio.create_task(self.read(mailbox))
        await asyncio.sleep(0)

        await asyncio.to_thread(async_to_sync(layer.send), channel, {"type": "greet"})

        assert await reader == {"type": "greet"}
        await layer.detach(mailbox)
