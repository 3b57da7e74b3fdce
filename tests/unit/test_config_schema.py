from __future__ import annotations

import dataclasses

import pytest

from proxy.config import keys, notation, schema
from proxy.config.schema import Config

NUMBERS = {path: key for path, key in keys.all_keys().items() if key.kind is int or key.kind is float}


@pytest.mark.parametrize("path", keys.all_keys())
def test_every_key_is_documented(path: str) -> None:
    doc = keys.all_keys()[path].doc
    assert doc
    assert doc[-1] in ".`)"


@pytest.mark.parametrize("path", NUMBERS)
def test_every_number_has_bounds_and_its_default_lies_within(path: str) -> None:
    key = NUMBERS[path]
    assert key.minimum is not None
    assert key.maximum is not None
    assert key.minimum < key.maximum
    assert key.default is None or key.minimum <= key.default <= key.maximum


@pytest.mark.parametrize("path", [path for path, key in NUMBERS.items() if key.default is not None])
def test_every_default_number_has_its_reason(path: str) -> None:
    assert NUMBERS[path].why


def test_every_form_is_known() -> None:
    assert {key.form for key in keys.all_keys().values()} <= notation.FORMS.keys()


def test_a_configuration_does_not_change() -> None:
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.workers = 2  # type: ignore[misc]
    assert config.upstreams is not Config().upstreams


def test_everything_that_is_offered_is_there() -> None:
    for name in schema.__all__:
        assert hasattr(schema, name)
    assert {table.__name__ for table in keys.sections().values()} <= set(schema.__all__)
