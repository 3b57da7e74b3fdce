"""What the outside service is asked, and what each of its answers means for a request."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.schema import AccessConfig, Config, TcpAddress, UpstreamUrl
from proxy.errors import ConfigError
from proxy.message import NO_BODY, EndpointClass, Forward, Peer, RequestHead, ResponseHead
from proxy.rules.access import Denial
from proxy.rules.decide import Tables, decide
from proxy.rules.forward_auth import NOT_ASKED, ForwardAuthTable, question, verdict

if TYPE_CHECKING:
    from proxy.message import Field

COPIED = ("X-Auth-Request-User", "Remote-User")
SETTINGS: dict[str, Any] = {
    "forward_auth": "sso",
    "forward_auth_path": "/oauth2/auth?x=1",
    "forward_auth_copy": COPIED,
}
TABLE = ForwardAuthTable.of(AccessConfig(**SETTINGS))
SIGN_IN = ForwardAuthTable.of(AccessConfig(**SETTINGS, forward_auth_sign_in="/oauth2/sign_in"))
TABLES = Tables.of(Config(upstream=UpstreamUrl(TcpAddress("web", 8000)), access=AccessConfig(**SETTINGS)))
PAGE = (b"Accept", b"text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")


def request(*fields: Field, method: bytes = b"GET", target: bytes = b"/insights?a=b&c") -> RequestHead:
    lines = ((b"Host", b"Ph.example.com"), *fields)
    return RequestHead(method, target, 1, lines, b"Ph.example.com", NO_BODY)


def forwarded(head: RequestHead, cls: EndpointClass = EndpointClass.PROTECTED) -> Forward:
    found = decide(head, Peer(ip_address("203.0.113.7"), local_port=80), TABLES, "the-id")
    assert isinstance(found, Forward)
    return replace(found, route=replace(found.route, cls=cls))


def answer(status: int, *fields: Field) -> ResponseHead:
    return ResponseHead(status, b"", 1, fields, NO_BODY)


def denial(
    status: int,
    *fields: Field,
    head: RequestHead | None = None,
    table: ForwardAuthTable = TABLE,
    cls: EndpointClass = EndpointClass.PROTECTED,
    body: bytes | None = b"no",
) -> Denial:
    head = head or request()
    found = verdict(answer(status, *fields), body, head, forwarded(head, cls), table)
    assert isinstance(found, Denial)
    return found


def test_the_question_describes_the_request_and_believes_nothing() -> None:
    head = request(
        (b"Cookie", b"_oauth2_proxy=abc"),
        (b"Authorization", b"Bearer phx"),
        (b"User-Agent", b"Firefox"),
        (b"X-Forwarded-For", b"6.6.6.6"),
        (b"X-Forwarded-Uri", b"/public"),
        (b"X-Forwarded-Method", b"GET"),
        (b"Remote-User", b"root"),
        (b"Content-Type", b"a/b"),
        (b"Upgrade", b"websocket"),
        PAGE,
        method=b"DELETE",
    )
    assert question(head, forwarded(head), b"sso:4180", TABLE) == (
        (b"Host", b"sso:4180"),
        (b"Cookie", b"_oauth2_proxy=abc"),
        (b"Authorization", b"Bearer phx"),
        (b"User-Agent", b"Firefox"),
        PAGE,
        (b"X-Forwarded-For", b"203.0.113.7"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"ph.example.com"),
        (b"X-Forwarded-Port", b"80"),
        (b"X-Request-Id", b"the-id"),
        (b"X-Forwarded-Method", b"DELETE"),
        (b"X-Forwarded-Uri", b"/insights?a=b&c"),
    )


def test_other_headers_are_sent_by_option() -> None:
    table = ForwardAuthTable.of(AccessConfig(forward_auth_send=("X-Tenant",)))
    head = request((b"x-tenant", b"7"), PAGE)
    names = [name for name, _ in question(head, forwarded(head), b"sso", table)]
    assert b"x-tenant" in names
    assert b"Accept" not in names


@pytest.mark.parametrize("status", [200, 202, 204])
def test_consent_brings_what_it_vouches_for(status: int) -> None:
    head = request((b"Remote-User", b"root"), (b"remote_user", b"root"), (b"Accept", b"*/*"))
    forward = forwarded(head)
    assert not [value for _, value in forward.fields if value == b"root"]
    said = answer(status, (b"remote-USER", b"ann"), (b"X-Other", b"1"), (b"X-Auth-Request-User", b"a"))
    passed = verdict(said, b"", head, forward, TABLE)
    assert isinstance(passed, Forward)
    assert passed == replace(
        forward, fields=(*forward.fields, (b"remote-USER", b"ann"), (b"X-Auth-Request-User", b"a"))
    )


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 403, 429, 500, 503])
def test_any_other_answer_is_the_clients(status: int) -> None:
    fields: tuple[Field, ...] = (
        (b"Location", b"https://login.example.com/?rd=x"),
        (b"Set-Cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"WWW-Authenticate", b"Bearer"),
        (b"Retry-After", b"9"),
    )
    about = ((b"Content-Type", b"text/html"), (b"Content-Encoding", b"gzip"))
    foreign = ((b"Server", b"x"), (b"Connection", b"close"), (b"Content-Length", b"2"), (b"Date", b"D"))
    found = denial(status, *fields, *about, *foreign)
    assert (found.status, found.reason, found.body) == (status, "forward_auth_denied", b"no")
    assert found.fields == (*fields, *about)
    # A body that is too long is ours then, and nothing is said about theirs.
    assert denial(status, *fields, *about, body=None).fields == fields


@pytest.mark.parametrize("status", [300, 304, 399])
def test_what_is_neither_consent_nor_a_place_to_go_is_no_answer(status: int) -> None:
    assert denial(status) is NOT_ASKED


@pytest.mark.parametrize("cls", [EndpointClass.BEARER_READ, EndpointClass.INGEST_V0])
def test_an_sdk_is_never_redirected(cls: EndpointClass) -> None:
    there = (b"Location", b"/login")
    found = denial(302, there, cls=cls)
    assert (found.status, found.fields, found.body) == (401, (), None)
    assert denial(401, cls=cls, head=request(PAGE), table=SIGN_IN).status == 401


class TestSignIn:
    @pytest.mark.parametrize("method", [b"GET", b"HEAD"])
    def test_a_page_load_is_sent_there_and_back(self, method: bytes) -> None:
        found = denial(401, (b"Set-Cookie", b"_csrf=1"), head=request(PAGE, method=method), table=SIGN_IN)
        assert (found.status, found.reason, found.body) == (302, "forward_auth_sign_in", b"")
        assert found.fields == (
            (
                b"Location",
                b"/oauth2/sign_in?rd=http%3A%2F%2Fph.example.com%2Finsights%3Fa%3Db%26c",
            ),
            (b"Set-Cookie", b"_csrf=1"),
        )

    def test_a_page_with_a_query_of_its_own(self) -> None:
        table = replace(SIGN_IN, sign_in=b"https://login.example.com/?app=ph")
        location = denial(401, head=request(PAGE), table=table).fields[0][1]
        assert location.startswith(b"https://login.example.com/?app=ph&rd=http%3A%2F%2Fph.")

    @pytest.mark.parametrize(
        "head",
        [
            request(PAGE, method=b"POST"),
            request((b"Accept", b"application/json")),
            request(),
        ],
    )
    def test_a_call_hears_the_401(self, head: RequestHead) -> None:
        assert denial(401, head=head, table=SIGN_IN).status == 401

    def test_only_after_a_401(self) -> None:
        assert denial(403, head=request(PAGE), table=SIGN_IN).status == 403


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("forward_auth_copy", ("Authorization", "cookie", "Host", "X-Forwarded-For", "Remote_User", "TE")),
        ("forward_auth_copy", ("Content-Length", "Content-Type", "Connection", "X-Real-IP", "Expect")),
        ("forward_auth_send", ("Transfer-Encoding", "Content-Length", "X-Forwarded-For", "Upgrade")),
    ],
)
def test_headers_with_a_meaning_of_their_own_are_a_config_error(key: str, names: tuple[str, ...]) -> None:
    settings: dict[str, Any] = {key: names}
    with pytest.raises(ConfigError) as caught:
        ForwardAuthTable.of(AccessConfig(**settings))
    assert [problem.value for problem in caught.value.problems] == [f'"{name}"' for name in names]
    assert {problem.key for problem in caught.value.problems} == {f"access.{key}"}
