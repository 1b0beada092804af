"""A drain with a fake clock and fake sockets."""

from __future__ import annotations

import asyncio
import random

from support.clock import FakeClock
from tiderace.runtime.connections import ConnectionRegistry
from tiderace.runtime.drain import Drain


class FrozenClock(FakeClock):
    """A clock whose ``sleep`` never returns."""

    async def sleep(self, seconds):
        await asyncio.Event().wait()


class Socket:
    """A connection that ends on a drain notice, unless it is ``ignores_notice``."""

    def __init__(self, where, *, ignores_notice=False):
        self.where = where
        self.ignores_notice = ignores_notice
        self.asked_at = None
        self.notice = None
        self.was_cut = False

    def drain(self, notice):
        self.notice = notice
        self.asked_at = self.where.clock.now - self.where.begun
        if not self.ignores_notice:
            self.where.connections.discard(self)

    def cut(self):
        self.was_cut = True
        self.where.connections.discard(self)


class DrainHarness:
    """A drain with a fake clock and fake sockets."""

    def __init__(self, sockets=0, *, ignores_notice=False, frozen=False):
        self.clock = FrozenClock() if frozen else FakeClock()
        self.begun = self.clock.now
        self.connections = ConnectionRegistry()
        self.drain = Drain(
            self.connections,
            clock=self.clock,
            sleep=self.clock.sleep,
            chance=random.Random(4).random,
        )
        self.sockets = [
            self.connect(ignores_notice=ignores_notice) for _ in range(sockets)
        ]

    def connect(self, *, ignores_notice=False):
        socket = Socket(self, ignores_notice=ignores_notice)
        self.connections.add(socket)
        return socket

    @property
    def asked_at(self):
        return [socket.asked_at for socket in self.sockets]

    @property
    def elapsed(self):
        return self.clock.now - self.begun
