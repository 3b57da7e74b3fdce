"""What each preset says is a whole configuration by itself, and sends PostHog's paths where they belong."""

from __future__ import annotations

import pytest

from proxy.config.deployments import DEPLOYMENTS
from proxy.config.load import config_from
from proxy.config.schema import Config, Deployment, HostPolicy
from proxy.rules.routing import RoutingTable


def preset(name: str, **mapping: object) -> Config:
    return config_from({"preset": name, **mapping}).config


def test_every_deployment_has_its_table() -> None:
    assert set(DEPLOYMENTS) == set(Deployment)


@pytest.mark.parametrize("region", ["us", "eu"])
def test_cloud(region: str) -> None:
    config = preset(f"posthog-cloud-{region}")
    urls = {name: str(upstream.url) for name, upstream in config.upstreams.items()}
    assert urls == {
        "default": f"https://{region}.i.posthog.com",
        "assets": f"https://{region}-assets.i.posthog.com",
    }
    # Host and SNI must be the upstream's own, and no connection is older than the balancer's patience.
    assert {upstream.host for upstream in config.upstreams.values()} == {HostPolicy.UPSTREAM}
    assert max(upstream.idle_timeout for upstream in config.upstreams.values()) < 60
    table = RoutingTable.of(config)
    for path, upstream in (
        ("/static/array.js", "assets"),
        ("/static/1.2.3/recorder.js", "assets"),
        ("/array/phc_x/config.js", "assets"),
        ("/e/", "default"),
        ("/flags/", "default"),
        ("/s/", "default"),
        ("/login", "default"),
    ):
        route = table.at(path)
        assert route is not None
        assert route.upstream == upstream, path


def test_self_hosted_is_the_operators_one_upstream() -> None:
    config = preset("self-hosted", upstream="http://posthog:8000")
    assert [str(upstream.url) for upstream in config.upstreams.values()] == ["http://posthog:8000"]
    assert config.routes == ()


@pytest.mark.parametrize(
    ("path", "upstream"),
    [
        ("/s/", "replay"),
        ("/i/v0/ai/batch", "ai"),
        ("/i/v0/e/", "capture"),
        ("/e", "capture"),
        ("/batch/", "capture"),
        ("/track/", "capture"),
        ("/engage/", "capture"),
        ("/report/", "capture"),
        ("/i/v1/analytics/events", "capture"),
        ("/i/v1/logs", "logs"),
        ("/i/v1/traces", "logs"),
        ("/i/v1/metrics", "logs"),
        ("/flags/", "flags"),
        ("/flags/definitions", "flags"),
        ("/flags/stream", "flags"),
        ("/decide/", "flags"),
        ("/api/feature_flag/local_evaluation/", "flags"),
        ("/array/phc_x/config", "hypercache"),
        ("/surveys", "hypercache"),
        ("/api/surveys/", "hypercache"),
        ("/livestream/events", "livestream"),
        ("/public/webhooks/abc", "plugins"),
        ("/public/m/redirect", "plugins"),
        ("/posthog/media/x.png", "storage"),
        ("/static/array.js", "default"),
        ("/", "default"),
        ("/public/other", "default"),
        ("/api/users/@me", "default"),
    ],
)
def test_hobby_sends_each_path_to_its_service(path: str, upstream: str) -> None:
    route = RoutingTable.of(preset("hobby")).at(path)
    assert route is not None
    assert route.upstream == upstream


def test_hobby_opens_nothing_that_is_never_public() -> None:
    table = RoutingTable.of(preset("hobby"))
    for path in ("/metrics", "/_readiness", "/_liveness", "/test/black_hole"):
        route = table.at(path)
        assert route is not None
        assert (route.cls.value, route.upstream) == ("never", "default")
