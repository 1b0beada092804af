"""The workers of the demo, run in each of its processes: it starts no other program.

On a site of yours they are a process: ``manage.py runworker telemetry answers``.
"""

from __future__ import annotations

from tiderace.demo.chat.answers import QUESTIONS, AnswerWorker
from tiderace.demo.devices.consumers import Storage
from tiderace.demo.devices.ingest import STORE
from tiderace.layers import get_channel_layer
from tiderace.routing import get_default_application
from tiderace.runtime.lifespan import while_serving
from tiderace.worker import Worker

channels = {STORE: Storage.as_asgi(), QUESTIONS: AnswerWorker.as_asgi()}


@while_serving
async def work() -> None:
    """Read the named channels."""
    layer = get_channel_layer()
    await Worker(get_default_application(), list(channels), layer).arun()
