"""A drain under a clock of its own, with sockets in it, for the tests of drains."""

from __future__ import annotations

import asyncio
import random

from tiderace.runtime.connections import ConnectionRegistry
from tiderace.runtime.drain import Drain


class Clock:
    """Time that passes only while somebody sleeps; not even then if it is ``frozen``."""

    def __init__(self, *, frozen=False):
        self.now = 100.0
        self._frozen = frozen

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        if self._frozen:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        self.now += seconds


class Socket:
    """A connection that ends when it is asked to, unless it is ``deaf``."""

    def __init__(self, where, *, deaf=False):
        self.where = where
        self.deaf = deaf
        self.asked_at = None
        self.notice = None
        self.was_cut = False

    def drain(self, notice):
        self.notice = notice
        self.asked_at = self.where.clock.now - self.where.begun
        if not self.deaf:
            self.where.connections.discard(self)

    def cut(self):
        self.was_cut = True
        self.where.connections.discard(self)


class DrainHarness:
    """A drain under a clock of its own, with sockets in it."""

    def __init__(self, sockets=0, *, deaf=False, frozen=False):
        self.clock = Clock(frozen=frozen)
        self.begun = self.clock.now
        self.connections = ConnectionRegistry()
        self.drain = Drain(
            self.connections,
            clock=self.clock,
            sleep=self.clock.sleep,
            chance=random.Random(4).random,
        )
        self.sockets = [self.connect(deaf=deaf) for _ in range(sockets)]

    def connect(self, *, deaf=False):
        socket = Socket(self, deaf=deaf)
        self.connections.add(socket)
        return socket

    @property
    def asked_at(self):
        return [socket.asked_at for socket in self.sockets]

    @property
    def elapsed(self):
        return self.clock.now - self.begun
