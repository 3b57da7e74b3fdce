"""Instead of Apache: the same corpus through Apache's mod_proxy, as PostHog's page sets it up but with
ProxyPreserveHost and the target left as it is (`nocanon`), and through the proxy in `append` mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.comparing import Rule, judge, side_by_side
from tests.integration.explained import COMMON, only_ours, only_theirs, verdict
from tests.integration.requests_corpus import CORPUS, Case
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.comparing import Through

pytestmark = pytest.mark.needs("apache2")

EXPLAINED = [
    *COMMON,
    only_theirs("request field", "x-forwarded-server", "the front's own name: nothing in PostHog reads it"),
    only_theirs("request field", "connection", "in HTTP/1.1 connections are kept unless said otherwise"),
    Rule(
        "request field",
        "x-forwarded-host",
        "Django compares it with ALLOWED_HOSTS and origins; one spelling",
        "X-Forwarded-Host: PostHog.Example.TEST",
        "X-Forwarded-Host: posthog.example.test",
        frozenset({"host-mixed-case"}),
    ),
    Rule(
        "request field",
        "host",
        "without Host the upstream's own name stands, not the front's",
        "Host: localhost",
        "Host: 127.0.0.1:[0-9]+",
        frozenset({"http-1.0-without-host"}),
    ),
    Rule(
        "request field",
        "cookie",
        "Apache joins the lines with a comma, which is no cookie syntax (RFC 6265 section 5.4)",
        "Cookie: a=1, b=2",
        r"Cookie: a=1 \| Cookie: b=2",
        frozenset({"cookies-in-two-lines"}),
    ),
    Rule(
        "request field",
        "x-tag",
        "Apache joins lines of one name; we leave them alone",
        "X-Tag: 1, 2, 1",
        r"X-Tag: 1 \| X-Tag: 2 \| x-tag: 1",
        frozenset({"duplicate-names"}),
    ),
    Rule(
        "request order",
        "",
        "follows from the lines that Apache has joined",
        cases=frozenset({"cookies-in-two-lines", "duplicate-names"}),
    ),
    only_ours(
        "request field",
        "cookie",
        "a client cannot take end-to-end lines out by naming them in Connection",
        "connection-names-our-headers",
    ),
    only_ours(
        "request field",
        "x-forwarded-proto",
        "nor ours: Apache sets it first and removes it afterwards",
        "connection-names-our-headers",
    ),
    only_theirs(
        "request field", "expect", "the client's wait is over: we have answered 100", "post-expecting-100"
    ),
    *(
        only_theirs(
            "request field",
            name,
            "WSGI maps `_`, and some servers `.`, to `-`: it could impersonate ours",
            case,
        )
        for name, case in (
            ("my_header", "name-underscore"),
            ("x_forwarded_for", "name-underscore"),
            ("x.forwarded.for", "name-dot"),
        )
    ),
    Rule(
        "request framing",
        "",
        "Apache takes a small body whole before it asks the upstream and so knows its length; we stream",
        "length [0-9]+",
        "chunked",
        frozenset({"post-chunked", "post-chunked-extensions"}),
    ),
    # What Apache's own limits refuse.
    verdict("refused 414", "forwarded 200", "LimitRequestLine is 8 KiB; ours 32", "target-long-query"),
    verdict("refused 400", "forwarded 200", "LimitRequestFieldSize is 8 KiB; ours 64 in all", "cookie-large"),
    verdict("refused 400", "forwarded 200", "LimitRequestFields is 100; ours 128", "many-lines"),
    verdict("refused 200", "forwarded 200", "Apache answers OPTIONS * itself", "options-star"),
    # Answers.
    Rule(
        "answer field",
        "connection",
        "in HTTP/1.1 connections are kept unless said otherwise",
        theirs="Connection: Keep-Alive",
        ours="absent",
        cases=frozenset({"hop-by-hop"}),
    ),
    Rule(
        "answer field",
        "connection",
        "spelling",
        theirs="Connection: Keep-Alive",
        ours="Connection: keep-alive",
        cases=frozenset({"http-1.0-keep-alive"}),
    ),
    only_theirs(
        "answer field",
        "keep-alive",
        "optional, and no promise (RFC 2068 section 19.7.1.1)",
        "hop-by-hop",
        "http-1.0-keep-alive",
    ),
    Rule(
        "answer field",
        "connection",
        "Apache closes after the upstream's 5xx; the client's connection is as good as before",
        theirs="Connection: close",
        ours="absent",
        cases=frozenset({"answer-500", "answer-503"}),
    ),
    Rule(
        "answer framing",
        "",
        "the upstream's Content-Length of a HEAD says what GET would give; Apache drops a zero",
        "none",
        "length 0",
        frozenset({"head"}),
    ),
    Rule(
        "answer framing",
        "",
        "an answer to HEAD has no body to frame",
        "chunked",
        "none",
        frozenset({"answer-head-chunked"}),
    ),
    Rule(
        "answer order",
        "",
        "Apache collects Set-Cookie at the end; we leave lines where they are",
        cases=frozenset({"answer-set-cookie-twice"}),
    ),
]


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Through]:
    with side_by_side(servers.apache, "apache_preserve_host.conf", tmp_path_factory.mktemp("same")) as send:
        yield send


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_same_bytes_as_apache(case: Case, through: Through) -> None:
    theirs, ours = through(case)
    assert judge(case, theirs, ours, EXPLAINED) == []


def test_every_explained_case_is_in_the_corpus() -> None:
    named = {name for rule in EXPLAINED for name in (rule.cases or frozenset()) | rule.but}
    assert named <= {case.name for case in CORPUS}
