"""The ASGI lifespan of a process: hooks for when the server starts and stops."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeAlias, TypeVar

from tiderace.asgi import Receive, Scope, Send
from tiderace.runtime.tasks import TaskGroup

__all__ = [
    "Lifespan",
    "on_shutdown",
    "on_startup",
    "process_lifespan",
    "while_serving",
]

logger = logging.getLogger("tiderace.lifespan")

Hook: TypeAlias = Callable[[], Awaitable[object]]
_Hook = TypeVar("_Hook", bound=Hook)
_Work = TypeVar("_Work", bound=Callable[[], Coroutine[Any, Any, object]])


class Lifespan:
    """An ASGI app that answers the scope type ``lifespan``.

    Args:
        startup: coroutine functions without arguments, awaited in this order before
            the server takes connections.
        shutdown: the same, awaited in reverse order after the last connection has
            ended, so that what was opened first is closed last.
    """

    def __init__(
        self, startup: Iterable[Hook] = (), shutdown: Iterable[Hook] = ()
    ) -> None:
        self.startup = list(startup)
        self.shutdown = list(shutdown)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the server's two events; ends after the second one.

        A hook that raises at startup makes the start fail with its error as the message,
        after the shutdown hooks have run. At shutdown the other hooks still run, and
        the errors are the message to the server.
        """
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                if error := await self._start():
                    await self._stop()
                    await send({"type": "lifespan.startup.failed", "message": error})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif event["type"] == "lifespan.shutdown":
                if errors := await self._stop():
                    message = "; ".join(errors)
                    await send({"type": "lifespan.shutdown.failed", "message": message})
                else:
                    await send({"type": "lifespan.shutdown.complete"})
                return

    async def _start(self) -> str:
        for hook in list(self.startup):
            try:
                await hook()
            except (Exception, SystemExit) as error:
                logger.exception("startup failed in %s", _name(hook))
                return _sentence(hook, error)
        return ""

    async def _stop(self) -> list[str]:
        errors = []
        for hook in reversed(list(self.shutdown)):
            try:
                await hook()
            except (Exception, SystemExit) as error:
                logger.exception("shutdown failed in %s", _name(hook))
                errors.append(_sentence(hook, error))
        return errors


# Modules register their hooks, so that this one imports none of them, and a process that
# never used a layer runs no hook of it.
process_lifespan = Lifespan()
"""The lifespan application of ``ProtocolTypeRouter``, unless it is given another."""


def on_startup(hook: _Hook) -> _Hook:
    """Await ``hook()`` before this process takes connections; usable as a decorator.

    A hook is run once, however often it is registered. Servers without lifespan
    support (daphne) never run it.
    """
    if hook not in process_lifespan.startup:
        process_lifespan.startup.append(hook)
    return hook


def on_shutdown(hook: _Hook) -> _Hook:
    """Await ``hook()`` when this process stops; usable as a decorator.

    As with ``on_startup``, once, and only under a server with lifespan support.
    """
    if hook not in process_lifespan.shutdown:
        process_lifespan.shutdown.append(hook)
    return hook


def while_serving(work: _Work) -> _Work:
    """Run ``work()`` in a task of this process from its start to its stop; a decorator.

    Every process runs it. At the stop it is cancelled and awaited, before the shutdown
    hooks that were registered earlier. An error ends it alone and is logged.
    """
    tasks = TaskGroup(logger)

    async def start() -> None:
        tasks.spawn(work())

    on_startup(start)
    on_shutdown(tasks.cancel)
    return work


def _name(hook: Hook) -> str:
    function = getattr(hook, "__qualname__", None)
    return f"{hook.__module__}.{function}" if function else repr(hook)


def _sentence(hook: Hook, error: BaseException) -> str:
    return f"{_name(hook)}: {type(error).__name__}: {error}"
