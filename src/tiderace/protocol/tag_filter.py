"""A client's filter by tags (``spec/protocol.md``, "Filters"), as a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation

from tiderace.protocol.messages import FilterNode

Matches = Callable[[Mapping[str, str]], bool]

MAX_NODES = 100
"""The most nodes of a filter: each is evaluated for each new set of tags."""

MAX_TEXT = 8_192
"""The most characters of a filter, which is kept as long as its subscription."""

_ONE_VALUE: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda tag, value: tag == value,
    "sw": lambda tag, value: tag.startswith(value),
    "ew": lambda tag, value: tag.endswith(value),
    "ct": lambda tag, value: value in tag,
}
_NUMBERS: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "lt": lambda tag, value: tag < value,
    "lte": lambda tag, value: tag <= value,
    "gt": lambda tag, value: tag > value,
    "gte": lambda tag, value: tag >= value,
}


def matcher(node: FilterNode) -> Matches:
    """Return the function that decides whether a filter lets tags through.

    Raises:
        ValueError: for a filter with another operator or comparison, without what it
            needs, or with more than ``MAX_NODES`` nodes or ``MAX_TEXT`` characters.
    """
    nodes = list(_nodes(node))
    if len(nodes) > MAX_NODES:
        raise ValueError(f"the filter has more than {MAX_NODES} nodes")
    texts = (text for each in nodes for text in (each.key, each.val, *each.vals))
    if sum(map(len, texts)) > MAX_TEXT:
        raise ValueError(f"the filter has more than {MAX_TEXT} characters")
    return _matcher(node)


def _nodes(node: FilterNode) -> Iterator[FilterNode]:
    waiting = [node]
    while waiting:
        each = waiting.pop()
        yield each
        waiting += each.nodes


def _matcher(node: FilterNode) -> Matches:
    parts = [_matcher(each) for each in node.nodes]
    if node.op == "":
        return _comparison(node)
    if not parts or (node.op == "not" and len(parts) > 1):
        raise ValueError(f"{node.op!r} with {len(parts)} nodes")
    match node.op:
        case "and":
            return lambda tags: all(part(tags) for part in parts)
        case "or":
            return lambda tags: any(part(tags) for part in parts)
        case "not":
            part = parts[0]
            return lambda tags: not part(tags)
    raise ValueError(f"{node.op!r} is none of and, or, not")


def _comparison(node: FilterNode) -> Matches:
    key, value = node.key, node.val
    if not key:
        raise ValueError("a comparison without a key")
    match node.cmp:
        case "ex":
            return lambda tags: key in tags
        case "nex":
            return lambda tags: key not in tags
        case "neq":
            return lambda tags: tags.get(key) != value
        case "in":
            among = frozenset(node.vals)
            return lambda tags: tags.get(key) in among
        case "nin":
            without = frozenset(node.vals)
            return lambda tags: tags.get(key) not in without
    if compare := _ONE_VALUE.get(node.cmp):
        return lambda tags: key in tags and compare(tags[key], value)
    if compare_numbers := _NUMBERS.get(node.cmp):
        bound = _number(value)
        if bound is None:
            raise ValueError(f"{node.cmp!r} with {value[:40]!r}, which is no number")

        def matches(tags: Mapping[str, str]) -> bool:
            number = _number(tags.get(key, ""))
            return number is not None and compare_numbers(number, bound)

        return matches
    raise ValueError(f"{node.cmp!r} is no comparison")


def _number(text: str) -> Decimal | None:
    # A long text would take long to read as a number.
    try:
        number = Decimal(text) if len(text) <= 40 else None
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() else None
