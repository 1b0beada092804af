"""One event loop per process, in its own thread, on which sync code runs coroutines.

``async_to_sync`` makes a loop, and often a connection, for each call of a thread that
has none; here both are kept.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import threading
from collections.abc import Callable, Collection, Coroutine
from typing import Any, ParamSpec, TypeVar, cast

from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction

from tiderace.runtime.forks import after_fork, keep_alive
from tiderace.runtime.greenlets import separate_loops

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class _Bridge:
    """An event loop and the thread that runs it."""

    def __init__(self) -> None:
        separate_loops()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, name="tiderace-bridge", daemon=True
        )
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Cancel what runs there, so that connections are closed, and end the thread."""
        if not self._thread.is_alive():
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()


_bridge: _Bridge | None = None
_lock = threading.Lock()


def _forget_bridge() -> None:
    global _bridge, _lock
    if _bridge is not None:
        keep_alive(_bridge)
    _bridge = None
    # Another thread of the parent may have held it at the moment of the fork.
    _lock = threading.Lock()


after_fork(_forget_bridge)


def call(
    function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run a coroutine function on the process's loop and wait for what it returns.

    May be called from any thread without a running event loop, and after a fork. What
    the function raises is raised here. When the waiting thread is interrupted, the
    call is cancelled.

    Raises:
        RuntimeError: on a thread with a running event loop, which it would block.
    """
    _refuse_in_loop(function)
    future = asyncio.run_coroutine_threadsafe(function(*args, **kwargs), _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def blocking(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return the sync form of a coroutine function: ``history`` of ``ahistory``.

    It takes the same arguments and runs the function by ``call``.
    """

    name = function.__name__

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        require_no_loop(name.removeprefix("a"), name)
        return call(function, *args, **kwargs)

    run.__name__ = name.removeprefix("a")
    run.__qualname__ = function.__qualname__.removesuffix(name) + run.__name__
    run.__doc__ = (
        f"{inspect.getdoc(function)}\n\n"
        f"The sync form of ``{name}``: it blocks, and raises RuntimeError where an event "
        "loop runs in this thread.\n"
    )
    return run


def call_directly(
    function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Run a coroutine function that never waits for an event loop, in this thread.

    The cheapest way, since no other thread is involved.

    Raises:
        RuntimeError: on a thread with a running event loop, and when the function
            waits for one after all.
    """
    _refuse_in_loop(function)
    coroutine = function(*args, **kwargs)
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError(
        f"{getattr(function, '__qualname__', function)} waits for an event loop and "
        "cannot be called directly; use call()"
    )


def close(timeout: float = 2.0) -> None:
    """End the loop of this process, closing its connections; a later call makes another."""
    global _bridge
    with _lock:
        bridge, _bridge = _bridge, None
    if bridge is not None:
        bridge.close(timeout)


def require_no_loop(called: str, instead: str) -> None:
    """Check that no event loop runs in this thread, which ``called`` would block.

    Args:
        called: the name of the sync function.
        instead: the coroutine function to await.

    Raises:
        RuntimeError: when one runs.
    """
    # None outside a loop, where get_running_loop() would raise.
    if asyncio._get_running_loop() is not None:  # noqa: SLF001
        raise RuntimeError(
            f"{called}() was called where an event loop runs, which it would block; "
            f"write: await {instead}()"
        )


def _refuse_in_loop(function: Callable[..., Any]) -> None:
    name = getattr(function, "__qualname__", repr(function))
    require_no_loop(name, name)


def _loop() -> asyncio.AbstractEventLoop:
    global _bridge
    with _lock:
        if _bridge is None:
            _bridge = _Bridge()
        return _bridge.loop


# The bridge is closed at exit, so that its connections do not just break off.
atexit.register(close)
# Called at import for async_to_sync, and by the bridge again, for threads that a library
# patched in between.
separate_loops()


def callable_in_threads(method: F) -> F:
    """Let a coroutine method be called in a thread too, where it blocks until it is done.

    So ``self.send(...)`` needs no ``await`` in a handler that is a plain ``def``.
    """
    if getattr(method, "_tiderace_callable_in_threads", False):
        return method

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        # None in a thread, where get_running_loop() would raise.
        if asyncio._get_running_loop() is None:  # noqa: SLF001
            return async_to_sync(method)(*args, **kwargs)
        return method(*args, **kwargs)

    call._tiderace_callable_in_threads = True  # type: ignore[attr-defined]  # noqa: SLF001
    return cast("F", markcoroutinefunction(call))


class SyncCalls:
    """The coroutine methods of an object as blocking ones, for sync code.

    ``SyncCalls(layer).group_send("room", message)`` is ``await layer.group_send(...)``
    through ``call``.
    """

    __slots__ = ("_direct", "_target")

    def __init__(self, target: object, direct: Collection[str] = ()) -> None:
        self._target = target
        # Methods that do not wait when no event loop runs, and so need none.
        self._direct = direct

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._target, name)
        if not iscoroutinefunction(method):
            raise AttributeError(
                f"{type(self._target).__name__}.{name} is no coroutine function; call "
                "it directly"
            )

        run = call_directly if name in self._direct else call

        def blocking(*args: Any, **kwargs: Any) -> Any:
            return run(method, *args, **kwargs)

        return blocking
