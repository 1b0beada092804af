"""The engines over which topics are tested, and topics of a test's own."""

from support.topics.engines import (  # noqa: F401 (fixtures)
    elsewhere,
    engine,
    own_topics,
    postgresql_alias,
    shared_engine,
    shared_postgresql,
)
from support.topics.rooms import app, fresh_layer, people  # noqa: F401 (fixtures)
