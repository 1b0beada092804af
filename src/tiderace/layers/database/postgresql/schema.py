"""The tables in PostgreSQL, of ``schema.sql``."""

from __future__ import annotations

import re
from pathlib import Path

TABLES = Path(__file__).with_name("schema.sql").read_text()
DROP = "DROP TABLE " + ", ".join(re.findall(r"TABLE (\w+)", TABLES))

_TYPE_OF: dict[str, str] = dict(
    re.findall(
        r"^    (\w+) (text|bytea|boolean|bigint|double precision)", TABLES, re.MULTILINE
    )
)


def column_type(column: str) -> str:
    """Return the type of a column; columns of one name have one type in all tables."""
    return _TYPE_OF[column]
