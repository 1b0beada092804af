"""Stand-in for ``daphne.endpoints``: Twisted's endpoint descriptions."""

from __future__ import annotations

__all__ = ["build_endpoint_description_strings", "read_tcp_endpoint"]


def build_endpoint_description_strings(
    host: str | None = None,
    port: int | None = None,
    unix_socket: str | None = None,
    file_descriptor: int | None = None,
) -> list[str]:
    """Return a description per given address: ``tcp:port=8000:interface=127.0.0.1``.

    Raises:
        ValueError: when only one of ``host`` and ``port`` is given.
    """
    descriptions = []
    if host and port is not None:
        bare = host.strip("[]").replace(":", r"\:")
        descriptions.append(f"tcp:port={port}:interface={bare}")
    elif host or port:
        raise ValueError(f"host and port go together, got {host!r} and {port!r}")
    if unix_socket:
        descriptions.append(f"unix:{unix_socket}")
    if file_descriptor is not None:
        descriptions.append(f"fd:fileno={file_descriptor}")
    return descriptions


def read_tcp_endpoint(description: str) -> tuple[str, int]:
    """Return host and port of a description like ``tcp:port=8000:interface=127.0.0.1``.

    Without an interface the host is ``0.0.0.0``; ``tcp:8000`` is accepted too.

    Raises:
        ValueError: for another kind of endpoint, or one without a port.
    """
    kind, *parts = (
        part.replace("\0", ":") for part in description.replace(r"\:", "\0").split(":")
    )
    fields: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        fields[name if equals else "port"] = value if equals else part
    if kind != "tcp" or not fields.get("port", "").isdecimal():
        raise ValueError(
            f"cannot serve at {description!r}; this server takes one endpoint of the "
            "form tcp:port=8000:interface=127.0.0.1, and for a Unix socket or a file "
            "descriptor call uvicorn itself (--uds, --fd)"
        )
    return fields.get("interface", "0.0.0.0"), int(fields["port"])  # noqa: S104
