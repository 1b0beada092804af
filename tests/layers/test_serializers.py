"""Serializers: formats, encryption, compression and the registry."""

from __future__ import annotations

import base64
import builtins
import datetime
import decimal
import hashlib
import json
import random
import uuid

import msgspec
import numpy
import pytest
from cryptography.fernet import Fernet, InvalidToken
from django.utils.safestring import mark_safe
from django.utils.translation import gettext_lazy
from hypothesis import given
from hypothesis import strategies as st

from tiderace.layers import compression
from tiderace.layers.serializers import (
    BaseMessageSerializer,
    JSONSerializer,
    MissingSerializer,
    MsgPackSerializer,
    SerializerDoesNotExist,
    SerializersRegistry,
    registry,
)

MESSAGE = {"type": "chat.message", "n": -1, "deep": {"list": [None, True, 1.5]}}

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Reversed(BaseMessageSerializer):
    """An application's format, whose payload may begin with any byte."""

    def as_bytes(self, message, *args, **kwargs):
        return message[::-1]

    def from_bytes(self, message, *args, **kwargs):
        return message[::-1]


@pytest.fixture(params=[MsgPackSerializer, JSONSerializer])
def kind(request):
    return request.param


@pytest.fixture(params=compression.ALGORITHMS)
def algorithm(request):
    return request.param


def test_msgpack_bytes_are_those_of_the_format_and_nothing_more():
    packed = MsgPackSerializer().serialize({"type": "a", "n": [1, None, True]})

    assert packed == b"\x82\xa4type\xa1a\xa1n\x93\x01\xc0\xc3"


def test_json_bytes_are_those_of_the_standard_library():
    message = {**MESSAGE, "text": "Grüße ☂", "nan": float("inf"), "big": 2**70, 7: 8}

    assert JSONSerializer().serialize(message) == json.dumps(message).encode()


@pytest.mark.parametrize("kind", [JSONSerializer, MsgPackSerializer])
def test_lone_surrogates_become_replacement_characters(kind):
    sent = {"type": "chat", "text": "half \ud83d, a \U0001f600", "in": [{"\ude00": 1}]}

    received = kind().deserialize(kind().serialize(sent))

    assert received == {
        "type": "chat",
        "text": "half \ufffd, a \U0001f600",
        "in": [{"\ufffd": 1}],
    }


def test_numpy_scalars_are_keys_in_json():
    data = JSONSerializer().serialize({numpy.int64(1): numpy.float64(1.5)})

    assert json.loads(data) == {"1": 1.5}


def test_json_takes_the_arguments_of_the_standard_library():
    class Sorted(JSONSerializer):
        def as_bytes(self, message):
            return super().as_bytes(message, sort_keys=True)

        def from_bytes(self, message):
            return super().from_bytes(message, parse_int=str)

    serializer = Sorted()

    assert serializer.serialize({"b": 1, "a": 2}) == b'{"a": 2, "b": 1}'
    assert serializer.deserialize(b'{"a": 2}') == {"a": "2"}


@given(plain_values)
def test_plain_values_come_back_as_they_were(value):
    for serializer in (
        MsgPackSerializer(),
        JSONSerializer(),
        MsgPackSerializer(random_prefix_length=12, compress_above=0),
        JSONSerializer(compress_above=10, compression="zstd"),
    ):
        assert serializer.deserialize(serializer.serialize(value)) == value


def test_values_of_django_projects_arrive_as_plain_data(kind):
    moment = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
    some_id = uuid.uuid4()
    message = {
        "moment": moment,
        "day": moment.date(),
        "id": some_id,
        "price": decimal.Decimal("1.20"),
        "label": gettext_lazy("Monday"),
        "pair": (1, 2),
        "set": {3},
        "temperature": numpy.float64(1.5),
        "count": numpy.int64(4),
        numpy.str_("name"): mark_safe("ann"),
    }

    serializer = kind()
    received = serializer.deserialize(serializer.serialize(message))

    assert received.pop("moment") in (moment, moment.isoformat().replace("+00:00", "Z"))
    assert received == {
        "day": "2026-01-02",
        "id": str(some_id),
        "price": "1.20",
        "label": "Monday",
        "pair": [1, 2],
        "set": [3],
        "temperature": 1.5,
        "count": 4,
        "name": "ann",
    }


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"a": [0, {"b": object()}]}, r"message\['a'\]\[1\]\['b'\] is a object"),
        ({"a": {"b": [1j]}}, r"message\['a'\]\['b'\]\[0\] is a complex"),
    ],
)
def test_the_error_for_an_unsupported_value_contains_its_place(kind, message, where):
    with pytest.raises(TypeError, match=where):
        kind().serialize(message)


def test_a_message_that_contains_itself_is_refused(kind):
    message: dict = {}
    message["self"] = message

    with pytest.raises(TypeError, match="contains itself"):
        kind().serialize(message)


@pytest.mark.parametrize("binary", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_json_refuses_bytes_wherever_they_are(binary):
    class Photo(msgspec.Struct):
        content: object

    for message in ({"photo": binary}, {"photo": Photo(binary)}):
        with pytest.raises(TypeError, match="JSON has no bytes"):
            JSONSerializer().serialize(message)


# The random prefix


@pytest.mark.parametrize("length", [1, 8, 12])
def test_a_random_prefix_precedes_the_payload(kind, length):
    serializer = kind(random_prefix_length=length)

    first, second = serializer.serialize(MESSAGE), serializer.serialize(MESSAGE)

    assert first[length:] == second[length:] == kind().serialize(MESSAGE)
    assert serializer.deserialize(b"?" * length + first[length:]) == MESSAGE


@pytest.mark.parametrize("length", [0, -1])
def test_a_prefix_length_below_one_adds_no_prefix(kind, length):
    serializer = kind(random_prefix_length=length)

    assert serializer.serialize(MESSAGE) == kind().serialize(MESSAGE)


def test_prefixes_differ_however_random_is_seeded():
    serializer = MsgPackSerializer(random_prefix_length=12)
    random.seed(1)
    first = serializer.serialize(MESSAGE)
    random.seed(1)

    assert serializer.serialize(MESSAGE) != first


# Encryption


def test_an_encrypted_message_is_a_fernet_token_of_the_payload(kind):
    serializer = kind(symmetric_encryption_keys=["a secret"], random_prefix_length=4)

    token = serializer.serialize(MESSAGE)[4:]

    # The key must not change: channels_redis and Tiderace read each other's messages.
    key = base64.urlsafe_b64encode(hashlib.sha256(b"a secret").digest())
    assert Fernet(key).decrypt(token) == kind().serialize(MESSAGE)
    assert serializer.deserialize(b"1234" + token) == MESSAGE


def test_keys_may_be_strings_or_bytes_and_any_iterable():
    written = MsgPackSerializer(symmetric_encryption_keys=(b"k",)).serialize(MESSAGE)

    assert MsgPackSerializer(["k"]).deserialize(written) == MESSAGE


def test_a_key_is_changed_by_appending_it_then_putting_it_first():
    before = MsgPackSerializer(symmetric_encryption_keys=["old"])
    introduced = MsgPackSerializer(symmetric_encryption_keys=["old", "new"])
    rotated = MsgPackSerializer(symmetric_encryption_keys=["new", "old"])
    after = MsgPackSerializer(symmetric_encryption_keys=["new"])

    for writer, readers in [
        (before, [introduced]),
        (introduced, [before, rotated]),
        (rotated, [introduced, after]),
        (after, [rotated]),
    ]:
        for reader in readers:
            assert reader.deserialize(writer.serialize(MESSAGE)) == MESSAGE


def test_a_message_under_an_unknown_key_is_refused():
    written = MsgPackSerializer(symmetric_encryption_keys=["one"]).serialize(MESSAGE)

    with pytest.raises(InvalidToken):
        MsgPackSerializer(symmetric_encryption_keys=["two"]).deserialize(written)


@pytest.mark.parametrize("keys", ["key", b"key"])
def test_a_key_that_is_not_in_a_list_is_refused(keys):
    with pytest.raises(
        ValueError, match=r"^symmetric_encryption_keys must be a list of possible keys$"
    ):
        MsgPackSerializer(symmetric_encryption_keys=keys)


@pytest.mark.parametrize("keys", [None, []])
def test_without_keys_nothing_is_encrypted(keys):
    serializer = MsgPackSerializer(symmetric_encryption_keys=keys)

    assert serializer.crypter is None
    assert serializer.serialize({}) == b"\x80"


@pytest.mark.parametrize(
    ("expiry", "age", "accepted"),
    [
        (60, 70, True),
        (60, 71, False),
        (0.5, 10, True),
        (0.5, 11, False),
        (None, 10**6, True),
    ],
)
def test_an_encrypted_message_is_refused_ten_seconds_after_its_expiry(
    monkeypatch, expiry, age, accepted
):
    serializer = MsgPackSerializer(["key"], expiry=expiry)
    monkeypatch.setattr("time.time", lambda: 1_000_000)
    written = serializer.serialize(MESSAGE)

    monkeypatch.setattr("time.time", lambda: 1_000_000 + age)

    if accepted:
        assert serializer.deserialize(written) == MESSAGE
    else:
        with pytest.raises(InvalidToken):
            serializer.deserialize(written)


def test_the_error_for_encryption_without_its_package_contains_what_to_install(
    monkeypatch,
):
    real_import = builtins.__import__

    def without_cryptography(name, *args, **kwargs):
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_cryptography)

    with pytest.raises(
        ValueError,
        match=r"Cannot run with encryption without 'cryptography' installed\..*"
        r"tiderace\[crypto\]",
    ):
        MsgPackSerializer(symmetric_encryption_keys=["key"])
    assert MsgPackSerializer().serialize({}) == b"\x80"


# Compression


def test_only_messages_above_the_threshold_are_compressed(kind, algorithm):
    text = "many words " * 100
    size = len(kind().serialize(text))
    at = kind(compress_above=size, compression=algorithm)
    below = kind(compress_above=size - 1, compression=algorithm)

    assert at.serialize(text) == kind().serialize(text)
    assert len(below.serialize(text)) < size / 4


def test_nothing_is_compressed_by_default():
    assert len(MsgPackSerializer().serialize("a" * 100_000)) > 100_000


@pytest.mark.parametrize("keys", [None, ["key"]])
def test_processes_with_different_compression_read_each_others_messages(kind, keys):
    sides = [
        kind(keys, 12),
        kind(keys, 12, compress_above=100),
        kind(keys, 12, compress_above=100, compression="zstd"),
    ]
    message = {"text": "the same words " * 200}

    for writer in sides:
        for reader in sides:
            assert reader.deserialize(writer.serialize(message)) == message


def test_a_message_that_compression_makes_larger_is_sent_uncompressed():
    noise = random.Random(1).randbytes(1000)
    serializer = MsgPackSerializer(compress_above=10)

    assert serializer.serialize(noise) == MsgPackSerializer().serialize(noise)


@given(st.binary(max_size=50), st.sampled_from([None, 0]))
def test_no_payload_is_mistaken_for_a_compressed_one(payload, above):
    writer = Reversed(compress_above=above)

    for data in (payload, payload + b"\xc1", payload + b"\x01\xc1"):
        assert Reversed().deserialize(writer.serialize(data)) == data


def test_compressed_bytes_begin_unlike_msgpack_and_text():
    data = MsgPackSerializer(compress_above=0).serialize("a" * 1000)

    assert data[:1] == b"\xc1"
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(data)
    with pytest.raises(UnicodeDecodeError):
        data.decode()


@pytest.mark.parametrize("data", [b"\xc1", b"\xc1\x7fabc"])
def test_an_unknown_algorithm_of_a_message_is_refused_with_advice(data):
    with pytest.raises(ValueError, match="bring all processes to one version"):
        MsgPackSerializer().deserialize(data)


def test_an_unknown_compression_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean 'zstd'.*known: zlib, zstd"):
        MsgPackSerializer(compress_above=100, compression="zst")


@pytest.mark.parametrize("above", [-1, 1.5, True, "1024"])
def test_an_invalid_compression_threshold_is_refused(above):
    with pytest.raises(ValueError, match=r"compress_above is .* such as 1024"):
        MsgPackSerializer(compress_above=above)


def test_the_error_for_a_missing_zstd_contains_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(compression.importlib, "import_module", missing)

    with pytest.raises(ImportError, match=r"pip install backports\.zstd"):
        MsgPackSerializer(compress_above=100, compression="zstd")


# The registry


class Bare:
    """Has both methods only."""

    def serialize(self, message):
        return message

    def deserialize(self, message):
        return message


def test_any_class_with_both_methods_can_be_registered():
    formats = SerializersRegistry()

    formats.register_serializer("bare", Bare)

    assert isinstance(formats.get_serializer("bare"), Bare)


class OnlyWrites:
    def serialize(self, message):
        return message


@pytest.mark.parametrize("thing", [OnlyWrites, Bare(), len, None])
def test_a_class_without_both_methods_is_refused(thing):
    with pytest.raises(AssertionError, match="methods serialize and deserialize"):
        SerializersRegistry().register_serializer("bad", thing)


def test_arguments_are_passed_to_the_serializer_class():
    serializer = registry.get_serializer(
        "json", symmetric_encryption_keys=None, random_prefix_length=3, expiry=60
    )

    assert type(serializer) is JSONSerializer
    assert (serializer.random_prefix_length, serializer.expiry) == (3, 60)


def test_a_registered_format_may_be_replaced():
    formats = SerializersRegistry()
    formats.register_serializer("x", Reversed)

    formats.register_serializer("x", JSONSerializer)

    assert isinstance(formats.get_serializer("x"), JSONSerializer)


def test_an_unknown_format_is_a_key_error_that_lists_the_known_ones():
    with pytest.raises(KeyError) as caught:
        registry.get_serializer("yaml")

    assert isinstance(caught.value, SerializerDoesNotExist)
    assert caught.value.args == ("yaml",)
    assert caught.value.__notes__ == ["registered formats: json, msgpack"]


def test_a_missing_serializer_raises_its_exception_when_it_is_created():
    reason = ImportError("no cbor2")

    class MissingCBOR(MissingSerializer):
        exception = reason

    with pytest.raises(ImportError) as caught:
        MissingCBOR(random_prefix_length=12)

    assert caught.value is reason


def test_a_subclass_may_leave_out_the_base_init():
    class Forgetful(JSONSerializer):
        def __init__(self, symmetric_encryption_keys, random_prefix_length, expiry):
            self.expiry = expiry

    serializer = Forgetful(None, 12, 60)

    assert serializer.deserialize(serializer.serialize(MESSAGE)) == MESSAGE
