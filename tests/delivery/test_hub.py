"""The hub: groups, their members, and deliveries to them only."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiderace.delivery.hub import Hub

FAR = float("inf")


class Receiver:
    """A listener that counts how often the hub has called it."""

    def __init__(self, name: str, room: int = 1000) -> None:
        self.name = name
        self.groups: Collection[str] = ()
        self.room = room
        self.received: list[object] = []
        self.pushes = 0

    def push(self, message: object, deadline: float) -> bool:
        self.pushes += 1
        if len(self.received) >= self.room:
            return False
        self.received.append(message)
        return True


@pytest.fixture
def hub():
    return Hub()


def members(*names):
    return [Receiver(name) for name in names]


# Membership


def test_adding_a_member_twice_has_no_effect(hub):
    (one,) = members("one")
    hub.add("room", one)

    hub.add("room", one)
    hub.deliver(hub.members("room"), "hello", FAR)

    assert one.received == ["hello"]


def test_discard_returns_true_for_the_last_member(hub):
    one, two = members("one", "two")
    hub.add("room", one)
    hub.add("room", two)

    assert not hub.discard("room", one)
    assert hub.discard("room", two)


def test_discarding_a_receiver_that_is_no_member_has_no_effect(hub):
    one, two = members("one", "two")
    hub.add("room", one)

    assert not hub.discard("room", two)
    assert not hub.discard("elsewhere", two)
    assert hub.members("room") == [one]


def test_a_group_without_members_is_removed(hub):
    (one,) = members("one")
    hub.add("room", one)

    hub.discard("room", one)

    assert hub.groups == {}
    assert hub.members("room") == []


def test_a_receiver_lists_its_groups(hub):
    (one,) = members("one")
    hub.add("room", one)
    hub.add("hall", one)
    hub.discard("room", one)

    assert list(one.groups) == ["hall"]


def test_a_receiver_may_be_in_many_groups(hub):
    (one,) = members("one")
    rooms = [f"room.{number}" for number in range(10)]
    for room in [*rooms, *rooms]:
        hub.add(room, one)
    for room in rooms[1::2]:
        hub.discard(room, one)

    assert sorted(one.groups) == rooms[::2]


def test_members_are_listed_in_the_order_in_which_they_joined(hub):
    everyone = members("c", "a", "b")
    for each in everyone:
        hub.add("room", each)

    assert hub.members("room") == everyone


def test_a_dropped_receiver_is_in_no_group(hub):
    one, two = members("one", "two")
    for group in ("room", "hall", "yard"):
        hub.add(group, one)
    hub.add("hall", two)

    vacated = hub.drop(one)

    assert sorted(vacated) == ["room", "yard"]
    assert not one.groups
    assert hub.groups == {"hall": {"two": two}}


def test_dropping_an_unknown_receiver_has_no_effect(hub):
    one, stranger = members("one", "stranger")
    hub.add("room", one)

    assert hub.drop(stranger) == []
    assert hub.members("room") == [one]


def test_a_replaced_receiver_does_not_remove_its_successor(hub):
    before, after = members("same", "same")
    hub.add("room", before)
    hub.add("room", after)

    assert hub.drop(before) == []
    assert hub.members("room") == [after]


# Fan-out


def test_every_member_gets_the_same_object(hub):
    one, two = members("one", "two")
    hub.add("room", one)
    hub.add("room", two)
    message = {"type": "chat"}

    hub.deliver(hub.members("room"), message, FAR)

    assert one.received[0] is two.received[0] is message


def test_receivers_without_room_are_returned_and_others_get_the_message(hub):
    roomy, full = Receiver("roomy"), Receiver("full", room=0)
    hub.add("room", full)
    hub.add("room", roomy)

    assert hub.deliver(hub.members("room"), "hello", FAR) == [full]
    assert roomy.received == ["hello"]


def test_a_group_without_members_costs_nothing(hub):
    assert hub.deliver(hub.members("nowhere"), "hello", FAR) == []


def test_a_message_to_a_group_touches_only_its_members(hub):
    (one,) = members("one")
    strangers = members(*(f"stranger{number}" for number in range(10_000)))
    for stranger in strangers:
        hub.add("crowd", stranger)
    hub.add("room", one)

    hub.deliver(hub.members("room"), "hello", FAR)

    assert one.pushes == 1
    assert sum(stranger.pushes for stranger in strangers) == 0


def test_a_member_may_leave_during_a_delivery(hub):
    class Leaver(Receiver):
        def push(self, message, deadline):
            hub.drop(self)
            return super().push(message, deadline)

    leavers = [Leaver(str(number)) for number in range(5)]
    for leaver in leavers:
        hub.add("room", leaver)

    assert hub.deliver(hub.members("room"), "goodbye", FAR) == []
    assert hub.groups == {}


def test_a_member_may_join_during_a_delivery(hub):
    class Inviter(Receiver):
        def push(self, message, deadline):
            hub.add("room", Receiver(f"guest of {self.name}"))
            return super().push(message, deadline)

    hub.add("room", Inviter("host"))

    assert hub.deliver(hub.members("room"), "party", FAR) == []
    assert len(hub.members("room")) == 2


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "leave", "drop", "speak"]),
        st.integers(0, 3),
        st.sampled_from(["room", "hall", "yard"]),
    ),
    max_size=60,
)


@given(steps=STEPS)
def test_members_get_exactly_the_messages_of_their_membership(steps):
    hub = Hub()
    everyone = members("a", "b", "c", "d")
    joined: set[tuple[str, str]] = set()
    expected: dict[str, list[int]] = {each.name: [] for each in everyone}

    for number, (step, who, group) in enumerate(steps):
        receiver = everyone[who]
        inside = {name for room, name in joined if room == group}
        match step:
            case "join":
                hub.add(group, receiver)
                joined.add((group, receiver.name))
            case "leave":
                assert hub.discard(group, receiver) == (inside == {receiver.name})
                joined.discard((group, receiver.name))
            case "drop":
                hub.drop(receiver)
                joined = {pair for pair in joined if pair[1] != receiver.name}
            case "speak":
                assert hub.deliver(hub.members(group), number, FAR) == []
                for name in inside:
                    expected[name].append(number)

    assert {each.name: each.received for each in everyone} == expected
    assert {
        (group, name) for group, inside in hub.groups.items() for name in inside
    } == joined
    assert {(group, each.name) for each in everyone for group in each.groups} == joined
    assert all(hub.groups.values())
