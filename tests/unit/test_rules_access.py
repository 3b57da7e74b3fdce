"""Hosts as Django reads ALLOWED_HOSTS (Django itself is the judge), and paths that are never served."""

from __future__ import annotations

import pytest
from django.http.request import split_domain_port, validate_host

from proxy.config.schema import AccessConfig
from proxy.message import EndpointClass
from proxy.rules.access import HostTable, class_denial, host_denial

HOSTS = [
    "example.com",
    "Example.COM",
    "example.com.",
    "example.com..",
    "example.com:8000",
    "example.com.:443",
    "example.com:",
    "example.com:x",
    "a.example.com",
    "a.b.example.com:1",
    "aexample.com",
    "example.com.evil.org",
    "evil.org",
    "127.0.0.1",
    "127.0.0.1:80",
    "[::1]",
    "[::1]:8000",
    "[::1",
    "::1",
    "[fe80::1%25eth0]",
    "a_b",
    "a b",
    "a@b",
    "example.com\n",
    ".example.com",
    ".",
    "",
    ":80",
    "*",
]

ALLOWED = [
    (),
    ("example.com",),
    (".example.com",),
    (".EXAMPLE.com", "127.0.0.1"),
    ("[::1]", "evil.org"),
    ("example.com.",),
    ("",),
    (".",),
    ("a_b", "::1"),
]


def django_allows(host: str, allowed: tuple[str, ...]) -> bool:
    """HttpRequest.get_host, without the exception."""
    domain, _ = split_domain_port(host)
    return bool(domain) and validate_host(domain, allowed)


@pytest.mark.parametrize("allowed", ALLOWED)
@pytest.mark.parametrize("host", HOSTS)
def test_agrees_with_django(host: str, allowed: tuple[str, ...]) -> None:
    table = HostTable.of(AccessConfig(allowed_hosts=allowed))
    assert table.allows(host.encode()) is django_allows(host, allowed)


def test_some_of_these_are_allowed_and_some_are_not() -> None:
    verdicts = {django_allows(host, (".example.com",)) for host in HOSTS}
    assert verdicts == {True, False}


@pytest.mark.parametrize("host", [b"anything", b"a_b:80", b"\xff", b"", None])
def test_the_asterisk_allows_everything_and_leaves_the_rest_to_django(host: bytes | None) -> None:
    assert HostTable.of(AccessConfig(allowed_hosts=("x", "*"))).allows(host)
    assert HostTable.of(AccessConfig()).allows(host)


def test_a_request_without_host_is_nobodys() -> None:
    table = HostTable.of(AccessConfig(allowed_hosts=("example.com",)))
    assert not table.allows(None)
    assert not table.allows(b"\xffexample.com")


def test_host_denial() -> None:
    table = HostTable.of(AccessConfig(allowed_hosts=("example.com",)))
    assert host_denial(b"example.com", table) is None
    denial = host_denial(b"evil.org", table)
    assert denial is not None
    assert (denial.status, denial.reason) == (421, "host_not_allowed")


@pytest.mark.parametrize("cls", EndpointClass)
def test_only_never_is_denied_by_class(cls: EndpointClass) -> None:
    denial = class_denial(cls)
    if cls is EndpointClass.NEVER:
        assert denial is not None
        assert (denial.status, denial.reason) == (404, "never_public")
    else:
        assert denial is None
