"""Prints connection tokens of the users 1, 2, ... as JSON.

``python -m benchmarks.drills.tokens 20``
"""

from __future__ import annotations

import json
import sys

from benchmarks.drills import site  # noqa: F401 (sets Django up)

from django.contrib.auth.models import User  # isort: skip
from tiderace.topics.tokens import connection_token  # isort: skip

users = [User(pk=number + 1, username="") for number in range(int(sys.argv[1]))]
print(json.dumps([connection_token(user) for user in users]))
