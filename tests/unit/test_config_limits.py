"""The numbers that PostHog's own services and SDKs dictate; the rest is a matter of taste."""

from __future__ import annotations

from proxy.config.limits import LimitsConfig, TimeoutsConfig

LIMITS = LimitsConfig()
TIMEOUTS = TimeoutsConfig()
MIB = 1024 * 1024


def test_bodies_that_posthog_takes_pass() -> None:
    assert LIMITS.body_ingest >= 20 * MIB  # /batch
    assert LIMITS.body_replay >= 64_000_000  # what PostHog's documentation tells proxies
    assert LIMITS.held_body <= min(LIMITS.body_ingest, LIMITS.body_replay, LIMITS.body_flags, LIMITS.body_app)


def test_the_answer_to_flags_comes_before_sdks_give_up() -> None:
    assert TIMEOUTS.connect_flags < TIMEOUTS.first_byte_flags < 3  # seconds


def test_an_event_body_may_take_as_long_as_posthog_js_waits() -> None:
    assert TIMEOUTS.body_ingest > 60


def test_a_stream_outlives_livestream() -> None:
    assert TIMEOUTS.stream_stall > 1800


def test_idle_connections_outlive_those_of_a_balancer() -> None:
    assert TIMEOUTS.keep_alive > 60


def test_streams_end_before_the_drain_and_the_drain_before_kubernetes_kills() -> None:
    assert TIMEOUTS.drain_streams <= TIMEOUTS.drain < 30
