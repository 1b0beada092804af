"""Every exception of Tiderace, control-flow signals apart from errors.

Signals, which are no errors::

    StopConsumer        raised by a handler: end this consumer
    AcceptConnection    raised inside connect(): accept the socket
    DenyConnection      raised inside connect(): refuse the socket

Errors::

    ChannelFull                       a direct send found the channel at capacity
    MessageTooLarge                   a message is larger than the layer takes
    LayerUnavailable                  a layer's broker is away (a ConnectionError)
    └── LayerAccessDenied             it refuses the layer's user or password
    InvalidChannelLayerError          CHANNEL_LAYERS cannot be used (a ValueError)
    UnknownMessageType                no handler for a message's type (a ValueError)
    RequestAborted
    └── RequestTimeout
    TokenInvalid                      a token or ticket is invalid (a ValueError)
    ├── TokenExpired
    └── TokenNotYetValid

The names and bases are those of ``channels.exceptions``, so that ``except``
clauses written for Channels go on working.
"""

__all__ = [
    "AcceptConnection",
    "ChannelFull",
    "DenyConnection",
    "InvalidChannelLayerError",
    "LayerAccessDenied",
    "LayerUnavailable",
    "MessageTooLarge",
    "RateExceeded",
    "RequestAborted",
    "RequestTimeout",
    "StopConsumer",
    "TokenExpired",
    "TokenInvalid",
    "TokenNotYetValid",
    "UnknownMessageType",
]


class RequestAborted(Exception):
    """The client went away while its request body was being read."""


class RequestTimeout(RequestAborted):
    """The request body did not arrive in time."""


class InvalidChannelLayerError(ValueError):
    """A channel layer is missing, misconfigured, or lacks what was asked of it."""


class AcceptConnection(Exception):
    """Raised inside ``connect()`` of a WebSocket consumer to accept the socket."""


class DenyConnection(Exception):
    """Raised inside ``connect()`` of a WebSocket consumer to refuse the socket."""


class ChannelFull(Exception):
    """A message could not be sent because the channel is at its capacity."""


class RateExceeded(Exception):
    """A rate limit does not allow another action yet, so it was not done.

    Args:
        delay: the seconds until it is allowed.
    """

    def __init__(self, delay: float) -> None:
        super().__init__(f"a rate limit allows this in {delay:g} seconds, not now")
        self.delay = delay


class MessageTooLarge(Exception):
    """A message is larger than the channel layer accepts."""


class StopConsumer(Exception):
    """Raised by a handler to end its consumer cleanly."""


class UnknownMessageType(ValueError):
    """A message names a type for which the consumer has no handler."""


class LayerUnavailable(ConnectionError):
    """A channel layer could not reach its broker within its publish timeout."""


class LayerAccessDenied(LayerUnavailable):
    """The broker refuses the user or password of the layer; waiting does not help."""


class TokenInvalid(ValueError):
    """A token, ticket or signed name is invalid.

    Its text is the reason, for the log. It never contains the token, and is not sent to
    the client.
    """


class TokenExpired(TokenInvalid):
    """A token was valid and has expired; the client may fetch another."""


class TokenNotYetValid(TokenInvalid):
    """A token will be valid later (``nbf``); the client may send it again then."""
