"""What `preset` stands for: upstreams and routes of the places where PostHog runs.

Each is a configuration of the shape of the file, weaker than everything an operator says: key by key for
upstreams, path by path for routes.

Sources: PostHog's page on its Cloud's proxies; the Caddyfile and the services of docker-compose.base.yml and
docker-compose.hobby.yml in PostHog's repository (2026).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from proxy.config.values import Deployment

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLOUD_IDLE = 55.0
"""Seconds; below the 60 after which the balancers before PostHog Cloud (AWS) may close a connection."""

_RUST_IDLE = 60.0
"""Seconds; hyper, the server of PostHog's Rust services, closes no idle connection by itself."""


def _cloud(region: str) -> Mapping[str, Any]:
    """The script files have a host of their own, and both hosts answer only to their own names."""

    def upstream(name: str) -> dict[str, Any]:
        return {"url": f"https://{name}.i.posthog.com", "host": "upstream", "idle_timeout": _CLOUD_IDLE}

    return {
        "upstreams": {"default": upstream(region), "assets": upstream(f"{region}-assets")},
        "routes": _routes("assets", "/static/* /array/*"),
    }


def _routes(upstream: str, paths: str) -> list[dict[str, Any]]:
    return [{"path": path, "upstream": upstream} for path in paths.split()]


def _below(*paths: str) -> str:
    """Paths with all that is below them."""
    return " ".join(f"{path} {path}/*" for path in paths)


def _hobby() -> Mapping[str, Any]:
    rust = {
        "capture": "http://capture:3000",
        "replay": "http://replay-capture:3000",
        "ai": "http://capture-ai:3000",
        "logs": "http://capture-logs:4318",
        "flags": "http://feature-flags:3001",
        "hypercache": "http://hypercache-server:3002",
        "livestream": "http://livestream:8080",
    }
    upstreams: dict[str, Any] = {"default": {"url": "http://web:8000"}}
    upstreams |= {name: {"url": url, "idle_timeout": _RUST_IDLE} for name, url in rust.items()}
    upstreams |= {"plugins": {"url": "http://plugins:6738"}, "storage": {"url": "http://objectstorage:19000"}}
    return {
        "upstreams": upstreams,
        "routes": [
            *_routes("replay", _below("/s")),
            *_routes("ai", _below("/i/v0/ai")),
            *_routes("capture", _below("/e", "/capture", "/batch", "/track", "/engage", "/i/v0")),
            *_routes("capture", "/i/v1/analytics/events /report"),
            *_routes("logs", _below("/i/v1/logs", "/i/v1/traces", "/i/v1/metrics")),
            *_routes("flags", _below("/flags") + " /decide /api/feature_flag/local_evaluation"),
            *_routes("hypercache", "/surveys /api/surveys /array/*"),
            {"path": "/livestream/*", "upstream": "livestream", "strip": "/livestream"},
            *_routes("plugins", _below("/public/webhooks") + " /public/m/*"),
            *_routes("storage", "/posthog/*"),
        ],
    }


DEPLOYMENTS: Mapping[Deployment, Mapping[str, Any]] = MappingProxyType(
    {
        Deployment.CLOUD_US: _cloud("us"),
        Deployment.CLOUD_EU: _cloud("eu"),
        # One upstream takes everything: the operator's `upstream`.
        Deployment.SELF_HOSTED: {},
        Deployment.HOBBY: _hobby(),
    }
)
"""What each preset says, in the shape of the file."""
