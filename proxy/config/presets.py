"""PostHog's own paths and what each one is for: the table that routing starts from.

Source: PostHog's services as of 2026 (capture, feature-flags, hypercache, livestream, the Django app).
PostHog's published list of public endpoints is older than the services and shorter than this one.

A pattern is an exact path, a path with one-segment wildcards (``<token>``), or a prefix that ends in
``*``. Django's ``opt_slash_path`` and capture's doubled routes give every exact path a twin with one
trailing slash, so a pattern stands for both unless ``slash`` is false.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.message import EndpointClass

DEFAULT_UPSTREAM = "default"
"""The name of the upstream that takes whatever no route sends elsewhere."""

DEFAULT_ROUTE = "app"
"""The name of the route for every path that the table does not list; its class is PROTECTED."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One line of the table. ``slash``: does the path exist with a trailing slash too?"""

    path: str
    cls: EndpointClass
    slash: bool = True


def _each(cls: EndpointClass, paths: str, *, slash: bool = True) -> tuple[Preset, ...]:
    return tuple(Preset(path, cls, slash) for path in paths.split())


BUILT_IN: tuple[Preset, ...] = (
    # Browsers send their CSP reports to /report; capture turns them into events.
    *_each(
        EndpointClass.INGEST_V0,
        "/e /capture /batch /track /engage /i/v0/e /i/v0/ai /i/v0/ai/batch /i/v0/ai/otel /report",
    ),
    *_each(
        EndpointClass.INGEST_V1,
        "/i/v1/analytics/events /i/v1/logs /i/v1/traces /i/v1/metrics",
    ),
    *_each(EndpointClass.REPLAY, "/s"),
    *_each(EndpointClass.FLAGS, "/flags /decide"),
    # hypercache serves these without a twin: /array/<token>/config/ is not found there.
    *_each(
        EndpointClass.SDK_READ,
        "/array/<token>/config /array/<token>/config.js /array/<token>/array.js",
        slash=False,
    ),
    *_each(
        EndpointClass.SDK_READ,
        "/static/* /surveys /api/surveys /api/web_experiments /api/early_access_features"
        " /api/product_tours /api/conversations/v1/widget/* /site_app/*",
    ),
    *_each(
        EndpointClass.BEARER_READ,
        "/flags/definitions /api/feature_flag/local_evaluation"
        " /api/projects/@current/feature_flags/<key>/remote_config",
    ),
    *_each(EndpointClass.STREAM, "/flags/stream /livestream/*"),
    # The secret is in the path (/shared/<access token>), so both the bare path and what is below it.
    *_each(
        EndpointClass.PUBLIC,
        "/shared /shared/* /embedded /embedded/* /exporter /exporter/* /external_surveys"
        " /external_surveys/* /messaging-preferences /messaging-preferences/* /public/* /.well-known/*",
    ),
    # Balancers probe the web app here without credentials.
    *_each(EndpointClass.PUBLIC, "/_health"),
    # The ingestion services answer these on the port that takes events.
    *_each(EndpointClass.NEVER, "/metrics /_liveness /_readiness /test/black_hole"),
)
