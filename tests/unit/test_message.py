"""Looking up header lines, and that the nouns cannot be changed."""

from __future__ import annotations

import dataclasses

import pytest

from proxy.message import NO_BODY, SDK_CLASSES, EndpointClass, RequestHead, field_values, first_value

FIELDS = ((b"Accept", b"a"), (b"X", b"1"), (b"accept", b"b"))


def test_lookup_ignores_case_and_keeps_order() -> None:
    assert field_values(FIELDS, b"accept") == [b"a", b"b"]
    assert field_values(FIELDS, b"y") == []
    assert first_value(FIELDS, b"accept") == b"a"
    assert first_value(FIELDS, b"y") is None


def test_a_head_is_frozen() -> None:
    head = RequestHead(b"GET", b"/", 1, FIELDS, b"a", NO_BODY)
    with pytest.raises(dataclasses.FrozenInstanceError):
        head.target = b"/other"  # type: ignore[misc]


def test_pages_and_secrets_are_no_sdk_classes() -> None:
    assert not SDK_CLASSES & {EndpointClass.PROTECTED, EndpointClass.NEVER, EndpointClass.PUBLIC}
