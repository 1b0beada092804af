"""Tests of the metrics."""

from __future__ import annotations

from contextlib import contextmanager

from tiderace import metrics
from tiderace.generic.websocket import AsyncWebsocketConsumer
from tiderace.layers import InMemoryChannelLayer, get_channel_layer
from tiderace.metrics import (
    Histogram,
    LabelledCounter,
    Measurement,
    histograms,
    labelled_counters,
    measurements,
)
from tiderace.routing import URLRouter
from tiderace.security.websocket import OriginValidator
from tiderace.testing import WebsocketCommunicator


def test_a_counter_starts_at_zero_and_adds_up():
    counted = Measurement("fish", "pieces", "fish that were seen")

    counted.add()
    counted.add(4)

    assert counted.value == 5


def test_a_gauge_goes_down_again():
    level = Measurement("tide", "metres", "height of the water", "gauge")

    level.add(3)
    level.add(-1)

    assert level.value == 2


def test_every_metric_is_listed_once_with_a_unit_and_a_description():
    listed = list(measurements())

    assert metrics.MESSAGES_SENT in listed
    assert len({each.name for each in listed}) == len(listed)
    assert all(each.unit and each.meaning for each in listed)
    assert {each.kind for each in listed} == {"counter", "gauge"}


def test_every_metric_has_a_public_name():
    named = {getattr(metrics, name) for name in metrics.__all__ if name.isupper()}

    assert named == {*measurements(), *labelled_counters(), *histograms()}


def test_a_labelled_counter_counts_each_label():
    closes = LabelledCounter("closes", "sockets", "code", "sockets that were closed")

    closes.add(1000)
    closes.add(1000)
    closes.add("refused")

    assert closes.values == {"1000": 2, "refused": 1}


def test_a_labelled_counter_has_at_most_a_hundred_labels():
    """Values that strangers or applications choose would grow for ever."""
    closes = LabelledCounter("closes", "sockets", "code", "sockets that were closed")

    for code in range(4000, 4200):
        closes.add(code)
    closes.add(4000)

    assert len(closes.values) == 101
    assert (closes.values["4000"], closes.values["other"]) == (2, 100)


def test_a_histogram_counts_values_by_bounds():
    waves = Histogram("waves", "metres", "height of waves", (1.0, 2.0))

    for height in (0.5, 1.0, 1.5, 7.0):
        waves.observe(height)

    assert waves.counts == [2, 1, 1]
    assert (waves.count, waves.total) == (4, 10.0)


def test_a_quantile_is_interpolated_between_the_bounds():
    waves = Histogram("waves", "metres", "height of waves", (1.0, 2.0, 4.0))
    for height in (0.5, 0.5, 1.5, 3.0):
        waves.observe(height)

    assert waves.quantile(0.5) == 1.0
    assert waves.quantile(0.75) == 2.0
    assert waves.quantile(0.875) == 3.0


def test_a_quantile_above_the_bounds_is_the_largest_bound():
    waves = Histogram("waves", "metres", "height of waves", (1.0, 2.0))
    waves.observe(30.0)

    assert waves.quantile(0.99) == 2.0


def test_a_quantile_since_an_earlier_reading_leaves_out_what_was_counted_before():
    waves = Histogram("waves", "metres", "height of waves", (1.0, 2.0))
    waves.observe(0.5)
    before = list(waves.counts)

    assert waves.quantile(0.5, since=before) is None
    waves.observe(1.5)
    assert waves.quantile(1.0, since=before) == 2.0


def test_every_metric_has_a_unit_a_description_and_a_unique_name():
    everything = [*measurements(), *labelled_counters(), *histograms()]

    assert all(each.unit and each.meaning for each in everything)
    assert len({each.name for each in everything}) == len(everything)


def test_bounds_ascend():
    for each in histograms():
        assert list(each.bounds) == sorted(set(each.bounds))


# What connections and layers measure


@contextmanager
def growth(of):
    """How much a tally or histogram has grown within the block."""
    before = dict(of.values) if isinstance(of, LabelledCounter) else of.count
    grown = {}
    yield grown
    if isinstance(of, LabelledCounter):
        more = {label: n - before.get(label, 0) for label, n in of.values.items()}
        grown.update({label: n for label, n in more.items() if n})
    else:
        grown["count"] = of.count - before


class Socket(AsyncWebsocketConsumer):
    groups = ["metrics.tea"]

    async def receive(self, text_data=None, bytes_data=None):
        await self.close(int(text_data))

    async def poured(self, event):
        pass


class Refusal(AsyncWebsocketConsumer):
    async def connect(self):
        await self.close(4003)


async def test_a_close_is_counted_by_the_code_the_application_sent():
    with growth(metrics.CLOSES_SENT) as grown:
        communicator = WebsocketCommunicator(Socket.as_asgi(), "/")
        await communicator.connect()
        await communicator.send_to("4001")
        await communicator.receive_output()
        await communicator.wait()

    assert grown == {"4001": 1}


async def test_a_refused_handshake_is_counted_as_such():
    with growth(metrics.CLOSES_SENT) as grown:
        await WebsocketCommunicator(Refusal.as_asgi(), "/").connect()

    assert grown == {"refused": 1}


async def test_a_disconnect_is_counted_by_its_code():
    with growth(metrics.CLOSES_RECEIVED) as grown:
        communicator = WebsocketCommunicator(Socket.as_asgi(), "/")
        await communicator.connect()
        await communicator.disconnect(1001)

    assert grown == {"1001": 1}


async def test_every_handler_of_a_clients_events_is_timed():
    with growth(metrics.HANDLER_DURATION) as grown:
        communicator = WebsocketCommunicator(Socket.as_asgi(), "/")
        await communicator.connect()
        await communicator.disconnect()

    assert grown["count"] == 2  # connect and disconnect


async def test_one_handler_of_a_group_message_in_64_is_timed():
    communicator = WebsocketCommunicator(Socket.as_asgi(), "/")
    await communicator.connect()
    layer = get_channel_layer()

    with growth(metrics.HANDLER_DURATION) as grown:
        for _ in range(128):
            await layer.group_send("metrics.tea", {"type": "poured"})

    await communicator.disconnect()
    assert grown["count"] == 2


async def test_how_long_a_connection_lasted_is_counted_at_its_end():
    with growth(metrics.CONNECTION_DURATION) as grown:
        communicator = WebsocketCommunicator(Socket.as_asgi(), "/")
        await communicator.connect()
        await communicator.disconnect()

    assert grown["count"] == 1


async def test_a_fan_out_is_timed():
    layer = InMemoryChannelLayer()

    with growth(metrics.FAN_OUT_DURATION) as grown:
        await layer.group_send("tea", {"type": "poured"})

    assert grown["count"] == 1


async def test_a_socket_without_a_route_is_counted():
    before = metrics.ROUTES_NOT_FOUND.value

    await WebsocketCommunicator(URLRouter([]), "/nowhere/").connect()

    assert metrics.ROUTES_NOT_FOUND.value == before + 1


async def test_a_socket_refused_for_its_origin_is_counted():
    before = metrics.ORIGINS_REFUSED.value

    await WebsocketCommunicator(OriginValidator(Socket.as_asgi(), []), "/").connect()

    assert metrics.ORIGINS_REFUSED.value == before + 1
