"""The forms of the admin's actions: disconnect a user, close a topic, send a notice."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from tiderace.layers import get_channel_layer
from tiderace.runtime import sync_bridge
from tiderace.topics import api
from tiderace.topics.topic import UnknownTopic, declared

__all__ = ["CloseTopicForm", "DisconnectForm", "NoticeForm", "send_notice"]

# Bytes of a close reason, by RFC 6455.
_REASON = 123

_MESSAGE_TYPE = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*(\.[a-zA-Z0-9_]+)*")


def _one_line(text: str) -> None:
    """Refuse characters that break a line of a log, or change its direction."""
    for character in text:
        kind = unicodedata.category(character)
        if kind in ("Cc", "Zl", "Zp") or character in "\u202a\u202b\u202c\u202d\u202e":
            raise ValidationError("Use one line of plain text.")


def _short(text: str) -> None:
    if len(text.encode("utf-8", "surrogatepass")) > _REASON:
        raise ValidationError(f"Use at most {_REASON} bytes; clients get no more.")


def _declared(topic: str) -> None:
    try:
        declared.resolve(topic)
    except UnknownTopic as error:
        raise ValidationError(str(error)) from None


def _wide() -> forms.TextInput:
    return forms.TextInput(attrs={"class": "vTextField"})


class DisconnectForm(forms.Form):
    """A user whose connections are closed, and the reason."""

    user = forms.CharField(
        max_length=150,
        validators=[_one_line],
        label="User",
        help_text="The primary key, as the list shows it in brackets.",
    )
    reason = forms.CharField(
        max_length=_REASON,
        widget=_wide(),
        validators=[_one_line, _short],
        help_text="It is sent to the clients and written to the admin's log.",
    )

    def subject(self) -> str:
        """Return the object of the action, for the log."""
        return f"user {self.cleaned_data['user']}"

    def description(self) -> str:
        """Return a description of the action, for the log."""
        return f"Disconnected. Reason: {self.cleaned_data['reason']}"


class CloseTopicForm(forms.Form):
    """A topic whose subscriptions are ended, and the reason."""

    topic = forms.CharField(
        widget=_wide(),
        max_length=180,
        strip=False,
        validators=[_one_line, _declared],
        help_text="Its name, such as room:lobby. Who may subscribe may do so again.",
    )
    reason = forms.CharField(
        max_length=200,
        widget=_wide(),
        validators=[_one_line],
        help_text="For the admin's log alone.",
    )

    def subject(self) -> str:
        """Return the object of the action, for the log."""
        return f"topic {self.cleaned_data['topic']}"

    def description(self) -> str:
        """Return a description of the action, for the log."""
        return f"Closed. Reason: {self.cleaned_data['reason']}"


class NoticeForm(forms.Form):
    """A notice, and its recipients."""

    to = forms.ChoiceField(
        choices=[
            ("user", "a user's topic clients"),
            ("topic", "the subscribers of a topic"),
            ("group", "the consumers in a group"),
        ],
    )
    name = forms.CharField(
        widget=_wide(),
        max_length=180,
        strip=False,
        validators=[_one_line],
        help_text="The user's primary key, or the name of the topic or group.",
    )
    message_type = forms.CharField(
        initial="notice",
        max_length=100,
        help_text="The “type” of the message. Consumers call the method of that name.",
    )
    text = forms.CharField(
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField"}),
    )

    def clean_message_type(self) -> str:
        """Return a type that names a handler."""
        kind: str = self.cleaned_data["message_type"]
        if not _MESSAGE_TYPE.fullmatch(kind):
            raise ValidationError("Use letters, digits, underscores and dots.")
        return kind

    def clean(self) -> dict[str, Any]:
        """Refuse a name that is illegal for its kind."""
        data = super().clean() or self.cleaned_data
        to, name = data.get("to"), data.get("name")
        if to == "topic" and name:
            try:
                _declared(name)
            except ValidationError as error:
                self.add_error("name", error)
        elif to == "group" and name:
            try:
                get_channel_layer().require_valid_group_name(name)
            except (AttributeError, TypeError, ValueError) as error:
                self.add_error("name", str(error))
        return data

    def subject(self) -> str:
        """Return the object of the action, for the log."""
        return f"{self.cleaned_data['to']} {self.cleaned_data['name']}"

    def description(self) -> str:
        """Return a description of the action, for the log."""
        text = " ".join(self.cleaned_data["text"].split())
        return f"Sent a notice ({self.cleaned_data['message_type']}): {text}"


def send_notice(data: dict[str, Any]) -> str:
    """Send the notice of a valid ``NoticeForm``; return a message for the user.

    Raises:
        LayerUnavailable: when the broker could not be reached in time.
        RuntimeError: when there is no layer that can do it.
    """
    to, name = data["to"], data["name"]
    message = {"type": data["message_type"], "text": data["text"]}
    if to == "user":
        sync_bridge.call(api.asend_to, name, message)
    elif to == "topic":
        sync_bridge.call(api.apublish, name, message)
    else:
        sync_bridge.call(get_channel_layer().group_send, name, message)
    return f"The notice to {to} {name} is on its way."
