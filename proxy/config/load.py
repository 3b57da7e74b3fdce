"""Everything an operator said, made into one ``Config``: preset < file < environment < flags.

::

    preset ───────────┐
    file ─────────────┤
    PostHog's names ──┤ Reading each ─▶ strongest value of each key ─▶ Config ─▶ contradictions, advice
    POSTHOG_PROXY_* ──┤
    flags ────────────┘

Whatever is wrong ends in one ``ConfigError`` that lists all of it. Nothing else is ever raised.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from proxy.clock import Clock
from proxy.config import environment, expansion, fronts, keys
from proxy.config.admin import read_token
from proxy.config.contradictions import ORDERED, advice, contradictions, value_at
from proxy.config.htpasswd import HtpasswdError, read_htpasswd
from proxy.config.notation import printable, shown
from proxy.config.reading import Reading
from proxy.config.schema import Config, TcpAddress, UpstreamConfig, configured_certificates
from proxy.errors import ConfigError, Problem

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping

    from proxy.config.fronts import Known
    from proxy.config.reading import Setting

FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "listen": "--listen",
        "listen_tls": "--listen-tls",
        "tls.certificate": "--tls-cert",
        "tls.key": "--tls-key",
        "preset": "--preset",
        "behind": "--behind",
        "upstream": "--upstream",
        "trust.proxies": "--trusted-proxies",
        "access.allowed_hosts": "--allowed-hosts",
        "access.allowed_ip_blocks": "--allowed-ip-blocks",
        "workers": "--workers",
        "spool.directory": "--spool",
        "spool.mode": "--spool-mode",
        "log.format": "--log-format",
        "log.access": "--access-log",
        "log.errors": "--error-log",
    }
)
"""The keys that have a flag of their own; all others are said as ``--set KEY=VALUE``."""

MAX_FILE_BYTES = 1024 * 1024
"""A larger configuration file is refused unread: no hand writes one, and memory stays bounded."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_NOWHERE = TcpAddress("", 0)
_NO_UPSTREAM = (
    "no upstream is given: say --upstream http://HOST:PORT, set POSTHOG_PROXY_UPSTREAM, "
    'or write upstream = "http://HOST:PORT" in the file'
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A usable configuration, and one sentence for everything in it that is probably not meant."""

    config: Config
    warnings: tuple[str, ...]


def load_config(
    toml_path: str | None = None,
    environ: Mapping[str, str] = _NOTHING,
    flags: Mapping[str, Any] = _NOTHING,
    *,
    toml: bytes | None = None,
    today: datetime.date | None = None,
) -> Loaded:
    """Read a configuration from a TOML file, environment variables and flags, each stronger than the last.

    ``environ`` is a whole environment; variables that concern nobody here are ignored. ``flags`` are by
    dotted key (``timeouts.head``), their values text or typed. ``toml`` is what ``fetch_file`` has read from
    the file already. ``today`` is what the age of shipped networks is measured by (``None``: not at all).
    Raises ``ConfigError``.
    """
    file = Reading()
    if toml_path is not None:
        data = fetch_file(toml_path) if toml is None else toml
        file.take_mapping(_parse(data, toml_path), printable(toml_path))
    posthog, own, flag = Reading(), Reading(), Reading()
    warnings = environment.read_posthog(environ, posthog)
    for path, value in flags.items():
        flag.take(path, value, FLAGS.get(path, "--set"), textual=True)
    environment.read_own(environ, [*file.upstreams, *flag.upstreams], own)
    config, known, about_files = _combine([file, posthog, own, flag])
    about_posthog = environment.posthog_advice(environ, config)
    warnings += [*about_posthog, *advice(config), *_stale(known, today), *about_files]
    return Loaded(config, tuple(warnings))


def config_from(mapping: Mapping[str, Any], where: str = "configuration") -> Loaded:
    """Read a configuration from a mapping of the shape of the TOML file, for programs that embed the
    proxy. ``where`` names the source in errors. Raises ``ConfigError``."""
    reading = Reading()
    reading.take_mapping(mapping, where)
    config, _, about_files = _combine([reading])
    return Loaded(config, (*advice(config), *about_files))


def fetch_file(path: str) -> bytes:
    """Read a file, unparsed. Raises ``ConfigError`` if it cannot be read or is larger than any that is
    meant."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise _unusable(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise _unusable(path, f"is larger than {MAX_FILE_BYTES} bytes")
    return data


def _parse(data: bytes, path: str) -> dict[str, Any]:
    """Parse TOML; every failure is a ``ConfigError``, syntax errors with their line."""
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _unusable(path, f"is not UTF-8 text (at line {line})") from None
    except (ValueError, RecursionError) as error:  # tomllib's own errors name line and column
        raise _unusable(path, f"is not valid TOML: {printable(str(error))}") from None


def _unusable(path: str, allowed: str) -> ConfigError:
    return ConfigError(Problem("file", shown(path), allowed))


def _combine(readings: list[Reading]) -> tuple[Config, Mapping[str, Known], tuple[str, ...]]:
    """Take the strongest value of each key, weakest reading first, and write out what `preset` and `behind`
    stand for; return the words of `behind` too, and warnings about files. Raises ``ConfigError`` on any
    problem."""
    preset = expansion.preset_reading(readings)
    readings = [preset, *readings]
    problems: list[Problem] = []
    given: dict[str, Setting] = {}
    attempted: set[str] = set()
    upstreams: dict[str, str] = {}
    for reading in readings:
        reading.spell_out_upstream()
        problems += reading.problems
        given |= reading.settings
        attempted |= reading.attempted
        upstreams |= reading.upstreams
    expansion.merge_routes(given, preset)
    problems += _missing_urls(upstreams, attempted)
    config = _give_way(_build(given, upstreams), given)
    ranges = _ranges(config, given, problems)
    config, known = expansion.with_fronts(config, given, ranges, problems)
    problems += contradictions(config, given, upstreams)
    problems += _unreadable_passwords(config, given)
    warnings: tuple[str, ...] = ()
    problems += _unusable_token(config, given)
    if _names_files(config):
        from proxy.config.files import judge_files  # OpenSSL, which most processes do not need

        judgement = judge_files(config, given, Clock().wall())
        problems += judgement.problems
        warnings = judgement.warnings
    if problems:
        raise ConfigError(*problems)
    return config, known, warnings


def _unusable_token(config: Config, given: Mapping[str, Setting]) -> list[Problem]:
    try:
        read_token(config.admin.token_file)
    except (OSError, ValueError) as error:
        allowed = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        setting = given["admin.token_file"]
        return [Problem(setting.said, shown(config.admin.token_file), allowed, setting.where)]
    return []


def _names_files(config: Config) -> bool:
    """Whether any PEM file has to be read."""
    upstreams = config.upstreams.values()
    return bool(
        configured_certificates(config)
        or config.tls.client_ca
        or any(upstream.ca_file or upstream.client_cert for upstream in upstreams)
    )


def _ranges(config: Config, given: Mapping[str, Setting], problems: list[Problem]) -> Mapping[str, Known]:
    """What the words of `behind` mean: as shipped, or as `trust.ranges_file` has them."""
    if not config.behind:
        return {}
    path = config.trust.ranges_file
    try:
        own = fronts.read_ranges(_parse(fetch_file(path), path)) if path else {}
    except ConfigError as error:
        problems += error.problems
        return fronts.shipped()
    except ValueError as error:
        setting = given["trust.ranges_file"]
        problems.append(Problem(setting.said, shown(path), printable(str(error)), setting.where))
        return fronts.shipped()
    return {**fronts.shipped(), **own}


def _stale(known: Mapping[str, Known], today: datetime.date | None) -> list[str]:
    if today is None:
        return []
    warnings = [fronts.staleness(word, entry, today) for word, entry in known.items()]
    return [warning for warning in warnings if warning is not None]


def _missing_urls(upstreams: Mapping[str, str], attempted: set[str]) -> list[Problem]:
    problems = []
    if "upstreams.default.url" not in attempted:
        problems.append(Problem("upstream", "(nothing)", _NO_UPSTREAM))
    for name, where in upstreams.items():
        path = f"upstreams.{name}.url"
        if name != "default" and path not in attempted:
            allowed = f"must be given: {keys.keys_of(UpstreamConfig)['url'].allowed}"
            problems.append(Problem(path, "(nothing)", allowed, where))
    return problems


def _build(given: Mapping[str, Setting], upstreams: Mapping[str, str]) -> Config:
    """Fill the dataclasses. An upstream without a readable URL is left out; it is a problem already."""

    def values(prefix: str, table: type) -> dict[str, Any]:
        paths = {name: f"{prefix}{name}" for name in keys.keys_of(table)}
        return {name: given[path].value for name, path in paths.items() if path in given}

    tables = {
        name: UpstreamConfig(**values(f"upstreams.{name}.", UpstreamConfig))
        for name in upstreams
        if f"upstreams.{name}.url" in given
    }
    parts = {name: table(**values(f"{name}.", table)) for name, table in keys.sections().items()}
    root = values("", Config)
    if "listeners" in root or root.get("listen_tls"):
        root.setdefault("listen", ())  # the default address is for those who say none
    if "listeners" in root:
        root["listeners"] = tuple(map(_numbered, root["listeners"]))
    return Config(**root, **parts, upstreams=MappingProxyType(tables))


def _numbered(listener: Any) -> Any:
    """Give a listener without a readable address (a problem already) one that disturbs nobody, so that the
    others keep their numbers."""
    return listener if listener.address is not None else dataclasses.replace(listener, address=_NOWHERE)


def _give_way(config: Config, given: Mapping[str, Setting]) -> Config:
    """Lower each default that a given setting forbids (contradictions.ORDERED)."""
    for low, high in ORDERED:
        if low not in given and value_at(config, low) > value_at(config, high):
            section, _, name = low.partition(".")
            table = dataclasses.replace(getattr(config, section), **{name: value_at(config, high)})
            config = dataclasses.replace(config, **{section: table})
    return config


def _unreadable_passwords(config: Config, given: Mapping[str, Setting]) -> list[Problem]:
    """Find out whether the file of users can be used."""
    path = config.access.basic_auth_file
    if not path:
        return []
    try:
        read_htpasswd(path)
    except HtpasswdError as error:
        setting = given["access.basic_auth_file"]
        return [Problem(setting.said, shown(path), str(error), setting.where)]
    return []
