"""Forwarded (RFC 7239): its elements from the right, and what each says."""

from __future__ import annotations

import pytest

from proxy.rules.forwarded import forwarded_elements, nearest_forwarded, parameters


def test_elements_come_from_the_right_and_quotes_hide_commas() -> None:
    lines = [b"for=a, for=b", b'for="c,d";proto=https ,, for=e']
    assert list(forwarded_elements(lines)) == [b"for=e", b'for="c,d";proto=https', b"for=b", b"for=a"]


def test_an_open_quote_swallows_nothing_to_its_right() -> None:
    assert next(forwarded_elements([b'for="6.6.6.6, for=203.0.113.7'])) == b"for=203.0.113.7"


@pytest.mark.parametrize(
    ("element", "said"),
    [
        (b'For="[2001:db8::1]:4711";Proto=http', {b"for": b"[2001:db8::1]:4711", b"proto": b"http"}),
        (b'host="a\\"b"', {b"host": b'a"b'}),
        (b"for=a;for=b", {}),
        (b"for = a", {}),
    ],
)
def test_what_an_element_says(element: bytes, said: dict[bytes, bytes]) -> None:
    assert parameters(element) == said


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], {}),
        ([" , "], {}),
        (
            ["for=a;proto=http", 'Proto=https;Host="a.example:8\\443" ,'],
            {b"proto": b"https", b"host": b"a.example:8443"},
        ),
        (["proto=https", "!broken!"], {}),
        (["proto=https;PROTO=http"], {}),
    ],
)
def test_the_nearest_element_of_forwarded(lines: list[str], expected: dict[bytes, bytes]) -> None:
    assert nearest_forwarded(tuple((b"Forwarded", line.encode()) for line in lines)) == expected
