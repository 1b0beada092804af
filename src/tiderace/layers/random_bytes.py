"""Makes random bytes for ids that only have to differ, without a system call for each."""

from __future__ import annotations

import random

from tiderace.runtime.forks import after_fork

# An application may seed the global generator the same in all processes, so there is one
# for Tiderace alone. A forked child seeds its own.
_generator = random.Random()  # noqa: S311
after_fork(_generator.seed)

random_bytes = _generator.randbytes
"""Returns a number of random bytes, which an observer may be able to predict."""
