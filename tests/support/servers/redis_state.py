"""Changes to the state that Redis keeps of a stream, as another server would have it."""

from __future__ import annotations

from typing import Any

# The places of the fields, as `load_state.lua` lists them.
_PLACES = {
    "offset": 1,
    "published_at": 2,
    "settled_until": 4,
    "replication": 8,
    "checkpoint": 16,
    "checkpoint_at": 17,
    "stream_ends_at": 20,
}

_CHANGE = """
local form = '<dddddc64c12ssddddddddddds'
local state = {struct.unpack(form, redis.call('GET', KEYS[1]))}
for place = 1, #ARGV, 2 do
  state[tonumber(ARGV[place])] = tonumber(ARGV[place + 1]) or ARGV[place + 1]
end
redis.call('SET', KEYS[1], struct.pack(form, unpack(state)), 'KEEPTTL')
return state[1]
"""


def change_of_state(meta: str, **values: Any) -> tuple[Any, ...]:
    """Return a command that sets fields of a stream's state and returns the last offset."""
    words = [word for name, value in values.items() for word in (_PLACES[name], value)]
    return ("EVAL", _CHANGE, 1, meta, *words)
