"""What the environment says: this proxy's own variables, and PostHog's.

The proxy often runs with the same environment as PostHog, so PostHog's names are honoured. They were
read from PostHog's ``posthog/settings/access.py`` and ``utils.py``; where PostHog reads a value in
another way than its writer will have meant, the reading here is the meant one, and a warning says so.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from proxy.config import keys
from proxy.config.contradictions import trusts_somebody
from proxy.config.notation import FALSE_WORDS, TRUE_WORDS, printable, shown
from proxy.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from proxy.config.reading import Reading
    from proxy.config.schema import Config

POSTHOG_NAMES: Mapping[str, str] = {
    "IS_BEHIND_PROXY": "",
    "TRUSTED_PROXIES": "trust.proxies",
    "TRUST_ALL_PROXIES": "trust.all",
    "ALLOWED_HOSTS": "access.allowed_hosts",
    "ALLOWED_IP_BLOCKS": "access.allowed_ip_blocks",
    "DISABLE_SECURE_SSL_REDIRECT": "posthog.secure_ssl_redirect",
}
"""PostHog's variables and the key that each one sets; IS_BEHIND_PROXY sets none, it only warns."""

_EMPTY_HOSTS = (
    "ALLOWED_HOSTS is empty: PostHog then refuses every host, while this proxy takes it as not set; "
    "remove the variable or list the hosts"
)
_FOREIGN_NAME = re.compile(r"\w*_SERVICE_(?:HOST|PORT(?:_\w+)?)|\w*_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_\w+)?")
_FOREIGN_VALUE = re.compile(r"(?:tcp|udp|sctp)://")


def read_own(environ: Mapping[str, str], upstream_names: Iterable[str], reading: Reading) -> None:
    """Read every ``POSTHOG_PROXY_*`` variable into ``reading``. An empty one counts as not set.

    ``upstream_names`` are the upstreams named elsewhere: ``POSTHOG_PROXY_UPSTREAMS__REPLAY_EU__HOST``
    means the upstream ``replay-eu`` where there is one, else ``replay_eu``.
    """
    paths = {keys.environment_name(path): path for path in keys.all_keys() if keys.find(path) is not None}
    upstreams = {name.replace("-", "_").upper(): name for name in upstream_names}
    for variable in sorted(environ):
        value = environ[variable]
        if not variable.startswith(keys.ENVIRONMENT_PREFIX) or _is_service_link(variable, value):
            continue
        path = paths.get(variable) or _upstream_path(variable, upstreams)
        if keys.find(path) is None:
            reading.problems.append(_unknown(variable, value, path))
        elif value != "":
            reading.take(path, value, variable, textual=True)


def _upstream_path(variable: str, upstreams: Mapping[str, str]) -> str:
    parts = variable.removeprefix(keys.ENVIRONMENT_PREFIX).split("__")
    if len(parts) == 3 and parts[0] == "UPSTREAMS":
        return f"upstreams.{upstreams.get(parts[1], parts[1].lower())}.{parts[2].lower()}"
    return ".".join(parts).lower()


def _unknown(variable: str, value: str, path: str) -> Problem:
    near = keys.nearest(path)
    name = None if near is None or "[" in near else keys.environment_name(near)
    return Problem(printable(variable), shown(value), "is not a known variable", "environment", name)


def _is_service_link(variable: str, value: str) -> bool:
    """Whether Kubernetes or Docker made the variable because a service is called ``posthog-proxy``
    (Kubernetes: "Discovering services", environment variables). Nobody can take those away."""
    if _FOREIGN_NAME.fullmatch(variable) is not None:
        return True
    return variable.endswith("_PORT") and _FOREIGN_VALUE.match(value) is not None


def read_posthog(environ: Mapping[str, str], reading: Reading) -> list[str]:
    """Read PostHog's variables into ``reading``; return a warning for each one that PostHog reads
    otherwise. An empty one counts as not set, as PostHog's ``get_from_env`` has it."""
    warnings = _allowed_hosts(environ, reading)
    warnings += _allowed_ip_blocks(environ, reading)
    warnings += _trusted_proxies(environ, reading)
    warnings += _trust_all_proxies(environ, reading)
    warnings += _disable_secure_ssl_redirect(environ, reading)
    warnings += _is_behind_proxy(environ)
    return warnings


def posthog_advice(environ: Mapping[str, str], config: Config) -> Iterator[str]:
    """Return a warning where IS_BEHIND_PROXY does not go with the finished configuration."""
    value = environ.get("IS_BEHIND_PROXY", "")
    if _behind_proxy(environ) and not trusts_somebody(config.trust):
        yield (
            f"IS_BEHIND_PROXY={printable(value)} with neither TRUSTED_PROXIES nor TRUST_ALL_PROXIES: if a "
            "proxy stands in front of this one, every event carries that proxy's address; set "
            "TRUSTED_PROXIES to the addresses of the proxies"
        )
    if value and not _behind_proxy(environ) and config.posthog.secure_ssl_redirect:
        yield (
            f"IS_BEHIND_PROXY={printable(value)}: PostHog then ignores X-Forwarded-Proto and redirects every "
            "page to https for ever; set IS_BEHIND_PROXY=true for PostHog"
        )


def _behind_proxy(environ: Mapping[str, str]) -> bool:
    """Whether IS_BEHIND_PROXY is true, as PostHog reads it."""
    return environ.get("IS_BEHIND_PROXY", "").lower() in TRUE_WORDS


def _allowed_hosts(environ: Mapping[str, str], reading: Reading) -> list[str]:
    name = "ALLOWED_HOSTS"
    if environ.get(name):
        reading.take(POSTHOG_NAMES[name], environ[name], name, textual=True)
    elif name in environ:
        return [_EMPTY_HOSTS]
    return []


def _allowed_ip_blocks(environ: Mapping[str, str], reading: Reading) -> list[str]:
    """PostHog reads a list with commas of ``ip_network(block, strict=False)``: host bits do not count."""
    name = "ALLOWED_IP_BLOCKS"
    items = [item.strip() for item in environ.get(name, "").split(",") if item.strip()]
    if not items:
        return []
    blocks = [_masked(item) for item in items]
    reading.take(POSTHOG_NAMES[name], ",".join(blocks), name, textual=True)
    return [
        f"{name}: {printable(item)} has host bits set and is read as {block}, as PostHog does; write {block}"
        for item, block in zip(items, blocks, strict=True)
        if item != block
    ]


def _masked(item: str) -> str:
    """The block with its host bits cleared; a text that is none as it is, for the reader to refuse."""
    if "/" not in item:
        return item
    try:
        return str(ipaddress.ip_network(item, strict=False))
    except ValueError:
        return item


def _trusted_proxies(environ: Mapping[str, str], reading: Reading) -> list[str]:
    name = "TRUSTED_PROXIES"
    value = environ.get(name, "")
    if not value:
        return []
    reading.take(POSTHOG_NAMES[name], value, name, textual=True)
    blocks = [item.strip() for item in value.split(",") if "/" in item]
    if not blocks:
        return []
    warning = (
        f"{name}={printable(value)}: PostHog compares addresses as text, so {printable(', '.join(blocks))} "
        "matches nobody there (here it does); give PostHog each proxy's single address"
    )
    return [warning]


def _trust_all_proxies(environ: Mapping[str, str], reading: Reading) -> list[str]:
    name = "TRUST_ALL_PROXIES"
    value = environ.get(name, "")
    if not value:
        return []
    believed = value.lower() in TRUE_WORDS
    reading.take(POSTHOG_NAMES[name], believed, name)
    if believed:
        return []
    warning = (
        f"{name}={printable(value)}: any text is true at PostHog, which now trusts everybody, while this "
        "proxy reads it as false; remove the variable from PostHog's environment, or set it to true"
    )
    return [warning]


def _disable_secure_ssl_redirect(environ: Mapping[str, str], reading: Reading) -> list[str]:
    name = "DISABLE_SECURE_SSL_REDIRECT"
    value = environ.get(name, "")
    if value:
        reading.take(POSTHOG_NAMES[name], value.lower() not in TRUE_WORDS, name)
    return _unclear(name, value)


def _is_behind_proxy(environ: Mapping[str, str]) -> list[str]:
    name = "IS_BEHIND_PROXY"
    value = environ.get(name, "")
    ignored = [other for other in ("TRUSTED_PROXIES", "TRUST_ALL_PROXIES") if environ.get(other)]
    warnings = _unclear(name, value)
    if ignored and not _behind_proxy(environ):
        state = f"{name}={printable(value)}" if value else f"{name} is not set"
        given = " and ".join(f"{other}={printable(environ[other])}" for other in ignored)
        warnings.append(
            f"{state}: PostHog ignores {given} without it (this proxy does not); set {name}=true for PostHog"
        )
    return warnings


def _unclear(name: str, value: str) -> list[str]:
    if not value or value.lower() in TRUE_WORDS | FALSE_WORDS:
        return []
    return [f"{name}={printable(value)}: counts as false at PostHog and here; write true or false"]
