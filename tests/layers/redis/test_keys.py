"""The names of keys in Redis."""

from __future__ import annotations

import pytest

from tiderace.layers.redis.keys import KeySchema


def keys_of(schema, group):
    return {
        schema.group(group),
        schema.stream(group),
        schema.meta(group),
        schema.once(group, "key"),
        schema.once(group, "key:meta"),
    }


@pytest.mark.parametrize("cluster", [False, True])
@pytest.mark.parametrize(
    "other",
    ["lobby:meta", "lobby:stream", "lobby:once:key", "lobby%3Ameta", "lobby:once"],
)
def test_a_group_has_no_key_of_a_group_whose_name_begins_with_its_own(other, cluster):
    schema = KeySchema("asgi", database=0, cluster=cluster)

    assert keys_of(schema, "lobby").isdisjoint(keys_of(schema, other))
    assert keys_of(schema, "lobby:meta").isdisjoint(keys_of(schema, "lobby%3Ameta"))


def test_the_key_of_a_group_without_colons_contains_its_name():
    schema = KeySchema("asgi", database=0, cluster=False)

    assert schema.group("room-1.a_b") == "asgi:group:room-1.a_b"
