"""The one entry of every chore: demo, test, check, bench, docs, clean.

It uses the standard library alone, because it runs before anything is installed.
"""

from __future__ import annotations

import sys

from workshop.tasks import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
