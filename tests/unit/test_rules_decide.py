"""Heads to decisions: the order of the reasons to refuse, and what a request is sent on with."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from proxy.config.schema import (
    AccessConfig,
    AliasesConfig,
    Config,
    ForwardingConfig,
    FrontConfig,
    HostPolicy,
    LimitsConfig,
    RouteConfig,
    TcpAddress,
    TrustConfig,
    UnixAddress,
    UpstreamConfig,
    UpstreamUrl,
)
from proxy.errors import ConfigError
from proxy.message import (
    CHUNKED,
    NO_BODY,
    AddressSource,
    Ask,
    Credential,
    EndpointClass,
    Field,
    Forward,
    Framing,
    FramingKind,
    Peer,
    Refuse,
    RequestHead,
    first_value,
)
from proxy.rules.decide import Tables, configured_upstreams, decide

URL = UpstreamUrl(TcpAddress("posthog.internal", 8001))
CLOUD = UpstreamUrl(TcpAddress("us.i.posthog.com", 443), tls=True)
CLIENT = Peer(ip_address("203.0.113.7"), 51234, local_port=8000)
BALANCER = Peer(ip_address("10.0.0.2"), 4711, local_port=8000)
ID = "0b5e8f3c-0000-4000-8000-000000000001"

CONFIG = Config(
    upstream=URL,
    upstreams={"cloud": UpstreamConfig(url=CLOUD, host=HostPolicy.UPSTREAM)},
    routes=(RouteConfig("/cloud/*", upstream="cloud"),),
    trust=TrustConfig(proxies=(ip_network("10.0.0.0/8"),)),
    access=AccessConfig(allowed_hosts=(".example.com",)),
    limits=LimitsConfig(body_ingest=2000),
)
TABLES = Tables.of(CONFIG)


def head(
    target: bytes = b"/e/",
    *fields: Field,
    host: bytes | None = b"App.example.com",
    framing: Framing = NO_BODY,
    websocket: bool = False,
) -> RequestHead:
    lines = fields if host is None else ((b"Host", host), *fields)
    return RequestHead(b"POST", target, 1, lines, host, framing, websocket=websocket)


def forward(request: RequestHead, peer: Peer = CLIENT, tables: Tables = TABLES) -> Forward:
    decision = decide(request, peer, tables, ID)
    assert isinstance(decision, Forward), decision
    return decision


def refuse(request: RequestHead, peer: Peer = CLIENT, tables: Tables = TABLES) -> Refuse:
    decision = decide(request, peer, tables, ID)
    assert isinstance(decision, Refuse), decision
    return decision


class TestForward:
    def test_the_whole_decision(self) -> None:
        decision = forward(
            head(b"/e/?_=1", (b"X-Forwarded-For", b"6.6.6.6"), (b"X_Token", b"1"), (b"Accept", b"*/*"))
        )
        assert decision.target == b"/e/?_=1"
        assert decision.route.name == "/e"
        assert decision.route.upstream == "default"
        assert decision.client.ip == CLIENT.ip
        assert decision.client.source is AddressSource.PEER
        assert decision.request_id == ID
        assert decision.fields == (
            (b"Host", b"App.example.com"),
            (b"Accept", b"*/*"),
            (b"X-Forwarded-For", b"203.0.113.7"),
            (b"X-Forwarded-Proto", b"http"),
            (b"X-Forwarded-Host", b"app.example.com"),
            (b"X-Forwarded-Port", b"8000"),
            (b"X-Request-Id", ID.encode()),
        )
        assert decision.dropped == ("managed", "underscore_name")
        assert decision.because == (
            "203.0.113.7: peer, not trusted: it is the client",
            "the client is 203.0.113.7 (from peer)",
            "the path takes route /e (ingest_v0)",
            "goes to upstream default with Host App.example.com",
            "header lines left out: managed, underscore_name",
        )

    def test_a_trusted_peers_word_counts(self) -> None:
        other_id = "0b5e8f3c-0000-4000-8000-000000000002"
        decision = forward(
            head(b"/e", (b"X-Forwarded-For", b"203.0.113.9"), (b"X-Request-Id", other_id.encode())), BALANCER
        )
        assert decision.client.ip == ip_address("203.0.113.9")
        assert decision.request_id == other_id
        assert first_value(decision.fields, b"x-request-id") == other_id.encode()

    def test_a_trusted_peers_forwarded_host_must_be_served(self) -> None:
        for said, sent in ((b"b.example.com", b"b.example.com"), (b"evil.org", b"app.example.com")):
            decision = forward(head(b"/e", (b"X-Forwarded-Host", said)), BALANCER)
            assert first_value(decision.fields, b"x-forwarded-host") == sent

    def test_the_upstreams_own_host_by_policy(self) -> None:
        decision = forward(head(b"/cloud/x"))
        assert decision.fields[0] == (b"Host", b"us.i.posthog.com")
        assert first_value(decision.fields, b"x-forwarded-host") == b"app.example.com"
        assert "goes to upstream cloud with Host us.i.posthog.com" in decision.because

    def test_http_1_0_without_a_host_gets_the_upstreams(self) -> None:
        tables = Tables.of(replace(CONFIG, access=AccessConfig()))
        assert forward(head(host=None), tables=tables).fields[0] == (b"Host", b"posthog.internal:8001")

    def test_a_unix_socket_peer_names_nobody(self) -> None:
        decision = forward(head(), Peer(None))
        assert decision.client.ip is None
        assert "the client is unnamed (from unix)" in decision.because

    @pytest.mark.parametrize(("target", "kept"), [(b"/ws", True), (b"/e", False)])
    def test_an_upgrade_is_kept_only_where_the_route_allows_it(self, target: bytes, kept: bool) -> None:
        handshake = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))
        decision = forward(head(target, *handshake, websocket=True))
        assert (first_value(decision.fields, b"upgrade") == b"websocket") is kept
        assert ("the WebSocket upgrade is kept" in decision.because) is kept
        assert ("the WebSocket upgrade is left out: not on this route" in decision.because) is not kept

    def test_equal_arguments_give_equal_decisions(self) -> None:
        assert decide(head(), CLIENT, TABLES, ID) == decide(head(), CLIENT, Tables.of(CONFIG), ID)

    @pytest.mark.parametrize("framing", [CHUNKED, Framing(FramingKind.LENGTH, 2000), NO_BODY])
    def test_a_body_that_may_fit_passes(self, framing: Framing) -> None:
        assert forward(head(framing=framing)).route.body_limit == 2000


class TestRefuse:
    @pytest.mark.parametrize(
        ("request_head", "status", "reason", "cls"),
        [
            (head(host=b"evil.org"), 421, "host_not_allowed", EndpointClass.INGEST_V0),
            (head(host=None), 421, "host_not_allowed", EndpointClass.INGEST_V0),
            (head(b"/%65"), 400, "ambiguous_path", EndpointClass.PROTECTED),
            (head(b"/metrics"), 404, "never_public", EndpointClass.NEVER),
            (
                head(framing=Framing(FramingKind.LENGTH, 2001)),
                413,
                "body_too_large",
                EndpointClass.INGEST_V0,
            ),
        ],
    )
    def test_each_reason(
        self, request_head: RequestHead, status: int, reason: str, cls: EndpointClass
    ) -> None:
        decision = refuse(request_head)
        assert (decision.status, decision.reason, decision.cls) == (status, reason, cls)
        assert decision.client is not None
        assert decision.client.ip == CLIENT.ip
        assert decision.because[-1] == f"refused with {status} {reason}: {decision.detail}"
        assert decision.because[0] == "203.0.113.7: peer, not trusted: it is the client"

    @pytest.mark.parametrize("target", [b"/%65", b"/metrics", b"/e"])
    def test_a_host_that_is_not_served_learns_nothing_else(self, target: bytes) -> None:
        huge = Framing(FramingKind.LENGTH, 1 << 40)
        assert refuse(head(target, host=b"evil.org", framing=huge)).status == 421

    def test_never_public_beats_the_size(self) -> None:
        assert refuse(head(b"/metrics", framing=Framing(FramingKind.LENGTH, 1 << 40))).status == 404

    @pytest.mark.parametrize(
        ("request_head", "close"),
        [
            (head(b"/metrics"), False),
            (head(b"/metrics", framing=CHUNKED), True),
            (head(host=b"evil.org"), False),
            (head(host=b"evil.org", framing=Framing(FramingKind.LENGTH, 1)), True),
            (head(b"/../x"), True),
            (head(framing=Framing(FramingKind.LENGTH, 2001)), True),
        ],
    )
    def test_the_connection_ends_where_bytes_would_be_left(
        self, request_head: RequestHead, close: bool
    ) -> None:
        assert refuse(request_head).close is close

    def test_the_route_is_named_where_there_is_one(self) -> None:
        decision = refuse(head(b"/metrics"))
        assert decision.route is not None
        assert decision.route.name == "/metrics"
        assert "the path takes route /metrics (never)" in decision.because
        assert refuse(head(b"/..")).route is None


class TestTables:
    def test_the_short_form_names_the_default_upstream(self) -> None:
        assert configured_upstreams(CONFIG)["default"] == UpstreamConfig(url=URL)
        assert set(configured_upstreams(CONFIG)) == {"default", "cloud"}

    def test_a_default_upstream_that_is_written_out_stands(self) -> None:
        config = Config(upstream=URL, upstreams={"default": UpstreamConfig(url=CLOUD)})
        assert configured_upstreams(config)["default"].url == CLOUD

    def test_a_unix_upstream_has_a_host_too(self) -> None:
        tables = Tables.of(Config(upstream=UpstreamUrl(UnixAddress("/run/posthog.sock"))))
        assert forward(head(host=None), tables=tables).fields[0] == (b"Host", b"localhost")

    @pytest.mark.parametrize(
        ("config", "missing", "known"),
        [
            (Config(), "default", "none is configured"),
            (replace(CONFIG, routes=(RouteConfig("/x", upstream="clod"),)), "clod", "cloud, default"),
        ],
    )
    def test_a_route_to_nowhere_is_a_config_error(self, config: Config, missing: str, known: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Tables.of(config)
        (problem,) = caught.value.problems
        assert problem.value == missing
        assert known in problem.allowed

    def test_a_path_that_cannot_be_taken_is_a_config_error(self) -> None:
        with pytest.raises(ConfigError):
            Tables.of(replace(CONFIG, routes=(RouteConfig("/%41"),)))


def test_an_alias_goes_on_as_the_path_that_it_stands_for() -> None:
    tables = Tables.of(replace(CONFIG, aliases=AliasesConfig(prefix="/k7")))
    decision = forward(head(b"/k7/e/?_=1"), tables=tables)
    assert (decision.target, decision.route.cls) == (b"/e/?_=1", EndpointClass.INGEST_V0)
    assert "is asked for as /e/ there" in decision.because
    assert not any("asked for as" in step for step in forward(head(b"/e/?_=1")).because)


def test_an_alias_of_a_protected_path_is_not_found() -> None:
    tables = Tables.of(replace(CONFIG, aliases=AliasesConfig(prefix="/k7")))
    refusal = decide(head(b"/k7/login"), CLIENT, tables, ID)
    assert isinstance(refusal, Refuse)
    assert (refusal.status, refusal.reason) == (404, "not_aliased")


def test_cookies_of_events_are_left_out_if_so_configured() -> None:
    tables = Tables.of(replace(CONFIG, forwarding=ForwardingConfig(drop_ingest_cookies=True)))
    cookies: tuple[Field, ...] = ((b"Cookie", b"a=b"), (b"X-A", b"1"), (b"cookie", b"c=d"))
    assert first_value(forward(head(b"/e/", *cookies), tables=tables).fields, b"cookie") is None
    assert first_value(forward(head(b"/e/", *cookies), tables=tables).fields, b"x-a") == b"1"
    assert first_value(forward(head(b"/login", *cookies), tables=tables).fields, b"cookie") == b"a=b"
    assert first_value(forward(head(b"/e/", *cookies)).fields, b"cookie") == b"a=b"


def test_a_fronts_header_names_the_client() -> None:
    front = FrontConfig((ip_network("10.0.0.0/8"),), client_header="CF-Connecting-IP")
    tables = Tables.of(replace(CONFIG, fronts=(front,)))
    decision = forward(head(b"/e/", (b"CF-Connecting-IP", b"203.0.113.9")), BALANCER, tables)
    assert first_value(decision.fields, b"x-forwarded-for") == b"203.0.113.9"


class TestAccess:
    TABLES = Tables.of(
        replace(
            CONFIG,
            access=AccessConfig(
                allowed_hosts=(".example.com",),
                probe_paths=("/_health",),
                allowed_ip_blocks=(ip_network("203.0.113.0/24"),),
                basic_auth_file="/users",
                forward_auth="cloud",
            ),
        )
    )
    ELSEWHERE = Peer(ip_address("198.51.100.1"))
    ANN = (b"Authorization", b"Basic YW5uOng=")

    @pytest.mark.parametrize("target", [b"/e", b"/static/x.js", b"/shared/x", b"/_health"])
    def test_what_is_public_stays_open(self, target: bytes) -> None:
        assert forward(head(target), self.ELSEWHERE, self.TABLES).ask is None

    def test_the_demands_come_in_order(self) -> None:
        assert refuse(head(b"/login", self.ANN), self.ELSEWHERE, self.TABLES).status == 403
        decision = refuse(head(b"/login"), CLIENT, self.TABLES)
        assert (decision.status, decision.reason) == (401, "unauthorized")
        assert first_value(decision.fields, b"www-authenticate") is not None
        decision_with = forward(head(b"/login", self.ANN), CLIENT, self.TABLES)
        assert decision_with.ask == Ask((Credential.BASIC, Credential.FORWARD))
        assert "passes only after a check: basic and forward_auth" in decision_with.because

    def test_the_address_is_the_clients_not_the_peers(self) -> None:
        said = (b"X-Forwarded-For", b"203.0.113.9")
        assert forward(head(b"/login", self.ANN, said), BALANCER, self.TABLES).ask is not None
        assert refuse(head(b"/login", self.ANN, said), self.ELSEWHERE, self.TABLES).status == 403

    def test_bearer_reads(self) -> None:
        target, bearer = b"/flags/definitions?token=x", (b"Authorization", b"Bearer phs_x")
        assert forward(head(target, bearer), self.ELSEWHERE, self.TABLES).ask is None
        assert refuse(head(target), self.ELSEWHERE, self.TABLES).reason == "address_not_allowed"

    def test_a_probe_by_address(self) -> None:
        assert forward(head(b"/_health", host=b"10.0.0.7:8000"), self.ELSEWHERE, self.TABLES).ask is None
        assert refuse(head(b"/e", host=b"10.0.0.7:8000"), self.ELSEWHERE, self.TABLES).status == 421

    def test_the_size_comes_last(self) -> None:
        huge = Framing(FramingKind.LENGTH, 1 << 40)
        assert refuse(head(b"/login", framing=huge), self.ELSEWHERE, self.TABLES).status == 403
        assert refuse(head(b"/login", self.ANN, framing=huge), CLIENT, self.TABLES).status == 413

    def test_any_demand_may_suffice(self) -> None:
        either = replace(self.TABLES, access=replace(self.TABLES.access, any_suffices=True))
        assert forward(head(b"/login"), CLIENT, either).ask is None
        decision = forward(head(b"/login", self.ANN), self.ELSEWHERE, either)
        assert "passes only after a check: basic or forward_auth" in decision.because

    def test_a_header_that_cannot_be_taken_is_a_config_error(self) -> None:
        with pytest.raises(ConfigError, match="forward_auth_copy"):
            Tables.of(replace(CONFIG, access=AccessConfig(forward_auth_copy=("Cookie",))))
