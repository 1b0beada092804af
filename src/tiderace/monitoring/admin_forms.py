"""The admin's actions as forms: disconnect a user, close a topic, send a notice."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.utils.translation import ngettext

from tiderace.layers import get_channel_layer
from tiderace.monitoring import cluster_connections
from tiderace.runtime import sync_bridge
from tiderace.topics.declaration.topic import UnknownTopic, declared
from tiderace.topics.server_api import calls

# Bytes of a close reason, by RFC 6455.
_REASON = 123

# Characters that break a line of a log, or change its direction.
_one_line = RegexValidator(
    r"[\x00-\x1f\x7f-\x9f\u2028-\u202e]",
    "Use one line of plain text.",
    inverse_match=True,
)
_message_type = RegexValidator(
    r"^[a-zA-Z][a-zA-Z0-9_]*(\.[a-zA-Z0-9_]+)*\Z",
    "Use letters, digits, underscores and dots.",
)


def _short(text: str) -> None:
    if len(text.encode("utf-8", "surrogatepass")) > _REASON:
        raise ValidationError(f"Use at most {_REASON} bytes; clients get no more.")


def _declared(topic: str) -> None:
    try:
        declared.resolve(topic)
    except UnknownTopic as error:
        raise ValidationError(str(error)) from None


class ActionForm(forms.Form):
    """An action of the admin's page."""

    permission: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    """Asked before the action is run."""
    subject: ClassVar[str]
    """A template for the admin's log, as the next one."""
    description: ClassVar[str]

    def run(self) -> str:
        """Run the action of a valid form; return a message for the user.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
            RuntimeError: when there is no layer that can do it.
        """
        raise NotImplementedError


class DisconnectForm(ActionForm):
    """A user whose connections are closed, and the reason."""

    permission = "disconnect_users"
    title = "Disconnect a user"
    question = "Close all connections of this user?"
    subject = "user {user}"
    description = "Disconnected. Reason: {reason}"

    user = forms.CharField(
        max_length=150,
        validators=[_one_line],
        help_text="The primary key, as the list shows it in brackets.",
    )
    reason = forms.CharField(
        max_length=_REASON,
        widget=AdminTextInputWidget,
        validators=[_one_line, _short],
        help_text="It is sent to the clients and written to the admin's log.",
    )

    def run(self) -> str:
        user = self.cleaned_data["user"]
        ended = sync_bridge.call(
            cluster_connections.disconnect_user_everywhere,
            user,
            self.cleaned_data["reason"],
        )
        return _summary(ended, f"user {user}")


class CloseTopicForm(ActionForm):
    """A topic whose subscriptions are ended, and the reason."""

    permission = "close_topics"
    title = "Close a topic"
    question = "End all subscriptions to this topic?"
    subject = "topic {topic}"
    description = "Closed. Reason: {reason}"

    topic = forms.CharField(
        widget=AdminTextInputWidget,
        max_length=180,
        strip=False,
        validators=[_one_line, _declared],
        help_text="Its name, such as room:lobby. Who may subscribe may do so again.",
    )
    reason = forms.CharField(
        max_length=200,
        widget=AdminTextInputWidget,
        validators=[_one_line],
        help_text="For the admin's log alone.",
    )

    def run(self) -> str:
        topic = self.cleaned_data["topic"]
        ended = sync_bridge.call(cluster_connections.close_topic_everywhere, topic)
        return _summary(ended, f"topic {topic}")


class NoticeForm(ActionForm):
    """A notice, and its recipients: a short text to a user, a topic or a group."""

    permission = "send_notices"
    title = "Send a notice"
    question = "Send this?"
    subject = "{to} {name}"
    description = "Sent a notice ({message_type}): {line}"

    to = forms.ChoiceField(
        choices=[
            ("user", "a user's topic clients"),
            ("topic", "the subscribers of a topic"),
            ("group", "the consumers in a group"),
        ],
    )
    name = forms.CharField(
        widget=AdminTextInputWidget,
        max_length=180,
        strip=False,
        validators=[_one_line],
        help_text="The user's primary key, or the name of the topic or group.",
    )
    message_type = forms.CharField(
        initial="notice",
        max_length=100,
        validators=[_message_type],
        help_text="The “type” of the message. Consumers call the method of that name.",
    )
    text = forms.CharField(
        max_length=2000,
        widget=AdminTextareaWidget(attrs={"rows": 4}),
    )

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
        data["line"] = " ".join(data.get("text", "").split())
        return data

    def run(self) -> str:
        data = self.cleaned_data
        to, name = data["to"], data["name"]
        message = {"type": data["message_type"], "text": data["text"]}
        if to == "user":
            sync_bridge.call(calls.asend_to, name, message)
        elif to == "topic":
            sync_bridge.call(calls.apublish_at_once, name, message)
        else:
            sync_bridge.call(get_channel_layer().group_send, name, message)
        return f"The notice to {to} {name} is on its way."


# By the name in their URLs.
ACTIONS: dict[str, type[ActionForm]] = {
    "disconnect": DisconnectForm,
    "close_topic": CloseTopicForm,
    "send_notice": NoticeForm,
}


def _summary(ended: cluster_connections.EndedConnections, whose: str) -> str:
    text = ngettext(
        "%(count)d connection of %(whose)s is being ended.",
        "%(count)d connections of %(whose)s are being ended.",
        ended.count,
    ) % {"count": ended.count, "whose": whose}
    if ended.silent:
        text += f" No answer in time from {', '.join(ended.silent)}."
    return text
