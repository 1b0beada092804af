"""Drills: faults in real servers, processes and sockets, with every message counted.

    python -m benchmarks.drills                      all of them, within 20 minutes
    python -m benchmarks.drills broker-cut presence  some
    python -m benchmarks.drills --stack channels     those that Channels can run

A drill is one file in ``scenarios``: it starts servers, loads them, lets something fail,
and returns its row of the table. The exit status is 1 if a message was lost without a
report, delivered twice or out of order, or if something was left behind.
"""

import sys
from pathlib import Path

# Drills start brokers with what the tests have for it.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
