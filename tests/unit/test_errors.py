"""What the exceptions say."""

from __future__ import annotations

from proxy.errors import (
    ConfigError,
    Failure,
    Problem,
    ProxyError,
    Resend,
    Source,
    Violation,
    described,
    late_answer,
    stuck_upstream,
)


def test_a_configuration_problem_names_key_value_cure_and_place() -> None:
    problem = Problem("limit.head", "7", "no such key", where="proxy.toml", nearest="limits.head_bytes")
    assert str(problem) == "proxy.toml: limit.head = 7: no such key (did you mean limits.head_bytes?)"
    assert str(Problem("workers", "0", "at least 1")) == "workers = 0: at least 1"
    error = ConfigError(problem, Problem("workers", "0", "at least 1"))
    assert str(error).splitlines() == [str(problem), "workers = 0: at least 1"]
    assert isinstance(error, ProxyError)


def test_a_violation_and_a_failure_carry_what_is_answered() -> None:
    violation = Violation(431, "head_too_large", "too large")
    assert (violation.status, str(violation)) == (431, "431 head_too_large: too large")
    failure = Failure(Source.UPSTREAM, "late", 504, "no answer")
    assert failure.resend is Resend.NEVER
    assert failure.retry_after is None
    assert str(failure) == "upstream late (504): no answer"


def test_what_hindered_a_start_is_one_line() -> None:
    problem = Problem("workers", "0", "at least 1")
    assert described(ConfigError(problem, problem)) == "workers = 0: at least 1; workers = 0: at least 1"
    assert described(OSError(2, "No such file", "/a/b")) == "/a/b: No such file"
    assert described(OSError(98, "cannot listen")) == "cannot listen"
    assert described(OSError("any text")) == "any text"


def test_the_failures_of_upstreams_that_are_too_slow() -> None:
    for failure, kind in (
        (late_answer(), "upstream_timeout"),
        (stuck_upstream(), "upstream_write_timeout"),
    ):
        assert (failure.source, failure.kind, failure.status) == (Source.UPSTREAM, kind, 504)
