"""Paths to routes: PostHog's table, the operator's routes before it, and paths with two meanings."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from proxy.config.schema import (
    AccessConfig,
    Alias,
    AliasesConfig,
    Config,
    ForwardingConfig,
    LimitsConfig,
    RouteConfig,
    SpoolConfig,
    TimeoutsConfig,
)
from proxy.errors import ConfigError
from proxy.message import Access, EndpointClass, Route, SpoolMode
from proxy.rules.routing import Mismatch, RoutingTable, canonical, outgoing_target

TABLE = RoutingTable.of(Config())

INGEST_V0 = [
    "/e",
    "/capture",
    "/batch",
    "/track",
    "/engage",
    "/i/v0/e",
    "/i/v0/ai",
    "/i/v0/ai/batch",
    "/i/v0/ai/otel",
    "/report",
]
INGEST_V1 = ["/i/v1/analytics/events", "/i/v1/logs", "/i/v1/traces", "/i/v1/metrics"]
ARRAY = ["/array/phc_abc/config", "/array/phc_abc/config.js", "/array/phc_abc/array.js"]
SDK_READS = [
    "/surveys",
    "/api/surveys",
    "/api/web_experiments",
    "/api/early_access_features",
    "/api/product_tours",
]
BEARER = [
    "/flags/definitions",
    "/api/feature_flag/local_evaluation",
    "/api/projects/@current/feature_flags/my-flag/remote_config",
]
PUBLIC = ["/shared", "/embedded", "/exporter", "/external_surveys", "/messaging-preferences", "/_health"]
NEVER = ["/metrics", "/_liveness", "/_readiness", "/test/black_hole"]
PROTECTED = [
    "/login",
    "/admin",
    "/api/users/@me",
    "/api/projects/1/insights",
    "/project/1/events",
    "/posthog/blob",
]

WITH_AND_WITHOUT_SLASH = [
    (path, cls)
    for paths, cls in (
        (INGEST_V0, EndpointClass.INGEST_V0),
        (INGEST_V1, EndpointClass.INGEST_V1),
        (["/s"], EndpointClass.REPLAY),
        (["/flags", "/decide"], EndpointClass.FLAGS),
        (["/flags/stream"], EndpointClass.STREAM),
        (SDK_READS, EndpointClass.SDK_READ),
        (BEARER, EndpointClass.BEARER_READ),
        (PUBLIC, EndpointClass.PUBLIC),
        (NEVER, EndpointClass.NEVER),
        (PROTECTED, EndpointClass.PROTECTED),
    )
    for path in paths
]

AS_WRITTEN = [
    *((path, EndpointClass.SDK_READ) for path in ARRAY),
    ("/array/phc_abc/config/", EndpointClass.PROTECTED),
    ("/array//config", EndpointClass.PROTECTED),
    ("/array/a/b/config", EndpointClass.PROTECTED),
    ("/static/array.js", EndpointClass.SDK_READ),
    ("/static/1.449.0/lazy-recorder.js", EndpointClass.SDK_READ),
    ("/static/", EndpointClass.SDK_READ),
    ("/static", EndpointClass.PROTECTED),
    ("/api/conversations/v1/widget/message/", EndpointClass.SDK_READ),
    ("/site_app/12/token/hash/", EndpointClass.SDK_READ),
    ("/livestream/events", EndpointClass.STREAM),
    ("/public/webhooks/abc", EndpointClass.PUBLIC),
    ("/.well-known/security.txt", EndpointClass.PUBLIC),
    ("/shared/access-token", EndpointClass.PUBLIC),
    ("/sharedx", EndpointClass.PROTECTED),
    ("/", EndpointClass.PROTECTED),
    ("/E", EndpointClass.PROTECTED),
    ("/e/x", EndpointClass.PROTECTED),
    ("/api/projects/2/feature_flags/my-flag/remote_config", EndpointClass.PROTECTED),
    ("*", EndpointClass.PROTECTED),
]


def route(target: str | bytes, table: RoutingTable = TABLE) -> Route:
    found = table.route(target if isinstance(target, bytes) else target.encode())
    assert isinstance(found, Route), target
    return found


def mismatch(target: str | bytes, table: RoutingTable = TABLE) -> Mismatch:
    found = table.route(target if isinstance(target, bytes) else target.encode())
    assert isinstance(found, Mismatch), (target, found)
    return found


class TestPostHogsPaths:
    @pytest.mark.parametrize(("path", "cls"), WITH_AND_WITHOUT_SLASH)
    def test_each_path_has_its_class_with_and_without_a_trailing_slash(
        self, path: str, cls: EndpointClass
    ) -> None:
        for target in (path, path + "/", path + "?a=/../%00", path + "/?_=1&ver=1.449.0"):
            assert route(target).cls is cls

    @pytest.mark.parametrize(("path", "cls"), AS_WRITTEN)
    def test_paths_that_mean_only_what_they_say(self, path: str, cls: EndpointClass) -> None:
        assert route(path).cls is cls

    @pytest.mark.parametrize(
        ("target", "name"),
        [
            ("/e/", "/e"),
            ("/static/array.js", "/static/*"),
            ("/array/phc_x/config", "/array/<token>/config"),
            ("/shared/x", "/shared/*"),
            ("/anything/else", "app"),
        ],
    )
    def test_names_are_patterns_so_labels_stay_few(self, target: str, name: str) -> None:
        assert route(target).name == name

    def test_everything_goes_to_the_default_upstream(self) -> None:
        assert TABLE.upstreams == {"default"}
        assert route("/e").upstream == route("/api/x").upstream == "default"


class TestWhatHoldsForAClass:
    LIMITS = LimitsConfig(body_ingest=1001, body_replay=1002, body_flags=1003, body_app=1004)
    TIMEOUTS = TimeoutsConfig(
        body_ingest=1,
        body_app=2,
        connect=3,
        connect_flags=4,
        first_byte_ingest=5,
        first_byte_flags=6,
        first_byte_sdk=7,
        first_byte_app=8,
        answer_stall=9,
        stream_stall=10,
    )

    @pytest.mark.parametrize(
        ("target", "body_limit", "body", "connect", "first_byte", "stall"),
        [
            ("/e", 1001, 1, 3, 5, 9),
            ("/i/v1/logs", 1001, 1, 3, 5, 9),
            ("/s/", 1002, 1, 3, 5, 9),
            ("/flags/", 1003, 1, 4, 6, 9),
            ("/static/x.js", 1003, 1, 3, 7, 9),
            ("/flags/definitions", 1003, 1, 3, 7, 9),
            ("/flags/stream", 1003, 1, 3, 8, 10),
            ("/shared/x", 1004, 2, 3, 8, 9),
            ("/metrics", 1004, 2, 3, 8, 9),
            ("/api/users", 1004, 2, 3, 8, 9),
        ],
    )
    def test_limits_and_time_outs(
        self, target: str, body_limit: int, body: float, connect: float, first_byte: float, stall: float
    ) -> None:
        found = route(target, RoutingTable.of(Config(limits=self.LIMITS, timeouts=self.TIMEOUTS)))
        assert (
            found.body_limit,
            found.body_timeout,
            found.connect_timeout,
            found.first_byte_timeout,
            found.answer_stall_timeout,
        ) == (body_limit, body, connect, first_byte, stall)

    @pytest.mark.parametrize(
        ("target", "flags"),
        [
            ("/e", "resend_held fast"),
            ("/i/v1/logs", "resend_held fast"),
            ("/s", "resend_held fast"),
            ("/flags", "resend_held fast"),
            ("/static/x.js", "fast"),
            ("/flags/definitions", "fast"),
            ("/livestream/x", "websocket"),
            ("/shared/x", "websocket fast"),
            ("/api/users", "websocket fast"),
            ("/metrics", ""),
        ],
    )
    def test_what_is_allowed(self, target: str, flags: str) -> None:
        found = route(target)
        names = ("resend_held", "websocket", "fast")
        assert " ".join(name for name in names if getattr(found, name)) == flags


class TestSpool:
    SPOOL = SpoolConfig(directory="/var/spool/x")

    @pytest.mark.parametrize(
        ("target", "kept"),
        [("/e", True), ("/batch/", True), ("/s/", True), ("/i/v1/logs", False), ("/flags", False),
         ("/api/users", False)],
    )  # fmt: skip
    def test_only_v0_ingest_and_replay_are_kept(self, target: str, kept: bool) -> None:
        table = RoutingTable.of(Config(spool=self.SPOOL))
        assert route(target, table).spool is (SpoolMode.FALLBACK if kept else SpoolMode.OFF)
        assert route(target).spool is SpoolMode.OFF

    def test_fallback_waits_less_for_the_answer_than_an_sdk_does(self) -> None:
        assert route("/e").first_byte_timeout == 30
        assert route("/e", RoutingTable.of(Config(spool=self.SPOOL))).first_byte_timeout == 8
        first = replace(self.SPOOL, mode=SpoolMode.FIRST)
        assert route("/e", RoutingTable.of(Config(spool=first))).first_byte_timeout == 30
        hurried = Config(spool=self.SPOOL, timeouts=TimeoutsConfig(first_byte_ingest=2))
        assert route("/e", RoutingTable.of(hurried)).first_byte_timeout == 2

    def test_a_route_has_its_own_mode_where_it_may(self) -> None:
        routes = (RouteConfig("/*", spool=SpoolMode.FIRST), RouteConfig("/s/*", spool=SpoolMode.OFF))
        table = RoutingTable.of(Config(spool=self.SPOOL, routes=routes))
        modes = [route(target, table).spool for target in ("/e", "/s/", "/i/v1/logs")]
        assert modes == [SpoolMode.FIRST, SpoolMode.OFF, SpoolMode.OFF]


def configured(*routes: RouteConfig) -> RoutingTable:
    return RoutingTable.of(Config(routes=routes))


class TestAccess:
    @pytest.mark.parametrize(
        ("target", "access"),
        [
            ("/e", Access.PUBLIC),
            ("/static/x", Access.PUBLIC),
            ("/shared/x", Access.PUBLIC),
            ("/flags/definitions", Access.BEARER),
            ("/login", Access.PROTECTED),
            ("/E", Access.PROTECTED),
            ("/metrics", Access.NEVER),
        ],
    )
    def test_by_class(self, target: str, access: Access) -> None:
        assert route(target).access is access

    @pytest.mark.parametrize("access", Access)
    def test_a_path_that_is_named_has_the_access_that_is_said(self, access: Access) -> None:
        for path in ("/flags", "/metrics", "/x", "/api/feature_flag/local_evaluation"):
            found = route(path, configured(RouteConfig(path, access=access)))
            assert found.access is access
            assert found.cls is route(path).cls  # only who may ask, nothing else

    @pytest.mark.parametrize("access", [Access.PROTECTED, Access.NEVER, Access.BEARER])
    def test_a_prefix_closes_nothing_that_it_only_covers(self, access: Access) -> None:
        table = configured(RouteConfig("/*", access=access), RouteConfig("/s*", access=access))
        for path in ("/e", "/s", "/static/x", "/surveys", "/shared/x", "/_health", "/flags/stream"):
            assert route(path, table).access is Access.PUBLIC
        assert route("/flags/definitions", table).access is Access.BEARER
        assert route("/login", table).access is access
        assert route("/metrics", table).access is Access.NEVER

    def test_a_class_for_a_prefix_closes_nothing_either(self) -> None:
        table = configured(RouteConfig("/*", cls=EndpointClass.PROTECTED))
        assert (route("/e", table).cls, route("/e", table).access) == (
            EndpointClass.PROTECTED,
            Access.PUBLIC,
        )

    @pytest.mark.parametrize("prefix", ["/shared/*", "/shared/secret*", "/static/internal/*"])
    def test_a_prefix_within_a_line_of_the_table_means_it(self, prefix: str) -> None:
        table = configured(RouteConfig(prefix, access=Access.PROTECTED))
        assert route(prefix[:-1] + "x", table).access is Access.PROTECTED

    def test_small_letters_close_and_never_open(self) -> None:
        for pattern in ("/static/internal/*", "/static/Internal/*"):
            table = configured(RouteConfig(pattern, access=Access.PROTECTED))
            for path in ("/static/INTERNAL/x", "/static/iNTERNAL%2fx"):
                assert mismatch(path, table).status == 400
        assert route("/STATIC/x", table).access is Access.PROTECTED

    def test_a_prefix_can_open_what_is_protected_and_never_what_must_not_be_public(self) -> None:
        table = configured(RouteConfig("/*", access=Access.PUBLIC))
        assert route("/login", table).access is Access.PUBLIC
        assert route("/metrics", table).access is Access.NEVER

    @pytest.mark.parametrize("access", Access)
    def test_only_what_is_open_to_whoever_comes_is_fast(self, access: Access) -> None:
        routes = (RouteConfig("/e", access=access), RouteConfig("/login", access=access))
        blocks = AccessConfig(allowed_ip_blocks=(ip_network("203.0.113.0/24"),))
        for path in ("/e", "/login"):
            assert route(path, configured(*routes)).fast is (access is not Access.NEVER)
            demanding = RoutingTable.of(Config(routes=routes, access=blocks))
            assert route(path, demanding).fast is (access is Access.PUBLIC)
        assert not route("/api/users", RoutingTable.of(Config(access=blocks))).fast
        assert route("/e", RoutingTable.of(Config(access=blocks))).fast


class TestConfiguredRoutes:
    def test_a_prefix_moves_paths_but_keeps_the_class_of_each(self) -> None:
        table = configured(RouteConfig("/api/*", upstream="web"))
        assert route("/api/surveys/", table).cls is EndpointClass.SDK_READ
        assert route("/api/users", table).cls is EndpointClass.PROTECTED
        for target in ("/api/surveys/", "/api/users"):
            assert route(target, table).upstream == "web"
            assert route(target, table).name == "/api/*"
        assert route("/api", table).upstream == "default"
        assert table.upstreams == {"default", "web"}

    def test_exact_before_prefix_and_longer_before_shorter(self) -> None:
        table = configured(
            RouteConfig("/i/*", upstream="short"),
            RouteConfig("/i/v0/*", upstream="long"),
            RouteConfig("/i/v0/e", upstream="exact"),
        )
        assert route("/i/v0/e", table).upstream == "exact"
        assert route("/i/v0/e/", table).upstream == "exact"
        assert route("/i/v0/ai", table).upstream == "long"
        assert route("/i/v1/logs", table).upstream == "short"

    def test_a_configured_prefix_comes_before_a_built_in_path(self) -> None:
        table = configured(RouteConfig("/*", upstream="all"))
        assert route("/e/", table).upstream == "all"
        assert route("/e/", table).cls is EndpointClass.INGEST_V0

    @pytest.mark.parametrize("path", ["/s", "/s/"])
    def test_the_trailing_slash_of_a_configured_path_does_not_matter(self, path: str) -> None:
        table = configured(RouteConfig(path, upstream="replay"))
        assert route("/s", table).upstream == route("/s/", table).upstream == "replay"

    def test_of_two_equal_paths_the_first_wins(self) -> None:
        table = configured(RouteConfig("/x", upstream="one"), RouteConfig("/x", upstream="two"))
        assert route("/x", table).upstream == "one"

    def test_a_prefix_that_ends_inside_a_segment(self) -> None:
        table = configured(RouteConfig("/flags*", upstream="flags"))
        assert [route(target, table).upstream for target in ("/flags", "/flags/", "/flagsy", "/flag")] == [
            "flags",
            "flags",
            "flags",
            "default",
        ]

    def test_the_root_alone(self) -> None:
        table = configured(RouteConfig("/", upstream="home"))
        assert route("/", table).upstream == "home"
        assert route("/e", table).upstream == "default"

    def test_unset_values_come_from_the_class_and_set_ones_win(self) -> None:
        plain, tuned = (
            RouteConfig("/a"),
            RouteConfig(
                "/b",
                cls=EndpointClass.STREAM,
                body_limit=0,
                first_byte_timeout=1.5,
                answer_stall_timeout=2.5,
                websocket=False,
            ),
        )
        table = configured(plain, tuned)
        assert route("/a", table).body_limit == LimitsConfig().body_app
        assert route("/a", table).websocket is True
        found = route("/b", table)
        assert found.cls is EndpointClass.STREAM
        assert (found.body_limit, found.first_byte_timeout, found.answer_stall_timeout) == (0, 1.5, 2.5)
        assert found.websocket is False
        assert found.connect_timeout == TimeoutsConfig().connect

    def test_a_class_for_a_prefix_holds_for_all_below_but_never_opens_what_must_not_be(self) -> None:
        table = configured(RouteConfig("/*", cls=EndpointClass.PUBLIC))
        assert route("/api/users", table).cls is EndpointClass.PUBLIC
        assert route("/e", table).cls is EndpointClass.PUBLIC
        assert route("/metrics", table).cls is EndpointClass.NEVER

    def test_a_path_named_on_purpose_may_be_opened(self) -> None:
        table = configured(RouteConfig("/metrics", cls=EndpointClass.PROTECTED, upstream="capture"))
        assert route("/metrics/", table).cls is EndpointClass.PROTECTED
        assert route("/_liveness", table).cls is EndpointClass.NEVER

    def test_a_path_named_without_a_class_keeps_its_own(self) -> None:
        assert route("/metrics", configured(RouteConfig("/metrics", upstream="x"))).cls is EndpointClass.NEVER

    @pytest.mark.parametrize("path", ["/a%2fb", "/a;b", "/a//b", "/a\\b", "/../a", "/./*", "a", ""])
    def test_a_path_that_no_request_could_take_is_refused(self, path: str) -> None:
        with pytest.raises(ConfigError) as caught:
            configured(RouteConfig("/fine"), RouteConfig(path))
        (problem,) = caught.value.problems
        assert (problem.key, problem.value) == ("routes[].path", path)


class TestPathsWithTwoMeanings:
    @pytest.mark.parametrize(
        "target",
        [
            "/e%2f",
            "/e%2F",
            "/%65/",
            "/%65",
            "//e/",
            "/e//",
            "/;x/e",
            "/s;x/",
            "/s;x",
            "/s\\",
            "\\e",
            "/%5ce",
            "/e%5c",
            "/m%65trics",
            "/metrics;x",
            "/metrics;%2fx",
            "/metrics;\\x",
            "/metrics%3b%5cx",
            "/metrics;%2f%3fx",
            "/;%3f/metrics%3f",
            "/metrics//",
            "/%6detrics?x",
            "/static%2farray.js",
            "/api%2fsurveys",
            "/api/surveys%2f",
            "/array/a%2fb/config",
            "/array//phc_x/config",
            "/public%2fx",
            "/livestream;x/y",
        ],
    )
    def test_two_readings_that_lead_to_different_routes(self, target: str) -> None:
        found = mismatch(target)
        assert (found.status, found.reason) == (400, "ambiguous_path")

    @pytest.mark.parametrize(
        "target",
        [
            "/..",
            "/.",
            "/a/../b",
            "/api/%2e%2e/metrics",
            "/api/%2E./metrics",
            "/static/..%2fmetrics",
            "/static/..%5cmetrics",
            "/static/..;/metrics",
            "/static/.;x",
            "/static/%2e",
            "/static/a%2f..%2f..%2fmetrics",
            "/metrics%00",
            "/static/%00",
            b"/static/\x00",
            "/api/x%00.js",
        ],
    )
    def test_dot_segments_and_nul_never_pass_whatever_the_route(self, target: str) -> None:
        assert mismatch(target).status == 400

    @pytest.mark.parametrize("target", ["", "e", "http://x/e", "**", "*?", "?x", "e/"])
    def test_only_origin_form_and_the_asterisk_have_a_meaning(self, target: str) -> None:
        assert mismatch(target).reason == "ambiguous_path"

    @pytest.mark.parametrize(
        ("target", "cls"),
        [
            ("/api/projects/1/x%20y", EndpointClass.PROTECTED),
            ("/api/projects/1/a%2fb", EndpointClass.PROTECTED),
            ("/person/%zz%", EndpointClass.PROTECTED),
            ("/person//x", EndpointClass.PROTECTED),
            ("/x%3f", EndpointClass.PROTECTED),
            ("/insights;v=1", EndpointClass.PROTECTED),
            ("/static/a%20b.js", EndpointClass.SDK_READ),
            ("/static//array.js", EndpointClass.SDK_READ),
            ("/static/%zz", EndpointClass.SDK_READ),
            ("/static/...", EndpointClass.SDK_READ),
            ("/static/.hidden", EndpointClass.SDK_READ),
            ("/%", EndpointClass.PROTECTED),
            (b"/\xff\xfe", EndpointClass.PROTECTED),
            ("/e?x=/../%00//;%2e%2e", EndpointClass.INGEST_V0),
        ],
    )
    def test_odd_paths_whose_readings_agree_pass(self, target: str | bytes, cls: EndpointClass) -> None:
        assert route(target).cls is cls

    def test_the_readings_must_agree_on_configured_routes_too(self) -> None:
        table = configured(RouteConfig("/posthog/*", upstream="storage"))
        assert route("/posthog/a%2fb", table).upstream == "storage"
        assert mismatch("/posthog%2fa", table).status == 400
        assert mismatch("/%70osthog/a", table).status == 400


@pytest.mark.parametrize(
    ("path", "reading"),
    [
        (b"/", b"/"),
        (b"/a/b/", b"/a/b/"),
        (b"//", b"/"),
        (b"/a//", b"/a/"),
        (b"//a", b"/a"),
        (b"/a;x=1/b;y", b"/a/b"),
        (b"/a/;x", b"/a/"),
        (b"/;", b"/"),
        (b"/%2F%61", b"/a"),
        (b"/a%5Cb", b"/a/b"),
        (b"/%zz%4", b"/%zz%4"),
        (b"/%2541", b"/%41"),
        (b"/.a", b"/.a"),
        (b"/a%00", None),
        (b"/a/..", None),
        (b"/a/.", None),
        (b"/%2e%2E;x/", None),
    ],
)
def test_canonical(path: bytes, reading: bytes | None) -> None:
    assert canonical(path) == reading


@pytest.mark.parametrize(
    "target",
    [
        "/static/%252e%252e/api/users",
        "/static/%%32e%%32e/api/users",
        "/static/x%252f..%252f..%252fapi",
        "/static/x;%252f..%252f..%252fapi",
        "/metri%2563s",
        "/metri%2563s;%252fx",
        "/static/%2500",
        "/e%3f",
        "/metrics%3fx",
        "/metrics%253f",
        "/metrics;%23",
        "/login%3f/../x",
        "/METRICS",
        "/%4dETRICS",
        "/%2573tatic/x",
    ],
)
def test_what_another_server_would_read_otherwise_is_ambiguous(target: str) -> None:
    assert mismatch(target).status == 400


@pytest.mark.parametrize(
    "target",
    ["/person/100%25", "/person/a%252Fb", "/static/%25", "/person/%25zz", "/person/a%3Fb", "/Static/x"],
)
def test_an_escape_that_changes_nothing_is_not(target: str) -> None:
    assert route(target).name in ("app", "/static/*")


# --- aliases, and what the upstream is asked for --------------------------------------------------

NAMED = RoutingTable.of(
    Config(
        aliases=AliasesConfig(
            prefix="/k7",
            paths=(
                Alias("/x1", "/e/"),
                Alias("/y/", "/s"),
                Alias("/lib.js", "/static/array.js"),
                Alias("/l", "/livestream/x"),
            ),
        ),
        routes=(
            RouteConfig("/livestream/*", upstream="live", strip="/livestream"),
            RouteConfig("/open/*", cls=EndpointClass.PUBLIC),
        ),
    )
)


@pytest.mark.parametrize(
    ("asked", "upstream_hears"),
    [
        (b"/k7/e/", b"/e/"),
        (b"/k7/e", b"/e"),
        (b"/k7/e/?_=1&ver=2", b"/e/?_=1&ver=2"),
        (b"/k7/static/array.js?v=1", b"/static/array.js?v=1"),
        (b"/k7/array/phc_x/config", b"/array/phc_x/config"),
        (b"/k7/static/a%20b.js", b"/static/a%20b.js"),
        (b"/k7/livestream/events?x=/livestream", b"/events?x=/livestream"),
        (b"/k7/open/x", b"/open/x"),
        (b"/x1", b"/e/"),
        (b"/x1/", b"/e/"),
        (b"/x1?a=b", b"/e/?a=b"),
        (b"/y/", b"/s"),
        (b"/y", b"/s"),
        (b"/lib.js", b"/static/array.js"),
        (b"/lib.js?v=/lib.js", b"/static/array.js?v=/lib.js"),
        (b"/l?a", b"/x?a"),
        (b"/livestream/events", b"/events"),
        (b"/livestream/", b"/"),
        (b"/e/", b"/e/"),
        (b"/k7x/e/", b"/k7x/e/"),
        (b"/k7", b"/k7"),
    ],
)
def test_the_upstream_is_asked_for_the_real_path_with_the_query_as_it_came(
    asked: bytes, upstream_hears: bytes
) -> None:
    route = NAMED.route(asked)
    assert isinstance(route, Route)
    assert outgoing_target(route, asked) == upstream_hears


@pytest.mark.parametrize(
    ("alias", "real"),
    [(b"/k7/e/", b"/e/"), (b"/k7/s", b"/s"), (b"/x1", b"/e/"), (b"/k7/flags/?v=2", b"/flags/?v=2")],
)
def test_what_holds_for_the_real_path_holds_for_its_alias(alias: bytes, real: bytes) -> None:
    route, plain = NAMED.route(alias), NAMED.route(real)
    assert isinstance(route, Route)
    assert isinstance(plain, Route)
    assert replace(route, cut=0, lead=b"") == plain


@pytest.mark.parametrize(
    "target",
    [b"/k7/", b"/k7/login", b"/k7/api/users/@me", b"/k7/metrics", b"/k7/k7/e/", b"/k7/e/x", b"/k7/_liveness"],
)
def test_an_alias_opens_nothing_that_is_not_public(target: bytes) -> None:
    assert NAMED.route(target) == Mismatch(404, "not_aliased", "there is nothing here")


def test_an_alias_may_be_told_to_reach_the_app_but_never_the_rest() -> None:
    table = RoutingTable.of(
        Config(aliases=AliasesConfig(prefix="/k7", paths=(Alias("/in", "/login"),), app=True))
    )
    for target in (b"/k7/login", b"/in"):
        route = table.route(target)
        assert isinstance(route, Route)
        assert (route.cls, outgoing_target(route, target)) == (EndpointClass.PROTECTED, b"/login")
    assert isinstance(table.route(b"/k7/metrics"), Mismatch)


@pytest.mark.parametrize(
    "target",
    [
        b"/k7/%65/",
        b"/k7//e/",
        b"//k7/e/",
        b"/%6b7/e/",
        b"/k7%2fe/",
        b"/k7\\e/",
        b"/k7;x/e/",
        b"/k7/../e/",
        b"/x%31",
        b"/x1;y",
    ],
)
def test_an_alias_with_two_readings_is_refused(target: bytes) -> None:
    found = NAMED.route(target)
    assert isinstance(found, Mismatch)
    assert found.status == 400


@pytest.mark.parametrize("target", ["/login", "/metrics", "/api/users/"])
def test_an_alias_of_what_none_may_lead_to_is_a_mistake(target: str) -> None:
    with pytest.raises(ConfigError, match="must lead to an event endpoint"):
        RoutingTable.of(Config(aliases=AliasesConfig(paths=(Alias("/x", target),))))


def test_cookies_are_dropped_where_events_come_in_if_so_configured() -> None:
    table = RoutingTable.of(Config(forwarding=ForwardingConfig(drop_ingest_cookies=True)))
    for path, drops in (
        ("/e/", True),
        ("/s", True),
        ("/i/v1/logs", True),
        ("/flags", False),
        ("/login", False),
    ):
        route = table.at(path)
        assert route is not None
        assert route.drop_cookies is drops
    assert not TABLE.at("/e/").drop_cookies  # type: ignore[union-attr]


def test_a_path_as_text_has_a_route_or_none() -> None:
    assert TABLE.at("/e").name == "/e"  # type: ignore[union-attr]
    assert TABLE.at("/%65") is None
