"""What connections share: counting clients, request ids, the error log's level."""

from __future__ import annotations

import json
import uuid
from ipaddress import ip_address
from typing import Any

import pytest

from proxy.clock import Deadlines
from proxy.config.load import config_from
from proxy.config.schema import LogLevel
from proxy.message import AddressSource, ClientAddress
from proxy.net.splice import Splicer
from proxy.observe.log import BatchedLog, encode_json
from proxy.observe.metrics import Counters
from proxy.rules.decide import Tables
from proxy.serve.runtime import Runtime, request_ids
from tests.support.clock import HandClock


def runtime(errors: bytearray | None = None, **settings: Any) -> Runtime:
    config = config_from({"upstream": "http://127.0.0.1:1", **settings}).config
    clock = HandClock()
    deadlines = Deadlines(clock)
    return Runtime(
        config=config,
        clock=clock,
        deadlines=deadlines,
        tables=Tables.of(config),
        pools={},
        splicer=Splicer(deadlines, threshold=0, pipes=0),
        counters=Counters(),
        access_log=BatchedLog(lambda lines: None),
        error_log=BatchedLog((errors if errors is not None else bytearray()).extend),
        encode_access=encode_json,
        on_closed=lambda connection: None,
        connection_limit=10,
    )


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7", "203.0.113.8", False),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
def test_connections_are_counted_by_network(first: str, second: str, same: bool) -> None:
    shared = runtime(limits={"connections_per_client": 1})
    assert shared.admit_client(ip_address(first))
    assert shared.admit_client(ip_address(second)) is not same
    shared.forget_client(ip_address(first))
    assert shared.admit_client(ip_address(first))


def test_trusted_unix_and_unlimited_peers_are_not_counted() -> None:
    shared = runtime(limits={"connections_per_client": 1}, trust={"proxies": ["10.0.0.0/8"]})
    for ip in (ip_address("10.1.1.1"), None):
        assert all(shared.admit_client(ip) for _ in range(3))
        shared.forget_client(ip)
    unlimited = runtime(limits={"connections_per_client": 0})
    assert all(unlimited.admit_client(ip_address("203.0.113.7")) for _ in range(3))
    assert shared.clients == unlimited.clients == {}


def test_counts_are_forgotten_when_the_last_one_goes() -> None:
    shared = runtime(limits={"connections_per_client": 2})
    ip = ip_address("203.0.113.7")
    shared.admit_client(ip)
    shared.admit_client(ip)
    shared.forget_client(ip)
    assert list(shared.clients.values()) == [1]
    shared.forget_client(ip)
    assert shared.clients == {}


def test_request_ids_are_different_uuids() -> None:
    one, other = request_ids(), request_ids()
    ids = {source() for source in (one, other) for _ in range(100)}
    assert len(ids) == 200
    assert all(str(uuid.UUID(each)) == each and uuid.UUID(each).version == 8 for each in ids)


def test_the_error_log_keeps_its_level() -> None:
    errors = bytearray()
    shared = runtime(errors, log={"level": "warning"})
    shared.error(LogLevel.INFO, "small")
    shared.error(LogLevel.WARNING, "large", size=3)
    shared.error_log.flush()
    assert b'"event":"large"' in errors
    assert b"small" not in errors
    assert shared.jitter() == 1.0


def test_the_error_log_says_whose_it_is() -> None:
    errors = bytearray()
    shared = runtime(errors)
    shared.error_fields = {"worker": 2}
    shared.error(LogLevel.INFO, "any", size=3)
    shared.error_log.flush()
    assert errors.endswith(b'"event":"any","worker":2,"size":3}\n')


def test_idle_connections_stay_until_the_proxy_retires_them() -> None:
    shared = runtime(timeouts={"keep_alive": 60})
    assert shared.idle_until(5.0) == 65.0
    shared.retiring = True
    assert shared.idle_until(5.0) == 5.0


def test_rates_are_asked_of_the_client_at_the_moment() -> None:
    shared = runtime(limits={"rate_per_client": 1, "rate_burst": 2}, trust={"proxies": ["10.0.0.0/8"]})
    client = ClientAddress(ip_address("203.0.113.7"), AddressSource.X_FORWARDED_FOR, True)
    balancer = ClientAddress(ip_address("10.0.0.1"), AddressSource.PEER, True)
    assert [shared.throttle(client) for _ in range(3)] == [0, 0, 1]
    assert isinstance(shared.clock, HandClock)
    shared.clock.now += 0.75
    assert shared.throttle(client) == 0.25
    assert [shared.throttle(balancer) for _ in range(5)] == [0] * 5


def test_rates_are_not_limited_unless_said() -> None:
    shared = runtime()
    client = ClientAddress(ip_address("203.0.113.7"), AddressSource.PEER, False)
    assert shared.rates is None
    assert [shared.throttle(client) for _ in range(1000)] == [0] * 1000


def test_warnings_about_single_requests_come_once_a_second_and_say_how_many_there_were() -> None:
    errors = bytearray()
    shared = runtime(errors)
    for pause in (0.0, 0.5, 0.4, 0.2):
        assert isinstance(shared.clock, HandClock)
        shared.clock.now += pause
        shared.told_apart("slow_request", request_id=str(pause))
        shared.told_apart("truncated_answer")
    shared.error_log.flush()
    said = [json.loads(line) for line in errors.splitlines()]
    slow = [(line["request_id"], line.get("others")) for line in said if line["event"] == "slow_request"]
    assert slow == [("0.0", None), ("0.2", 2)]
    assert len(said) == 4
