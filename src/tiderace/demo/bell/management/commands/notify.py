"""``notify``: send a notification to the demo's users from a terminal.

With the in-memory layer, which is limited to one process, the command sends a request
to the running server.
"""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth.models import User
from django.core import signing
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.urls import reverse

from tiderace.demo.bell.models import TEXT_LENGTH
from tiderace.demo.bell.tasks import notify_by_pk
from tiderace.demo.bell.views import COMMAND_SALT
from tiderace.layers import InMemoryChannelLayer, get_channel_layer

_TIMEOUT = 10


class Command(BaseCommand):
    """Notify everyone or one user."""

    help = "Notify everyone, or one user."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the text, a user and the server's address."""
        parser.add_argument("text", help="what to say, as plain text")
        parser.add_argument("--user", help="only this user (a user name)")
        parser.add_argument(
            "--url",
            default="http://127.0.0.1:8000",
            help="where the demo runs; asked when the channel layer is in memory "
            "(default: %(default)s)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Send through the layer, or through the server."""
        text = options["text"].strip()
        if not 0 < len(text) <= TEXT_LENGTH:
            raise CommandError(
                f"a notice has 1 to {TEXT_LENGTH} characters, not {len(text)}"
            )
        user = _user_pk(options["user"])
        if isinstance(get_channel_layer(), InMemoryChannelLayer):
            _ask_server(options["url"], {"text": text, "user": user})
        else:
            notify_by_pk(user, text, by="the notify command")
        whom = options["user"] or "everyone"
        self.stdout.write(f"Sent to {whom}.")


def _user_pk(name: str | None) -> Any:
    if name is None:
        return None
    user = User.objects.filter(username=name).first()
    if user is None:
        known = ", ".join(
            User.objects.order_by("username").values_list("username", flat=True)
        )
        raise CommandError(f"there is no user {name!r}; known are {known or 'none'}")
    return user.pk


def _ask_server(url: str, order: dict[str, Any]) -> None:
    address = urlsplit(url)
    if address.scheme != "http" or not address.hostname:
        raise CommandError(
            f"--url {url!r} is not an address like http://127.0.0.1:8000"
        )
    body = signing.dumps(order, salt=COMMAND_SALT)
    connection = HTTPConnection(address.hostname, address.port, timeout=_TIMEOUT)
    try:
        connection.request("POST", reverse("bell:by-command"), body)
        response = connection.getresponse()
        answer = response.read().decode("utf-8", "replace")
    except (OSError, HTTPException) as error:
        raise CommandError(
            f"no demo answers at {url} ({error}); start it with "
            "`python -m tiderace demo`, or say where it runs with --url"
        ) from error
    finally:
        connection.close()
    if response.status != 204:
        raise CommandError(
            f"the server at {url} answered {response.status}: {answer[:200]}; "
            "run the command with the same TIDERACE_DEMO_DATA as the server"
        )
