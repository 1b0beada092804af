"""The messages of ``spec/client.proto``, compiled; made by scripts/make_client_messages.py.

``protocol.protobuf`` loads them.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = "centrifugal.centrifuge.protocol"

SOURCE_SHA256 = "cc07a2149d82a96764236ca9cf82d5d2fb2d0ed7f630e933b79325d34cd7d9d6"
"""The digest of the file from which they were compiled."""

# A FileDescriptorProto.
MESSAGES = Path(__file__).with_suffix(".bin").read_bytes()
