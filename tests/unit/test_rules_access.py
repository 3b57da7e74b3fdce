"""Hosts as Django reads ALLOWED_HOSTS (Django itself is the judge), and what protected paths demand."""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

import pytest
from django.http.request import split_domain_port, validate_host

from proxy.config.schema import AccessConfig, Config, Satisfy
from proxy.message import (
    NO_BODY,
    Access,
    AddressSource,
    Ask,
    ClientAddress,
    Credential,
    EndpointClass,
    Forward,
    Peer,
    RequestHead,
    Route,
)
from proxy.rules.access import (
    ACCESS,
    AccessTable,
    Denial,
    HostTable,
    access_verdict,
    basic_credentials,
    has_bearer,
    host_denial,
    opener,
    without_password,
)
from proxy.rules.routing import RoutingTable

if TYPE_CHECKING:
    from proxy.message import Field, IPAddress

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


# --- probes ---------------------------------------------------------------------------------------

PROBED = HostTable.of(AccessConfig(allowed_hosts=("example.com",), probe_paths=("/_health", "/livez")))


@pytest.mark.parametrize(
    ("host", "target", "passes"),
    [
        (b"10.0.0.7", b"/_health", True),
        (b"10.0.0.7:8000", b"/_health?from=alb", True),
        (b"[2001:db8::1]:8000", b"/livez", True),
        (None, b"/_health", True),
        (b"10.0.0.7", b"/_health/", False),
        (b"10.0.0.7", b"//_health", False),
        (b"10.0.0.7", b"/_health/../login", False),
        (b"10.0.0.7", b"/login", False),
        (None, b"/login", False),
        (b"evil.org", b"/_health", False),
        (b"10.0.0", b"/_health", False),
        (b"010.0.0.7", b"/_health", False),
        (b"[::1", b"/_health", False),
        (b"a b", b"/_health", False),
        (b"", b"/_health", False),
    ],
)
def test_probes_by_address_are_exempt_on_their_paths_alone(
    host: bytes | None, target: bytes, passes: bool
) -> None:
    assert (host_denial(host, PROBED, target) is None) is passes


def test_no_path_is_exempt_unless_it_is_named() -> None:
    table = HostTable.of(AccessConfig(allowed_hosts=("example.com",)))
    assert host_denial(b"10.0.0.7", table, b"/_health") is not None


# --- demands --------------------------------------------------------------------------------------

OFFICE = ip_address("203.0.113.7")
ELSEWHERE = ip_address("198.51.100.1")
BLOCKS = (ip_network("203.0.113.0/24"), ip_network("2001:db8::/32"))
NOBODY = Peer(OFFICE)
CERTIFIED = Peer(OFFICE, client_certificate="CN=ann")
BEARER = (b"Authorization", b"Bearer phx_abc")
ANN = (b"Authorization", b"Basic " + base64.b64encode(b"ann:secret"))


def table(**access: Any) -> AccessTable:
    return AccessTable.of(AccessConfig(**access))


def judged(
    demands: AccessTable,
    *fields: Field,
    access: Access = Access.PROTECTED,
    ip: IPAddress | None = OFFICE,
    peer: Peer = NOBODY,
) -> Denial | Ask | None:
    client = ClientAddress(ip, AddressSource.PEER, False)
    return access_verdict(access, RequestHead(b"GET", b"/x", 1, fields, b"h", NO_BODY), client, peer, demands)


def denied(verdict: Denial | Ask | None) -> tuple[int, str]:
    assert isinstance(verdict, Denial), verdict
    return verdict.status, verdict.reason


EVERYTHING = table(
    allowed_ip_blocks=BLOCKS, basic_auth_file="/f", forward_auth="sso", client_certificate=True
)


def test_every_class_has_its_access() -> None:
    assert set(ACCESS) == set(EndpointClass)
    assert {cls for cls in EndpointClass if ACCESS[cls] is not Access.PUBLIC} == {
        EndpointClass.BEARER_READ,
        EndpointClass.PROTECTED,
        EndpointClass.NEVER,
    }


@pytest.mark.parametrize("demands", [table(), EVERYTHING])
def test_public_is_open_and_never_is_closed_whatever_is_demanded(demands: AccessTable) -> None:
    assert judged(demands, access=Access.PUBLIC, ip=ELSEWHERE) is None
    assert denied(judged(demands, ANN, access=Access.NEVER, peer=CERTIFIED)) == (404, "never_public")


def test_nothing_demanded_lets_everybody_in() -> None:
    for satisfy in Satisfy:
        assert judged(table(satisfy=satisfy), ip=None) is None
    assert table().demands == ()
    assert EVERYTHING.demands == (
        "allowed_ip_blocks",
        "client_certificate",
        "basic_auth_file",
        "forward_auth",
    )


@pytest.mark.parametrize(
    ("ip", "passes"),
    [
        ("203.0.113.255", True),
        ("203.0.114.0", False),
        ("2001:db8::7", True),
        ("2001:db9::7", False),
    ],
)
def test_the_clients_address_counts(ip: str, passes: bool) -> None:
    verdict = judged(table(allowed_ip_blocks=BLOCKS), ip=ip_address(ip))
    assert verdict is None if passes else denied(verdict) == (403, "address_not_allowed")


def test_an_unnamed_client_is_in_no_block() -> None:
    assert denied(judged(table(allowed_ip_blocks=(ip_network("0.0.0.0/0"),)), ip=None)) == (
        403,
        "address_not_allowed",
    )


def test_a_client_certificate_counts() -> None:
    demands = table(client_certificate=True)
    assert judged(demands, peer=CERTIFIED) is None
    assert denied(judged(demands)) == (403, "no_client_certificate")


def test_a_password_is_asked_only_where_one_is_given() -> None:
    demands = table(basic_auth_file="/f", basic_realm="The app")
    assert judged(demands, ANN) == Ask((Credential.BASIC,))
    verdict = judged(demands)
    assert denied(verdict) == (401, "unauthorized")
    assert isinstance(verdict, Denial)
    assert verdict.fields == ((b"WWW-Authenticate", b'Basic realm="The app", charset="UTF-8"'),)


def test_all_demands_hold_and_the_cheap_ones_come_first() -> None:
    assert denied(judged(EVERYTHING, ANN, ip=ELSEWHERE, peer=CERTIFIED)) == (403, "address_not_allowed")
    assert denied(judged(EVERYTHING, ANN)) == (403, "no_client_certificate")
    assert denied(judged(EVERYTHING, peer=CERTIFIED)) == (401, "unauthorized")
    assert judged(EVERYTHING, ANN, peer=CERTIFIED) == Ask((Credential.BASIC, Credential.FORWARD))


class TestAnySuffices:
    def test_one_that_is_met_at_once(self) -> None:
        either = replace(EVERYTHING, any_suffices=True)
        assert judged(either) is None
        assert judged(either, ip=ELSEWHERE, peer=CERTIFIED) is None

    def test_else_all_that_can_be_asked(self) -> None:
        either = replace(EVERYTHING, any_suffices=True)
        assert judged(either, ANN, ip=ELSEWHERE) == Ask((Credential.BASIC, Credential.FORWARD), True)
        assert judged(either, BEARER, ip=ELSEWHERE) == Ask((Credential.FORWARD,), True)

    def test_what_is_said_where_nothing_can_be_asked(self) -> None:
        blocks = {"allowed_ip_blocks": BLOCKS, "satisfy": Satisfy.ANY}
        for demands, answer in [
            (table(**blocks, basic_auth_file="/f"), (401, "unauthorized")),
            (table(**blocks, client_certificate=True), (403, "not_allowed")),
            (table(**blocks), (403, "address_not_allowed")),
        ]:
            assert denied(judged(demands, ip=ELSEWHERE)) == answer


@pytest.mark.parametrize(
    ("value", "is_bearer"),
    [
        (b"Bearer phx_abc", True),
        (b"bearer  a.b-c_d~e+f/==", True),
        (b"Bearer", False),
        (b"Bearer ", False),
        (b"Bearer a b", False),
        (b"Bearer a,Basic b", False),
        (b"Basic YTpi", False),
        (b"Token x", False),
        (b"", False),
    ],
)
def test_bearer_reads_want_a_bearer(value: bytes, is_bearer: bool) -> None:
    assert has_bearer(((b"AUTHORIZATION", value),)) is is_bearer
    verdict = judged(
        table(allowed_ip_blocks=BLOCKS), (b"authorization", value), access=Access.BEARER, ip=None
    )
    assert (verdict is None) is is_bearer


def test_two_authorizations_are_none() -> None:
    assert not has_bearer((BEARER, BEARER))
    assert basic_credentials((ANN, ANN)) is None
    assert basic_credentials((ANN, BEARER)) is None


def test_without_a_bearer_such_a_read_is_protected() -> None:
    assert judged(table(allowed_ip_blocks=BLOCKS), access=Access.BEARER) is None
    assert judged(table(basic_auth_file="/f"), ANN, access=Access.BEARER) == Ask((Credential.BASIC,))
    assert judged(table(), access=Access.BEARER, ip=None) is None


@pytest.mark.parametrize(
    ("value", "credentials"),
    [
        (b"Basic YW5uOnNlY3JldA==", (b"ann", b"secret")),
        (b"bASIC   YW5uOnNlY3JldA==", (b"ann", b"secret")),
        (b"Basic " + base64.b64encode("jörg:p:ö".encode()), ("jörg".encode(), "p:ö".encode())),
        (b"Basic Og==", (b"", b"")),
        (b"Basic YW5u", None),
        (b"Basic YW5uOnNlY3JldA", None),
        (b"Basic YW5uOnNlY3JldA== x", None),
        (b"Basic " + base64.b64encode(b"a:b\0c"), None),
        (b"Basic " + base64.b64encode(b"a\n:b"), None),
        (b"Basic", None),
        (b"Bearer YW5uOnNlY3JldA==", None),
        (b"Basic !!!!", None),
    ],
)
def test_the_reading_of_basic_credentials(value: bytes, credentials: tuple[bytes, bytes] | None) -> None:
    assert basic_credentials(((b"Authorization", value),)) == credentials
    assert basic_credentials(()) is None


@pytest.mark.parametrize(
    ("access", "usual", "outcome"),
    [
        (Access.PROTECTED, Access.PUBLIC, Access.PUBLIC),
        (Access.NEVER, Access.PUBLIC, Access.PUBLIC),
        (Access.BEARER, Access.PUBLIC, Access.PUBLIC),
        (Access.PUBLIC, Access.BEARER, Access.PUBLIC),
        (Access.PROTECTED, Access.BEARER, Access.BEARER),
        (Access.NEVER, Access.PROTECTED, Access.NEVER),
        (Access.PUBLIC, Access.PROTECTED, Access.PUBLIC),
        (Access.PUBLIC, Access.NEVER, Access.PUBLIC),
    ],
)
def test_the_opener_closes_nothing_that_is_open(access: Access, usual: Access, outcome: Access) -> None:
    assert opener(access, usual) is outcome


def test_a_password_that_was_ours_goes_no_further() -> None:
    client = ClientAddress(OFFICE, AddressSource.PEER, False)
    route = RoutingTable.of(Config()).route(b"/x")
    assert isinstance(route, Route)
    forward = Forward(route, client, b"/x", (ANN, (b"Accept", b"*/*"), (b"authorization", b"x")), "id")
    assert without_password(forward).fields == ((b"Accept", b"*/*"),)
