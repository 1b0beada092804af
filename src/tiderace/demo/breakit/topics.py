"""The topic of one visitor's experiment: what the page sends comes back, numbered."""

from __future__ import annotations

from typing import Any

from tiderace.demo.breakit import faults
from tiderace.topics import History, Refuse, Topic, adisconnect, apublish, rpc

FLOOD = 10_000


class BreakIt(Topic):
    """A stream that is long enough for an outage in the middle of a flood."""

    pattern = "breakit:<int:user>:<slug:run>"
    history = History(size=12_000, ttl=600)

    async def can_subscribe(self, user: Any) -> bool:
        """Allow the visitor whose experiment it is."""
        return bool(user.pk == self.kwargs["user"])

    async def on_publish(self, user: Any, message: int) -> dict[str, int]:
        """Send a number back."""
        return {"n": int(message)}

    @rpc
    async def flood(self, number: int) -> int:
        """Publish 10,000 messages in order; return how many."""
        for n in range(FLOOD):
            await apublish(self.topic, {"flood": number, "n": n})
        return FLOOD

    @rpc
    async def drop(self, user: Any) -> None:
        """Close the sockets of this visitor."""
        await adisconnect(user, code=4000, reason="dropped on the page Break it")

    @rpc
    async def fault(self, name: str) -> None:
        """Cause one of ``FAULTS``."""
        if name not in faults.available():
            raise Refuse(f"there is no fault {name!r} here", code=404)
        await faults.FAULTS[name]()
