"""nginx and HAProxy judge beside us: we may be stricter, never looser.

Whatever our gate passes goes to both. What one of them refuses must have a reason in ``EXPLAINED``.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings

from proxy.errors import Violation
from proxy.message import RequestHead, field_values
from proxy.wire.bodies import ChunkedBody
from proxy.wire.heads import read_request
from proxy.wire.strict import HeadLimits, find_head_end
from tests.support import servers
from tests.support.corpus import Case, cases
from tests.support.odd_heads import request_heads
from tests.support.wire import Client, RawUpstream, Received, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytestmark = pytest.mark.needs("nginx", "haproxy")

LIMITS = HeadLimits()
ORACLES = ("nginx", "haproxy")
REQUESTS = cases("requests")
PASSING = [case for case in REQUESTS if not case.refused]
ANSWERS = [
    case for case in cases("responses") if not case.refused and case.expected["status"] >= 200
]  # an interim answer is not the end of anything
BODIES = [case for case in cases("chunked") if not case.refused]


@dataclass(frozen=True, slots=True)
class Explained:
    """A kind of request that ``oracle`` refuses and our gate rightly passes."""

    oracle: str
    why: str
    applies: Callable[[RequestHead], bool]


def _asks_for_websocket(head: RequestHead) -> bool:
    return any(b"websocket" in value.lower() for value in field_values(head.fields, b"upgrade"))


EXPLAINED = (
    Explained(
        "nginx",
        "knows no `OPTIONS *`, which RFC 9110 section 9.3.7 defines",
        lambda head: head.target == b"*",
    ),
    Explained(
        "nginx",
        "decodes the path while it parses and refuses a bad %, %00 and `..` above the root; the gate never"
        " decodes, the routing rules judge both readings",
        lambda head: b"%" in head.target or b".." in head.target,
    ),
    Explained(
        "haproxy",
        "refuses an incomplete WebSocket handshake; here it is an ordinary request whose Upgrade is dropped",
        lambda head: _asks_for_websocket(head) and not head.websocket,
    ),
    Explained(
        "haproxy",
        "wants no body with these methods in HTTP/1.0, as an old server might not read it; we send it on in"
        " HTTP/1.1 with a length",
        lambda head: (
            head.minor == 0 and head.method in (b"GET", b"HEAD", b"DELETE") and head.framing.length > 0
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Oracle:
    """A server that judges. Statuses: of its answer, 0 when it closed without one."""

    server: servers.Server

    def of_request(self, raw: bytes) -> int:
        return self._ask("head_port", raw)

    def of_body(self, raw: bytes) -> int:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        return self._ask("body_port", head + raw)

    def of_answer(self, case: Case) -> int:
        """The status with which it sends on what the upstream answers to the case's name."""
        method = case.expected.get("method", "GET")
        request = f"{method} /{case.name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        return self._ask("relay_port", request.encode())

    def _ask(self, port: str, raw: bytes) -> int:
        with Client(("127.0.0.1", self.server.ports[port])) as client:
            client.send(raw)
            try:
                return client.interim().status
            except WireError:
                return 0


def _answer_of_corpus(request: Received) -> bytes:
    name = request.start_line.split(b" ")[1].lstrip(b"/").decode()
    case = next(case for case in ANSWERS if case.name == name)
    framing = case.expected["framing"]
    body = b"0\r\n\r\n" if framing == "chunked" else b"x" * framing if isinstance(framing, int) else b""
    return case.raw + body


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Oracle]]:
    folder = tmp_path_factory.mktemp("oracles")
    with ExitStack() as stack:
        upstream = stack.enter_context(RawUpstream(_answer_of_corpus))
        address = f"127.0.0.1:{upstream.port}"
        nginx = servers.nginx("nginx_oracle.conf", folder / "nginx", upstream=address)
        haproxy = servers.haproxy("haproxy_oracle.cfg", folder / "haproxy", upstream=address)
        yield {
            "nginx": Oracle(stack.enter_context(nginx)),
            "haproxy": Oracle(stack.enter_context(haproxy)),
        }


def named(case: Case) -> str:
    return case.name


def taken(status: int) -> bool:
    return status in (100, 200)


def explanations(oracle: str, head: RequestHead) -> list[Explained]:
    return [rule for rule in EXPLAINED if rule.oracle == oracle and rule.applies(head)]


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("case", PASSING, ids=named)
def test_what_passes_here_passes_there(case: Case, name: str, oracles: Mapping[str, Oracle]) -> None:
    status = oracles[name].of_request(case.raw)
    assert taken(status) or explanations(name, read_request(case.raw, LIMITS)), status


@pytest.mark.parametrize("rule", EXPLAINED, ids=lambda rule: rule.why[:40])
def test_no_explanation_is_idle(rule: Explained, oracles: Mapping[str, Oracle]) -> None:
    heads = [(case.raw, read_request(case.raw, LIMITS)) for case in PASSING]
    refused = [
        raw for raw, head in heads if rule.applies(head) and not taken(oracles[rule.oracle].of_request(raw))
    ]
    assert refused


@pytest.mark.parametrize("name", ORACLES)
def test_they_do_refuse(name: str, oracles: Mapping[str, Oracle]) -> None:
    """A judge that takes everything would prove nothing: both refuse much of what we refuse."""
    refused = [case for case in REQUESTS if case.refused]
    alike = [case for case in refused if not taken(oracles[name].of_request(case.raw))]
    assert len(alike) > len(refused) / 3


@settings(deadline=None, max_examples=600)
@given(raw=request_heads)
def test_what_passes_here_passes_there_whatever_it_is(raw: bytes, oracles: Mapping[str, Oracle]) -> None:
    raw = raw[: max(0, find_head_end(bytearray(raw), 0))]
    try:
        head = read_request(raw, LIMITS)
    except Violation:
        return
    for name in ORACLES:
        status = oracles[name].of_request(raw)
        assert taken(status) or explanations(name, head), (name, status)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("case", BODIES, ids=named)
def test_a_chunked_body_that_passes_here_passes_there(
    case: Case, name: str, oracles: Mapping[str, Oracle]
) -> None:
    buffer = bytearray(case.raw)
    reader = ChunkedBody(64)
    reader.take(buffer)
    assert reader.done
    assert oracles[name].of_body(case.raw[: len(case.raw) - len(buffer)]) == 200


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("case", ANSWERS, ids=named)
def test_an_answer_that_passes_here_passes_there(
    case: Case, name: str, oracles: Mapping[str, Oracle]
) -> None:
    assert oracles[name].of_answer(case) == case.expected["status"]
