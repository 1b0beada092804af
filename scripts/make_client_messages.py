"""Make ``tiderace/protocol/client_messages.bin`` of ``spec/client.proto``.

    uv run --with grpcio-tools scripts/make_client_messages.py

The compiled file, not the usual generated module: that one works with the protobuf
runtimes of a few years only, and puts its names where other packages put theirs.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "spec" / "client.proto"
MODULE = ROOT / "src" / "tiderace" / "protocol" / "client_messages.py"


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
    """Write the compiled messages, and the digest of their source into the module."""
    MODULE.with_suffix(".bin").write_bytes(compiled(SOURCE))
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    module = re.sub(r'(?<=SOURCE_SHA256 = ")\w+', digest, MODULE.read_text())
    MODULE.write_text(module)


if __name__ == "__main__":
    main()
