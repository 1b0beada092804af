"""How long streams are kept in a database."""

from __future__ import annotations

from tiderace.layers.broker import Retention
from tiderace.layers.database.retention import StreamRetention


def test_a_stream_without_a_publication_lasts_three_times_the_expiry():
    retention = StreamRetention(keep_ms=60_000)
    retention.set_history(Retention(100, 86_400))

    assert retention.position_ttl_ms(last=0) == 180_000


def test_the_position_of_a_stream_lasts_ten_times_its_history():
    retention = StreamRetention(keep_ms=60_000)
    retention.set_history(Retention(100, 86_400))

    assert retention.position_ttl_ms(last=1) == 864_000_000
