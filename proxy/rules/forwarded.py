"""The header Forwarded (RFC 7239), read from the right: only that end is written by proxies that we know."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proxy.message import field_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.message import Fields

OWS = b" \t"
"""Optional white space around list elements (RFC 9110 section 5.6.3)."""

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
_PAIR = rb"(" + _TOKEN + rb")=(" + _TOKEN + rb"|" + _QUOTED + rb")"
_PAIRS = re.compile(_PAIR)
_ELEMENT = re.compile(rb"(?:" + _PAIR + rb")?+(?:[ \t]*+;[ \t]*+(?:" + _PAIR + rb")?+)*+")
"""Section 4: `[ pair ] *( ";" [ pair ] )`; white space around `;` is taken too, since people write it."""

_MARK = re.compile(rb',|(?<!\\)(?:\\\\)*+"')
"""A comma, or a quote that is not escaped (an even number of backslashes stands before it)."""

_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


def nearest_forwarded(fields: Fields) -> Mapping[bytes, bytes]:
    """Return what the rightmost element of Forwarded says, by lower-case parameter name, unquoted:
    the word of the peer itself. Empty where there is none or where it is malformed."""
    for element in forwarded_elements(field_values(fields, b"forwarded")):
        return parameters(element)
    return {}


def forwarded_elements(lines: list[bytes]) -> Iterator[bytes]:
    """Yield the elements from the right. Commas and quotes are paired from the right as well: an open
    quote that a client put in front cannot swallow what a trusted proxy appended."""
    for line in reversed(lines):
        marks = [match.end() - 1 for match in _MARK.finditer(line)]
        end, quoted = len(line), False
        for mark in (*reversed(marks), -1):
            if mark >= 0 and line[mark] == 0x22:
                quoted = not quoted
            elif mark < 0 or not quoted:
                element = line[mark + 1 : end].strip(OWS)
                end = mark
                if element:
                    yield element


def parameters(element: bytes) -> dict[bytes, bytes]:
    """Return what one element says, by lower-case parameter name, unquoted; empty where it is malformed."""
    if _ELEMENT.fullmatch(element) is None:
        return {}
    pairs = [(match[1].lower(), _unquoted(match[2])) for match in _PAIRS.finditer(element)]
    found = dict(pairs)
    # Section 4: no parameter twice. Which of the two was meant is not ours to guess.
    return found if len(found) == len(pairs) else {}


def _unquoted(value: bytes) -> bytes:
    return _ESCAPED.sub(rb"\1", value[1:-1]) if value.startswith(b'"') else value
