"""The encoding of publications, which the JSON codecs write without structs."""

from __future__ import annotations

import pytest

from tiderace.history import Position, Publication
from tiderace.protocol.codec import JSON
from tiderace.protocol.messages import Push, Reply
from tiderace.protocol.session import to_pub
from tiderace.protocol.stream_codecs import EVENTS, LINES

AT = Position("e", 7)
PUBLICATIONS = {
    "plain": Publication(AT, '{"n": 1}'),
    "with a time": Publication(AT, "1", time=1795983275.511),
    "with tags": Publication(AT, "1", tags={"lang": 'd"e', "é": "1"}),
    "with all of info": Publication(
        AT, "1", info='{"user":"7","client":"c","conn_info":{"n":[1, 2]}}'
    ),
    "with a part of info": Publication(AT, "1", info='{"user": "7", "more": 1}'),
    "with other characters": Publication(AT, '"é\\u2028\n😀"', time=2.0),
    "with line breaks": Publication(AT, '{\r\n"n":\n1}'),
}


@pytest.mark.parametrize("codec", [JSON, LINES, EVENTS])
@pytest.mark.parametrize("channel", ["room:1", 'é"\\\n'])
@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("publication", PUBLICATIONS.values(), ids=PUBLICATIONS)
def test_a_publication_is_encoded_as_its_message_is(
    codec, channel, offsets, publication
):
    pub = to_pub(publication, offsets=offsets)
    expected = codec.encode(Reply(push=Push(channel=channel, pub=pub)))

    frame = codec.encode_publication(channel, publication, offsets=offsets)

    assert frame == expected


def test_info_of_a_wrong_type_is_refused():
    publication = Publication(AT, "1", info='{"user": 7}')

    with pytest.raises(ValueError, match="user"):
        JSON.encode_publication("room:1", publication, offsets=True)
