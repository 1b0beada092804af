"""A live server for a test case, to which browsers and WebSocket clients connect."""

from __future__ import annotations

import multiprocessing
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.backends.base.creation import TEST_DATABASE_PREFIX
from django.test.testcases import TransactionTestCase
from django.test.utils import modify_settings
from django.utils.functional import classproperty

from tiderace import install_as_channels
from tiderace.compat.finder import AliasFinder
from tiderace.routing import get_default_application

if TYPE_CHECKING:
    from tiderace.asgi import ASGIApp
    from tiderace.server.development import DevelopmentServer

# Option of daphne's server: its name here.
_OPTIONS = {
    "ping_interval": "ping_interval",
    "ping_timeout": "ping_timeout",
    "websocket_max_message_size": "max_message_size",
    "graceful_timeout": "graceful_timeout",
}
# Options of daphne's server that have no effect here.
_IGNORED = frozenset(
    {
        "action_logger",
        "application_close_timeout",
        "http_timeout",
        "proxy_forwarded_address_header",
        "proxy_forwarded_port_header",
        "proxy_forwarded_proto_header",
        "request_buffer_size",
        "server_name",
        "verbosity",
        "websocket_connect_timeout",
        "websocket_handshake_timeout",
        "websocket_max_frame_size",
        "websocket_timeout",
    }
)


def make_application(*, static_wrapper: Callable[[Any], ASGIApp] | None) -> ASGIApp:
    """Return ``ASGI_APPLICATION``, inside ``static_wrapper`` if there is one.

    A function of the module, so that it can be pickled.
    """
    application: ASGIApp = get_default_application()
    if static_wrapper is not None:
        application = static_wrapper(application)
    return application


def set_database_connection(names: Mapping[str, str] | None = None) -> None:
    """Point the settings of this process at the test databases.

    ``names`` maps aliases to names; without it, the name for ``default`` is determined
    as Django does. A function of the module, so that it can be pickled.
    """
    if names is None:
        names = {"default": _test_name(settings.DATABASES["default"])}
    for alias, name in names.items():
        settings.DATABASES[alias]["NAME"] = name
        connections[alias].settings_dict["NAME"] = name


def _test_name(database: Mapping[str, Any]) -> str:
    name = str(database["NAME"])
    chosen = database.get("TEST", {}).get("NAME")
    if chosen:
        return str(chosen)
    # The settings of a forked child have the test database already.
    return (
        name if name.startswith(TEST_DATABASE_PREFIX) else TEST_DATABASE_PREFIX + name
    )


class ServerThread:
    """A server in a thread of this process, with the interface of ``ServerProcess``.

    ``databases`` are connections (by alias) that the server uses as its own: an
    in-memory SQLite database has one connection only. All sync code of the application
    then runs in this thread, one call at a time.

    ``setup`` and ``teardown`` are called in the thread, before and after serving.

    Raises:
        TypeError: for an unknown option in ``kwargs``.
    """

    def __init__(
        self,
        host: str,
        get_application: Callable[[], ASGIApp],
        kwargs: Mapping[str, Any] | None = None,
        setup: Callable[[], None] | None = None,
        teardown: Callable[[], None] | None = None,
        port: int | None = None,
        *,
        databases: Mapping[str, Any] | None = None,
    ) -> None:
        self.host = host
        self.get_application = get_application
        self.kwargs = _server_options(kwargs or {})
        self.setup = setup
        self.teardown = teardown
        self.port: Any = SimpleNamespace(value=port or 0)
        self.ready = threading.Event()
        self.errors: queue.SimpleQueue[tuple[BaseException, str]] = queue.SimpleQueue()
        self._databases = dict(databases or {})
        self._server: DevelopmentServer | None = None
        self._thread = threading.Thread(
            target=self._run, name="tiderace-live-server", daemon=True
        )

    def start(self) -> None:
        """Open the port and start the server; ``ready`` is set when it serves.

        Raises:
            ImportError: when uvicorn is not installed.
            OSError: when the port cannot be bound.
        """
        from tiderace.server.development import DevelopmentServer, ServerOptions

        options = ServerOptions(**self.kwargs)
        self._server = DevelopmentServer(self.host, self.port.value, options=options)
        self.port.value = self._server.port
        self._thread.start()

    def terminate(self) -> None:
        """Stop the server; it closes its sockets with 1012."""
        if self._server is not None:
            self._server.stop()

    def join(self, timeout: float | None = None) -> None:
        """Wait at most ``timeout`` seconds for the end of the server."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def is_alive(self) -> bool:
        """Return whether the server runs; it may not be ready yet."""
        return self._thread.is_alive()

    def _run(self) -> None:
        server = self._server
        assert server is not None  # start() made it before the thread
        try:
            application = self.get_application()
            for alias, connection in self._databases.items():
                connections[alias] = connection
            with _around(self.setup, self.teardown):
                if self._databases:
                    # The loop runs in another thread; this one runs the sync code.
                    async_to_sync(server.serve)(application, on_ready=self.ready.set)
                else:
                    server.run(application, on_ready=self.ready.set)
        except BaseException as error:
            self.errors.put((error, traceback.format_exc()))
        finally:
            server.close()
            connections.close_all()


class ServerProcess(multiprocessing.Process):
    """A server in a process of its own.

    It has the interface of daphne's ``DaphneProcess``: ``ready`` (an event),
    ``port.value``, ``errors`` (a queue of exception and traceback), and the
    methods of ``Process``. ``get_application``, ``setup`` and ``teardown`` run in the
    child; with ``spawn`` they must be functions of a module.

    ``kwargs`` takes the options of daphne's server: those that exist here
    (``ping_interval``, ``ping_timeout``, ``websocket_max_message_size``) take effect,
    the others are ignored.

    Raises:
        TypeError: for an unknown option in ``kwargs``.
    """

    def __init__(
        self,
        host: str,
        get_application: Callable[[], ASGIApp],
        kwargs: Mapping[str, Any] | None = None,
        setup: Callable[[], None] | None = None,
        teardown: Callable[[], None] | None = None,
        port: int | None = None,
    ) -> None:
        super().__init__()
        # First, since unpickling the other attributes may import channels.
        self._aliases = _Aliases()
        self.host = host
        self.get_application = get_application
        self.kwargs = _server_options(kwargs or {})
        self.setup = setup
        self.teardown = teardown
        self.port = multiprocessing.Value("i", port or 0)
        self.ready = multiprocessing.Event()
        self.errors: Any = multiprocessing.Queue()

    def run(self) -> None:
        """Serve until the process is terminated; called in the child."""
        try:
            from tiderace.server.development import DevelopmentServer, ServerOptions

            application = self.get_application()
            options = ServerOptions(**self.kwargs)
            server = DevelopmentServer(self.host, self.port.value, options=options)
            self.port.value = server.port
            # uvicorn raises the signal again after its graceful end, which must not
            # end the process before the teardown.
            signal.signal(signal.SIGTERM, lambda *_: server.stop())
            with _around(self.setup, self.teardown):
                server.run(application, on_ready=self.ready.set)
        except BaseException as error:
            self.errors.put((_picklable(error), traceback.format_exc()))


def _picklable(error: BaseException) -> BaseException:
    """Return ``error``, or its text in a RuntimeError if it cannot be pickled."""
    try:
        pickle.dumps(error)
    except Exception:
        return RuntimeError(repr(error))
    return error


class _Aliases:
    """Installs Tiderace as ``channels`` on unpickling, if it is installed here.

    For spawned children, which have imported nothing yet.
    """

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        installed = any(isinstance(finder, AliasFinder) for finder in sys.meta_path)
        return (install_as_channels if installed else object), ()


class ChannelsLiveServerTestCase(TransactionTestCase):
    """A test case with a live server of ``ASGI_APPLICATION``, one for the whole class.

    Its addresses are ``live_server_url`` and ``live_server_ws_url``. The server is
    uvicorn in a thread of the test's process, so patches, overridden settings and an
    in-memory SQLite database apply to it. Data must be committed, as
    ``TransactionTestCase`` does.

    ``ProtocolServerProcess`` may be set to a class with the interface of
    ``ServerProcess`` (daphne's ``DaphneProcess`` is one) to serve from another
    process, which refuses in-memory SQLite.

    ``static_wrapper`` serves static files if ``serve_static`` is true and
    ``STATIC_URL`` is set.
    """

    host: ClassVar[str] = "localhost"
    ProtocolServerProcess: ClassVar[Any] = ServerThread
    static_wrapper: ClassVar[Any] = ASGIStaticFilesHandler
    serve_static: ClassVar[bool] = True

    _server_process: ClassVar[Any]
    _port: ClassVar[int]

    @classproperty
    def live_server_url(cls) -> str:  # noqa: N805 (a property of the class)
        """``http://host:port`` of the server."""
        return f"http://{cls.host}:{cls._port}"

    @classproperty
    def live_server_ws_url(cls) -> str:  # noqa: N805 (a property of the class)
        """``ws://host:port`` of the server."""
        return f"ws://{cls.host}:{cls._port}"

    @classmethod
    def setUpClass(cls) -> None:
        """Start the server."""
        super().setUpClass()
        cls.enterClassContext(modify_settings(ALLOWED_HOSTS={"append": cls.host}))
        get_application = partial(
            make_application,
            static_wrapper=(
                cls.static_wrapper if cls.serve_static and settings.STATIC_URL else None
            ),
        )
        cls._server_process = cls._make_server(get_application)
        cls.addClassCleanup(cls._stop_server)
        cls._server_process.start()
        cls._wait_until_ready()
        cls._port = cls._server_process.port.value

    @classmethod
    def _make_server(cls, get_application: Callable[[], ASGIApp]) -> Any:
        in_memory = {
            connection.alias: connection
            for connection in connections.all()
            if cls._is_in_memory_db(connection)
        }
        kind = cls.ProtocolServerProcess
        if isinstance(kind, type) and issubclass(kind, ServerThread):
            for connection in in_memory.values():
                connection.inc_thread_sharing()
                cls.addClassCleanup(connection.dec_thread_sharing)
            return kind(cls.host, get_application, databases=in_memory)
        if in_memory:
            raise ImproperlyConfigured(
                f"{kind.__name__} serves from another process, which cannot reach the "
                f"in-memory database of {', '.join(sorted(in_memory))}; give the "
                f'database a file: DATABASES["default"]["TEST"] = {{"NAME": "…"}}, or '
                f"leave ProtocolServerProcess as it is"
            )
        names = {
            connection.alias: connection.settings_dict["NAME"]
            for connection in connections.all()
        }
        return kind(
            cls.host, get_application, setup=partial(set_database_connection, names)
        )

    @classmethod
    def _wait_until_ready(cls) -> None:
        server = cls._server_process
        while not server.ready.wait(timeout=0.1):
            if not server.is_alive():
                reason = ""
                if not server.errors.empty():
                    reason = f":\n{server.errors.get()[1]}"
                raise RuntimeError(f"the live server did not start{reason}")

    @classmethod
    def _stop_server(cls) -> None:
        if cls._server_process.is_alive():
            cls._server_process.terminate()
            cls._server_process.join()

    @classmethod
    def _is_in_memory_db(cls, connection: Any) -> bool:
        """Return whether ``connection`` is to SQLite in memory."""
        return connection.vendor == "sqlite" and bool(connection.is_in_memory_db())


@contextmanager
def _around(
    setup: Callable[[], None] | None, teardown: Callable[[], None] | None
) -> Iterator[None]:
    if setup is not None:
        setup()
    try:
        yield
    finally:
        if teardown is not None:
            teardown()


def _server_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return daphne's options by their names here, without the ignored ones."""
    for name in kwargs:
        if name not in _OPTIONS and name not in _IGNORED:
            raise TypeError(
                f"a live server has no option {name!r} (known: "
                f"{', '.join(sorted(_OPTIONS))})"
            )
    return {_OPTIONS[name]: kwargs[name] for name in kwargs if name in _OPTIONS}
