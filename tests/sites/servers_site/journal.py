"""What the consumers went through, one line an event, in a file that outlives them."""

import os
from pathlib import Path


def write(*words):
    """Append one line; a single short write, so that lines never mix."""
    with Path(os.environ["SERVERS_SITE_JOURNAL"]).open("a") as file:
        file.write(" ".join(str(word) for word in words) + "\n")
