"""The relays of this process, one for each database with an outbox."""

from __future__ import annotations

import logging
from collections.abc import Collection

from tiderace import conf
from tiderace.outbox.relay import Relay
from tiderace.outbox.rows import databases
from tiderace.runtime.forks import after_fork, keep_alive
from tiderace.runtime.tasks import TaskGroup

logger = logging.getLogger("tiderace.outbox")


class ProcessRelays:
    """Starts, wakes and stops the relays of a process."""

    def __init__(self) -> None:
        self._relays: dict[str, Relay] = {}
        self._tasks = TaskGroup(logger)

    async def start(self, aliases: Collection[str] = ()) -> None:
        """Relay for the databases ``aliases``, by default for all that may have an outbox.

        Relays that are running go on.
        """
        for alias in aliases or databases():
            if alias not in self._relays:
                relay = Relay(alias, poll=conf.current().relay_poll)
                self._relays[alias] = relay
                self._tasks.spawn(relay.run())

    async def stop(self) -> None:
        """Stop the relays; other processes take over at once."""
        await self._tasks.cancel()
        self._relays.clear()

    def wake(self, alias: str) -> None:
        """Make the relay of a database, if it runs in this process, query the rows now."""
        if relay := self._relays.get(alias):
            relay.wake()

    def forget(self) -> None:
        """Forget the relays of the process that this one was forked from."""
        keep_alive((self._relays, self._tasks))
        self._relays, self._tasks = {}, TaskGroup(logger)


process_relays = ProcessRelays()
after_fork(process_relays.forget)


async def start_in_server() -> None:
    """Start the relays when a server starts, unless ``RELAY_IN_SERVERS`` is off."""
    if conf.current().relay_in_servers:
        await process_relays.start()
