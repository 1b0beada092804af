"""The consumers' events, one on each line of a file that outlives their processes."""

import os
from pathlib import Path


def write(*words):
    """Append one line; a single short write, so that lines never mix."""
    with Path(os.environ["SERVERS_SITE_JOURNAL"]).open("a") as file:
        file.write(" ".join(str(word) for word in words) + "\n")
