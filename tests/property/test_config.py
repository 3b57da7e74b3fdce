"""Whatever anybody writes into a file, a variable or a flag: a configuration or a ``ConfigError``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import keys, notation
from proxy.config.load import Loaded, config_from, load_config
from proxy.config.notation import NotationError
from proxy.config.schema import TcpAddress, UnixAddress, UpstreamUrl
from proxy.errors import ConfigError, Problem

UPSTREAM = {"upstream": "http://web:8000"}

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.times()
    | st.decimals()
)
nested = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=4)
    ),
    max_leaves=12,
)
NOTATIONS = [
    "64KiB",
    "10s",
    "127.0.0.1:0",
    "unix:/x",
    "http://web:8000",
    "https://[::1]",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "*",
    ".example.com",
    "/s*",
    "keep",
    "append",
    "json",
    "debug",
    "replay",
    "stdout",
    "X_Y",
    "eu",
    "true",
    "5",
]
notations = st.sampled_from([*NOTATIONS, ""])
values = notations | st.lists(notations, max_size=3) | nested

root_names = st.sampled_from(["listen", "upstream", "workers", "routes", "upstreams", *keys.sections()])
leaf_names = st.sampled_from(sorted({key.name for key in keys.all_keys().values()}))
paths = st.sampled_from(sorted(keys.all_keys())) | st.text()
tables = st.dictionaries(leaf_names, values, max_size=6)
upstream_tables = st.dictionaries(
    st.sampled_from(["default", "eu", "Eu", "a.b"]), tables | values, max_size=3
)
likely = st.fixed_dictionaries(
    {},
    optional={
        "listen": values,
        "upstream": values,
        "workers": values,
        "routes": st.lists(tables | values, max_size=3) | values,
        "upstreams": upstream_tables | values,
        **dict.fromkeys(keys.sections(), tables | values),
    },
)


def is_loaded_or_refused(load: Any, *sources: Any) -> None:
    """Either a configuration or problems that each are one printable line."""
    try:
        loaded: Loaded | None = load(*sources)
        problems: tuple[Problem, ...] = ()
    except ConfigError as error:
        loaded, problems = None, error.problems
    assert (loaded is None) == bool(problems)
    for problem in problems:
        assert str(problem).isprintable()
        assert problem.allowed
    if loaded is not None:
        assert "default" in loaded.config.upstreams
        assert all(warning.isprintable() for warning in loaded.warnings)


@given(st.dictionaries(st.text() | root_names | st.integers(), nested, max_size=5))
@settings(deadline=None, max_examples=150)
def test_any_mapping(mapping: dict[Any, Any]) -> None:
    is_loaded_or_refused(config_from, mapping)


@given(likely)
@settings(deadline=None, max_examples=200)
def test_a_mapping_of_known_names(mapping: dict[str, Any]) -> None:
    is_loaded_or_refused(config_from, mapping)


variables = st.sampled_from(
    [keys.environment_name(path) for path in keys.all_keys()]
    + ["POSTHOG_PROXY_UPSTREAMS__DEFAULT__URL", "POSTHOG_PROXY_UPSTREAMS__EU__HOST", "POSTHOG_PROXY_PORT"]
    + [
        "IS_BEHIND_PROXY",
        "TRUSTED_PROXIES",
        "TRUST_ALL_PROXIES",
        "ALLOWED_HOSTS",
        "DISABLE_SECURE_SSL_REDIRECT",
    ]
) | st.text(max_size=8).map(lambda name: keys.ENVIRONMENT_PREFIX + name)
texts = notations | st.text() | st.lists(notations, max_size=4).map(",".join)


@given(st.dictionaries(variables, texts, max_size=6), st.dictionaries(paths, values, max_size=3))
@settings(deadline=None, max_examples=200)
def test_any_environment_and_flags(environ: dict[str, str], flags: dict[str, Any]) -> None:
    is_loaded_or_refused(load_config, None, environ, flags)
    is_loaded_or_refused(load_config, None, environ, UPSTREAM)


@given(st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "replace")))
@settings(deadline=None, max_examples=200)
def test_any_file(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        is_loaded_or_refused(load_config, file.name, {}, UPSTREAM)


NUMBERS = {
    path.replace(keys.NAME, "default"): key
    for path, key in keys.all_keys().items()
    if (key.kind is int or key.kind is float) and keys.ENTRY not in key.path
}


@given(st.sampled_from(sorted(NUMBERS)), st.data())
@settings(deadline=None, max_examples=400)
def test_a_number_is_taken_exactly_within_its_bounds(path: str, data: st.DataObject) -> None:
    key = NUMBERS[path]
    low, high = key.minimum, key.maximum
    assert low is not None
    assert high is not None
    edges = st.sampled_from([low, high, low - 1, high + 1, low + 0.5, low - 0.001])
    number = data.draw(edges | st.integers(int(low), int(high)) | st.integers() | st.floats())
    allowed = low <= number <= high and (key.kind is float or isinstance(number, int))
    problems: tuple[Problem, ...] = ()
    try:
        load_config(None, {}, {**UPSTREAM, path: number})
    except ConfigError as error:
        problems = error.problems
    wrong = [problem for problem in problems if "must be" in problem.allowed]  # not: above another key
    assert bool(wrong) is not allowed


hosts = (
    st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
    | st.from_regex(r"[a-z][a-z0-9_-]{0,20}[a-z](\.[a-z]{2,5})?", fullmatch=True)
)
unix_addresses = st.from_regex(r"/[a-z0-9.]{1,20}", fullmatch=True).map(UnixAddress)
addresses = st.builds(TcpAddress, hosts, st.integers(1, 65535)) | unix_addresses


@given(addresses)
@settings(deadline=None, max_examples=200)
def test_an_address_is_read_as_it_is_written(address: TcpAddress | UnixAddress) -> None:
    assert notation.listen_address(str(address)) == address


@given(addresses, st.booleans())
@settings(deadline=None, max_examples=200)
def test_an_upstream_is_read_as_it_is_written(address: TcpAddress | UnixAddress, tls: bool) -> None:
    url = UpstreamUrl(address, tls and isinstance(address, TcpAddress))
    assert notation.upstream_url(str(url)) == url


@given(st.ip_addresses(), st.integers(0, 128))
@settings(deadline=None, max_examples=200)
def test_a_network_is_read_or_the_right_one_is_named(address: Any, length: int) -> None:
    try:
        block = notation.network(f"{address}/{length}")
    except NotationError as error:
        if length > address.max_prefixlen:
            return
        right = str(error).split("the network is ")[1].split(",")[0]
        block = notation.network(right)
    mapped = getattr(address, "ipv4_mapped", None)
    assert (mapped if mapped is not None and length >= 96 else address) in block


@given(st.integers(0, 1024**5))
@settings(deadline=None, max_examples=200)
def test_a_size_is_read_as_it_is_written(size: int) -> None:
    assert notation.size(notation.size_text(size)) == size
