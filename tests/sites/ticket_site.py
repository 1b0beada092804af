"""A site of one socket that wants a ticket, for servers and browsers to be tried with.

The ticket is not looked up: it has to end in ``good``. The socket answers every message
with what it sees of the handshake.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

from django.conf import settings

if not settings.configured:
    settings.configure(SECRET_KEY="tests-only", ALLOWED_HOSTS=["*"])

from tiderace.exceptions import TokenInvalid
from tiderace.routing import ProtocolTypeRouter
from tiderace.security.bearer import TicketAuthMiddleware


class Tickets(TicketAuthMiddleware):
    async def authenticate(self, text, *, only_once):
        if not text.endswith("good"):
            raise TokenInvalid("it does not end in good")
        return SimpleNamespace(name="ada"), None


async def echo(scope, receive, send):
    seen = {
        "user": scope["user"].name,
        "protocols": scope["subprotocols"],
        "query": scope["query_string"].decode(),
        "headers": [[n.decode(), v.decode("latin1")] for n, v in scope["headers"]],
    }
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "websocket.send", "text": json.dumps(seen)})


application = ProtocolTypeRouter({"websocket": Tickets(echo, required=True)})
