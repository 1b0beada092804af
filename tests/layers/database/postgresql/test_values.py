"""Parameters that the layer encodes by itself, as the server reads them."""

from __future__ import annotations

import pytest
from django.utils.safestring import SafeString
from psycopg.pq import Format

from tiderace.layers.database.postgresql.autocommit import (
    AutocommitConnection,
    Statement,
)
from tiderace.layers.database.postgresql.values import as_array, as_value


@pytest.fixture
def connection(using):
    connection = AutocommitConnection.open(using, 5)
    yield connection
    connection.close()


def echo(connection, sql, value):
    (result,) = connection.run([Statement(sql.encode(), [value])])
    assert result.fformat(0) == Format.BINARY
    ((found,),) = connection.rows(result)
    return found


@pytest.mark.parametrize(
    "value",
    [0, -1, 2**62, -(2**63), "", "übung \U0001f30a", b"", b"\0\xff", True, False, 0.5],
)
def test_a_value_arrives_as_it_is(connection, value):
    found = echo(connection, "SELECT $1", as_value(value))

    assert found == value
    assert type(found) is type(value)


def test_a_value_of_a_subclass_of_str_is_a_text(connection):
    assert echo(connection, "SELECT $1", as_value(SafeString("room"))) == "room"


def test_none_is_null(connection):
    assert echo(connection, "SELECT $1::text IS NULL", as_value(None)) is True


@pytest.mark.parametrize(
    ("type_name", "values"),
    [
        ("integer", [1, -(2**31)]),
        ("bigint", [1, None, 2**62]),
        ("text", ["", None, "übung", "a,{}\"'"]),
        ("bytea", [b"", b"\0" * 1000, None]),
        ("boolean", [True, None, False]),
        ("double precision", [0.1, None, -1e300]),
    ],
)
def test_an_array_arrives_as_it_is(connection, type_name, values):
    assert echo(connection, "SELECT $1", as_array(type_name, values)) == values


def test_statements_that_are_sent_together_give_a_result_each(connection):
    results = connection.run(
        [Statement(b"SELECT $1 + 1", [as_value(number)]) for number in range(300)]
    )

    assert [connection.rows(result) for result in results] == [
        [(number + 1,)] for number in range(300)
    ]


def test_more_than_the_socket_takes_is_sent_while_replies_are_read(connection):
    data = b"x" * 1_000_000

    results = connection.run([Statement(b"SELECT $1", [as_value(data)])] * 20)

    assert [connection.rows(result) for result in results] == [[(data,)]] * 20
