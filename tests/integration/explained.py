"""Why the proxy's bytes differ from those of any general proxy that stands where PostHog's page puts it."""

from __future__ import annotations

from tests.integration.comparing import ABSENT, Place, Rule


def only_ours(place: Place, what: str, why: str, *cases: str, but: frozenset[str] = frozenset()) -> Rule:
    """A line that we write and they do not; ``cases`` empty: always."""
    return Rule(place, what, why, theirs=ABSENT, cases=frozenset(cases) or None, but=but)


def only_theirs(place: Place, what: str, why: str, *cases: str, but: frozenset[str] = frozenset()) -> Rule:
    """A line that they write and we do not; ``cases`` empty: always."""
    return Rule(place, what, why, ours=ABSENT, cases=frozenset(cases) or None, but=but)


def verdict(theirs: str, ours: str, why: str, *cases: str) -> Rule:
    """A request that one of both answers itself."""
    return Rule("verdict", "", why, theirs, ours, frozenset(cases))


CLIENT_ADDRESS_HEADERS = (
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "fly-client-ip",
    "cloudfront-viewer-address",
    "forwarded",
    "x-posthog-client-ip",
    "x-original-forwarded-for",
    "x-forwarded-prefix",
    "x-original-url",
    "x-http-method-override",
)

_FOR = "X-Forwarded-For: "

COMMON = [
    # What we add.
    only_ours(
        "request field", "x-request-id", "PostHog's flags service and both logs name the request by it"
    ),
    only_ours(
        "request field",
        "x-forwarded-port",
        "Django reads it (USE_X_FORWARDED_PORT) where IS_BEHIND_PROXY is set",
    ),
    # What we do not let through.
    *(
        only_theirs(
            "request field",
            name,
            "a PostHog service would believe it, whoever wrote it",
            "client-address-headers",
        )
        for name in CLIENT_ADDRESS_HEADERS
    ),
    *(
        only_theirs("request field", name, "hop-by-hop (RFC 9110 section 7.6.1)", "hop-by-hop")
        for name in ("http2-settings", "proxy-authorization")
    ),
    # Who the client is.
    Rule(
        "request field",
        "x-forwarded-for",
        "addresses are canonical: a port makes PostHog's gate answer 500 and capture see the proxy",
        _FOR + "203.0.113.7:51234, 127.0.0.1",
        _FOR + "203.0.113.7, 127.0.0.1",
        frozenset({"chain-with-port"}),
    ),
    Rule(
        "request field",
        "x-forwarded-for",
        "what stands left of an untrusted address is hearsay",
        _FOR + "6.6.6.6, 203.0.113.7, 127.0.0.1",
        _FOR + "203.0.113.7, 127.0.0.1",
        frozenset({"chain-behind-a-lie"}),
    ),
    Rule(
        "request field",
        "x-forwarded-for",
        "no address: PostHog's gate answers 500 to it",
        _FOR + "unknown, 127.0.0.1",
        _FOR + "127.0.0.1",
        frozenset({"chain-garbage"}),
    ),
    Rule(
        "request field",
        "x-forwarded-for",
        "an untrusted peer is the client, whatever it says",
        _FOR + "6.6.6.6, 127.0.0.77",
        _FOR + "127.0.0.77",
        frozenset({"stranger-lies"}),
    ),
    Rule(
        "request field",
        "x-forwarded-proto",
        "a trusted front has terminated TLS: overwriting its word is the classic redirect loop",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Proto: https",
        frozenset({"proto-from-trusted"}),
    ),
    # What we refuse.
    verdict(
        "forwarded 200",
        "refused 400",
        "whose reading of the path decides, ours or the upstream's? dot segments and empty segments before a"
        " public path are refused, as no SDK and no browser sends them",
        "target-double-slash",
        "target-dot-segment",
        "dot-dot-segment",
        "encoded-dot-dot",
    ),
    verdict(
        "forwarded 200",
        "refused 400",
        "a target is ASCII (RFC 9112 section 3.2)",
        "utf-8-in-target",
    ),
    verdict(
        "forwarded 200", "refused 501", "PostHog has no such method (RFC 9110 section 9.1)", "unknown-method"
    ),
    Rule(
        "answer line",
        "",
        "an answer that two readers frame differently is not passed on (RFC 9112 section 6.3)",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 502 Bad Gateway",
        frozenset({"answer-both-lengths", "answer-bare-line-feeds"}),
    ),
]
