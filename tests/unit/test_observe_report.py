"""Several processes' words as one."""

from __future__ import annotations

from proxy.observe.report import Report, Warned, merged


def warned(at: float) -> Warned:
    return {"event": "redirect_loop", "at": at, "about": {}, "cure": "trust"}


def report(reason: str, at: float) -> Report:
    return {
        "upstreams": {"default": {"url": "http://a", "reason": reason}},
        "warnings": {"slash": warned(at)},
    }


def test_whoever_sees_a_fault_is_heard_and_the_latest_warning_counts() -> None:
    total = merged([report("", 1.0), report("answers 500", 3.0), report("", 2.0)])
    assert total["upstreams"]["default"]["reason"] == "answers 500"
    assert total["warnings"] == {"slash": warned(3.0)}


def test_nobody_says_nothing() -> None:
    assert merged([]) == {"upstreams": {}, "warnings": {}}
