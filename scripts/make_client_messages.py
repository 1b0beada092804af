"""Make ``tiderace/protocol/client_messages.py`` of ``spec/client.proto``.

    uv run --with grpcio-tools scripts/make_client_messages.py

The compiled file, not the usual generated module: that one works with the protobuf
runtimes of a few years only, and puts its names where other packages put theirs.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "spec" / "client.proto"
TARGET = ROOT / "src" / "tiderace" / "protocol" / "client_messages.py"

MODULE = '''"""The messages of ``spec/client.proto``, compiled; made by scripts/make_client_messages.py.

``protocol.protobuf`` loads them.
"""

from __future__ import annotations

import base64

__all__ = ["MESSAGES", "PACKAGE", "SOURCE_SHA256"]

PACKAGE = "centrifugal.centrifuge.protocol"

SOURCE_SHA256 = "{digest}"
"""The digest of the file from which this module was generated."""

# A FileDescriptorProto.
MESSAGES = base64.b64decode(
    """
{body}
    """
)
'''


def compiled(source: Path) -> bytes:
    """The source as a serialized FileDescriptorProto."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "set")
        subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc"),
                f"--proto_path={source.parent}",
                f"--descriptor_set_out={target}",
                source.name,
            ],
            check=True,
        )
        files = target.read_bytes()
    # A FileDescriptorSet with one file in it: tag 1, the length as a varint, the file.
    assert files[0] == 0x0A
    place = 1
    while files[place] >= 0x80:
        place += 1
    return files[place + 1 :]


def main() -> None:
    """Write the module."""
    text = base64.b64encode(compiled(SOURCE)).decode()
    body = textwrap.indent("\n".join(textwrap.wrap(text, 84)), "    ")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    TARGET.write_text(MODULE.format(digest=digest, body=body))


if __name__ == "__main__":
    main()
