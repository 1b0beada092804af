"""Spans for OpenTelemetry: connecting, handling events and messages, publishing.

    tracing.enable()        # in an AppConfig.ready, or in asgi.py

``enable`` wraps the few methods that begin such work; before it nothing is wrapped, so
tracing costs nothing. A message that is delivered to a thousand sockets makes one span,
that of its sender.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tiderace.asgi import Event, Scope, client_address, connection_id, known_user_id
from tiderace.consumer import AsyncConsumer
from tiderace.exceptions import AcceptConnection, DenyConnection, StopConsumer
from tiderace.layers import InMemoryChannelLayer
from tiderace.layers.pubsub.layer import PubSubLayer
from tiderace.protocol.codes import INTERNAL
from tiderace.protocol.session import ConnectionEnded, Refused
from tiderace.topics.client.client import TopicClient

try:
    from opentelemetry import propagate as propagation
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode
except ImportError as error:
    raise ImportError(
        f'{error}; install it with: pip install "tiderace[otel]"'
    ) from error

__all__ = ["CONTEXT_KEY", "context_of", "disable", "enable"]

CONTEXT_KEY = "tracecontext"
"""The key of the sender's context in a message, with ``propagate``."""

_EVENTS = frozenset(
    {"websocket.connect", "websocket.receive", "websocket.disconnect", "http.request"}
)
_PUBLISHING = ("send", "group_send", "group_broadcast", "stream_publish")
# Raised by handlers to control the connection; nothing has failed.
_SIGNALS = (AcceptConnection, DenyConnection, ConnectionEnded, StopConsumer)

# The methods that were replaced.
_originals: list[tuple[type, str, Any]] = []


def enable(
    tracer_provider: trace.TracerProvider | None = None, *, propagate: bool = False
) -> None:
    """Make spans from now on; a second call replaces the first.

    Args:
        tracer_provider: receives the spans; the global one by default.
        propagate: whether messages that are dicts carry the context of their sender,
            as ``message["tracecontext"]``: a worker's spans then belong to the trace
            of the request that gave it work. Every handler gets the key, and so does a
            client to which a whole message is passed on.
    """
    disable()
    tracer = trace.get_tracer("tiderace", tracer_provider=tracer_provider)
    _replace(AsyncConsumer, "dispatch", functools.partial(_traced_dispatch, tracer))
    _replace(TopicClient, "run_command", functools.partial(_traced_command, tracer))
    for layer in (InMemoryChannelLayer, PubSubLayer):
        for verb in _PUBLISHING:
            _replace(
                layer, verb, functools.partial(_traced_verb, tracer, verb, propagate)
            )


def disable() -> None:
    """Make no more spans."""
    while _originals:
        owner, name, original = _originals.pop()
        setattr(owner, name, original)


def context_of(message: Mapping[str, Any]) -> Context:
    """Return the context in which ``message`` was sent, for a handler's own span.

    Without one in the message, it is the running one.
    """
    carrier = message.get(CONTEXT_KEY)
    return propagation.extract(carrier if isinstance(carrier, dict) else {})


def _replace(owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
    original = vars(owner)[name]
    _originals.append((owner, name, original))
    setattr(owner, name, functools.wraps(original)(wrap(original)))


def _traced_dispatch(tracer: trace.Tracer, original: Any) -> Any:
    async def dispatch(self: AsyncConsumer, message: Event) -> None:
        kind = message.get("type")
        is_worker = self.scope.get("type") == "channel"
        if not is_worker and kind not in _EVENTS:
            # One delivery of a message, whose span its sender has made.
            await original(self, message)
            return
        name = type(self).__qualname__
        attributes = {"tiderace.consumer": name}
        context, span_kind = None, SpanKind.SERVER
        if is_worker:
            attributes["messaging.destination.name"] = str(self.scope.get("channel"))
            context, span_kind = context_of(message), SpanKind.CONSUMER
        else:
            attributes |= _of_connection(self.scope)
            if kind in ("websocket.connect", "http.request"):
                context = _of_handshake(self.scope)
        with _span(tracer, f"{kind} {name}", span_kind, attributes, context):
            await original(self, message)

    return dispatch


def _traced_command(tracer: trace.Tracer, original: Any) -> Any:
    async def run_command(self: TopicClient, name: str, request: Any) -> Any:
        if name == "ping":
            return await original(self, name, request)
        attributes = {}
        if topic := getattr(request, "channel", ""):
            attributes["messaging.destination.name"] = topic
        with _span(tracer, f"topic {name}", SpanKind.SERVER, attributes):
            return await original(self, name, request)

    return run_command


def _traced_verb(
    tracer: trace.Tracer, verb: str, propagate: bool, original: Any
) -> Callable[..., Awaitable[Any]]:
    carries = propagate and verb in ("send", "group_send")
    signature = inspect.signature(original)

    async def publish(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        given = call.arguments
        target = given.get("group", given.get("channel", ""))
        attributes = {
            "messaging.system": "tiderace",
            "messaging.operation.name": verb,
            "messaging.destination.name": _named(target),
        }
        with _span(tracer, verb, SpanKind.PRODUCER, attributes):
            if carries and isinstance(given["message"], dict):
                carrier: dict[str, str] = {}
                propagation.inject(carrier)
                given["message"] = {**given["message"], CONTEXT_KEY: carrier}
            return await original(*call.args, **call.kwargs)

    return publish


@contextmanager
def _span(
    tracer: trace.Tracer,
    name: str,
    kind: SpanKind,
    attributes: Mapping[str, Any],
    context: Context | None = None,
) -> Iterator[Span]:
    with tracer.start_as_current_span(
        name,
        context=context,
        kind=kind,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except _SIGNALS:
            raise
        except Refused as refused:
            # A reply, of which INTERNAL alone means that the server failed.
            span.set_attribute("tiderace.error_code", refused.failure.code)
            if refused.failure == INTERNAL:
                span.set_status(Status(StatusCode.ERROR, refused.failure.message))
            raise
        except Exception as error:
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _of_connection(scope: Scope) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "tiderace.connection_id": connection_id(scope),
        "url.path": scope.get("path", ""),
        "client.address": client_address(scope),
    }
    if (user := known_user_id(scope)) is not None:
        attributes["enduser.id"] = str(user)
    return attributes


def _of_handshake(scope: Scope) -> Context | None:
    """Return the context in the client's request, unless a span is running already."""
    if trace.get_current_span().get_span_context().is_valid:
        return None
    headers = {
        name.decode("latin1"): value.decode("latin1")
        for name, value in scope.get("headers", ())
    }
    return propagation.extract(headers)


def _named(target: Any) -> str:
    return target if isinstance(target, str) else ",".join(map(str, target))
