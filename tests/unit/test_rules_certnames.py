"""Which names a certificate stands for, and how a client's subject is written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rules.certnames import NameTable, host_name, subject_text

TABLE = NameTable.of(
    [
        ("a.test", "*.a.test", "192.0.2.1"),
        ("b.a.test", "*.b.a.test", "2001:db8::1"),
        ("a.test", "*.a.test"),
    ]
)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("a.test", 0),
        ("a.test.", 0),
        ("x.a.test", 0),
        ("b.a.test", 1),
        ("c.b.a.test", 1),
        ("c.x.a.test", None),
        (".a.test", None),
        ("test", None),
        ("", None),
        ("xa.test", None),
        ("192.0.2.1", 0),
        ("2001:db8::1", 1),
    ],
)
def test_exact_names_come_before_wildcards(name: str, number: int | None) -> None:
    assert TABLE.find(name) == number


labels = st.text("ab", min_size=1, max_size=2)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
patterns = names | names.map(lambda name: f"*.{name}")


@given(st.lists(st.lists(patterns, max_size=3), max_size=4), names)
def test_as_a_plain_search_would_find_it(certificates: list[list[str]], name: str) -> None:
    exact = [number for number, held in enumerate(certificates) if name in held]
    wildcard = "*." + name.partition(".")[2]
    wild = [number for number, held in enumerate(certificates) if "." in name and wildcard in held]
    assert NameTable.of(certificates).find(name) == next(iter(exact + wild), None)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"A.Test", "a.test"),
        (b"a.test.:443", "a.test"),
        (b"[2001:DB8:0::1]:443", "2001:db8::1"),
        (b"192.0.2.1:80", "192.0.2.1"),
        (b"a.test.1", "a.test.1"),
        (b"a b", ""),
        (b"", ""),
    ],
)
def test_host(host: bytes, name: str) -> None:
    assert host_name(host) == name


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (((("commonName", "ann"),),), "CN=ann"),
        (((("countryName", "DE"),), (("commonName", "ann"),)), "CN=ann,C=DE"),
        (((("commonName", "ann"), ("userId", "7")),), "CN=ann+UID=7"),
        (((("emailAddress", "a@b"),),), "emailAddress=a@b"),
        (((("commonName", 'a,b+"c"\\;<>'),),), 'CN=a\\,b\\+\\"c\\"\\\\\\;\\<\\>'),
        (((("commonName", "#a b "),),), "CN=\\#a b\\ "),
        (((("commonName", "é\n"),),), "CN=é\\0A"),
        ((), ""),
    ],
)
def test_subject(subject: Any, text: str) -> None:
    assert subject_text(subject) == text
