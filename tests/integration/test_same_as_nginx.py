"""Instead of nginx: for each request of the corpus the upstream and the client see from the proxy, in
`append` mode, what they see from nginx with the configuration that PostHog's page prints.

Every difference stands in ``EXPLAINED`` with its reason; one that never occurs fails the test as well.
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

pytestmark = pytest.mark.needs("nginx")

EXPLAINED = [
    *COMMON,
    only_ours(
        "request field",
        "x-forwarded-host",
        "Django reads it (USE_X_FORWARDED_HOST) where IS_BEHIND_PROXY is set",
        but=frozenset({"http-1.0-without-host"}),
    ),
    only_theirs(
        "request field",
        "proxy-connection",
        "hop-by-hop, never standardised (RFC 9110 section 7.6.1)",
        "hop-by-hop",
    ),
    only_theirs("request field", "x-hop", "named by Connection, so hop-by-hop", "hop-by-hop"),
    only_theirs(
        "request field", "trailer", "trailers are dropped, so none are announced", "post-chunked-extensions"
    ),
    only_ours(
        "request field",
        "x!y~z",
        "a token (RFC 9110 section 5.6.2) that nginx calls invalid and drops",
        "name-unusual-token",
    ),
    only_ours(
        "request field",
        "host",
        "HTTP/1.1 to the upstream requires Host (RFC 9112 section 3.2); nginx sends none here",
        "http-1.0-without-host",
    ),
    Rule(
        "request framing",
        "",
        "nginx takes the whole body before it asks the upstream and so knows its length; we stream",
        "length [0-9]+",
        "chunked",
        frozenset({"post-chunked", "post-chunked-large", "post-chunked-extensions"}),
    ),
    verdict("refused 400", "forwarded 200", "OPTIONS * is valid (RFC 9112 section 3.2.4)", "options-star"),
    verdict("forwarded 200", "refused 400", "a target has no fragment (RFC 9112 section 3.2)", "fragment"),
    # Answers.
    Rule(
        "answer field",
        "date",
        "nginx puts its own clock in the place of the upstream's",
        ours="Date: Tue, 24 Nov 2026 10:00:00 GMT",
        but=frozenset({"answer-both-lengths", "answer-bare-line-feeds"}),
    ),
    Rule(
        "answer field",
        "server",
        "nginx puts its own name in the place of the upstream's",
        theirs="Server: nginx/.*",
        ours="Server: upstream",
        but=frozenset({"answer-both-lengths", "answer-bare-line-feeds"}),
    ),
    Rule(
        "answer field",
        "connection",
        "in HTTP/1.1 connections are kept unless said otherwise",
        theirs="Connection: keep-alive",
        ours="absent",
        but=frozenset(
            {
                "answer-both-lengths",
                "answer-bare-line-feeds",
                "connection-close",
                "http-1.0",
                "http-1.0-without-host",
                "http-1.0-keep-alive",
                "http-1.0-post",
                "answer-chunked-to-http-1.0",
            }
        ),
    ),
    *(
        only_theirs("answer field", name, "hop-by-hop (RFC 9110 section 7.6.1)", "answer-hop-by-hop")
        for name in ("proxy-connection", "upgrade", "x-hop")
    ),
    only_theirs(
        "answer field", "trailer", "trailers are dropped, so none are announced", "answer-chunked-extensions"
    ),
    only_ours(
        "answer field",
        "x-accel-buffering",
        "a word to nginx, which takes it out; another nginx may stand before us",
        "answer-accel",
    ),
    Rule(
        "answer order",
        "",
        "nginx writes Content-Type before the other lines",
        theirs="content-type, .*",
        ours=".*, content-type",
        cases=frozenset({"answer-gzip", "answer-cors"}),
    ),
]


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Through]:
    with side_by_side(servers.nginx, "nginx_same.conf", tmp_path_factory.mktemp("same")) as send:
        yield send


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.name)
def test_same_bytes_as_nginx(case: Case, through: Through) -> None:
    theirs, ours = through(case)
    assert judge(case, theirs, ours, EXPLAINED) == []


@pytest.mark.parametrize("case", CORPUS[:3] + CORPUS[-3:], ids=lambda case: case.name)
def test_judge_finds_what_the_table_does_not_list(case: Case, through: Through) -> None:
    """Without the table there is something wrong everywhere, and a rule too many is wrong as well."""
    theirs, ours = through(case)
    assert judge(case, theirs, ours, []) != []
    superfluous = Rule("request body", "", "none differs")
    assert judge(case, theirs, ours, [*EXPLAINED, superfluous]) != []


def test_every_explained_case_is_in_the_corpus() -> None:
    named = {name for rule in EXPLAINED for name in (rule.cases or frozenset()) | rule.but}
    assert named <= {case.name for case in CORPUS}


def test_corpus_is_large_and_its_names_are_unique() -> None:
    names = [case.name for case in CORPUS]
    assert len(names) == len(set(names)) >= 100
