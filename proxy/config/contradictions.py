"""What single values cannot show: settings that contradict one another, and settings that can be meant
but probably are not.

Both are judged on the finished configuration; ``given`` holds what an operator said, so that a default
is never blamed for contradicting a default.
"""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

from proxy.config import keys
from proxy.config.admin import is_private
from proxy.config.notation import shown
from proxy.config.presets import BUILT_IN
from proxy.config.schema import (
    ClientAuth,
    Config,
    ListenerMode,
    TcpAddress,
    UnixAddress,
    configured_certificates,
    configured_listeners,
)
from proxy.errors import Problem
from proxy.message import SPOOLED_CLASSES, SpoolMode

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from proxy.config.reading import Setting
    from proxy.config.schema import ListenAddress, RouteConfig, TrustConfig, UpstreamUrl
    from proxy.message import EndpointClass

ORDERED = (
    ("health.open_min", "health.open_max"),
    ("timeouts.drain_streams", "timeouts.drain"),
    ("timeouts.drain_idle", "timeouts.drain"),
    ("limits.held_body", "limits.body_ingest"),
    ("limits.held_body", "limits.body_replay"),
    ("limits.held_body", "limits.body_flags"),
    ("limits.held_body", "limits.body_app"),
)
"""Pairs of which the first must not exceed the second. A first that is not given gives way to a second
that is (load.py lowers it); everything else out of order is a contradiction."""


def contradictions(config: Config, given: Mapping[str, Setting], upstreams: Collection[str]) -> list[Problem]:
    """Return every pair of settings that cannot both hold. ``upstreams`` are the names of all upstreams,
    of those too that are not in ``config`` because their URL is not readable."""
    checks = (
        *(_trust, _order, _server_tls, _tls, _listeners, _loops, _strips, _aliases),
        *(_certificates, _spool, _admin),
    )
    found = [problem for check in checks for problem in check(config, given)]
    named = (_routes, _entrances, _forward_auth)
    return [*found, *(problem for check in named for problem in check(config, given, upstreams))]


def _trust(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    ways = {
        "trust.all": config.trust.all,
        "trust.hops": config.trust.hops > 0,
        "trust.proxies": bool(config.trust.proxies),
    }
    first, *others = [path for path, used in ways.items() if used] or [""]
    for other in others:
        if other not in given:  # its networks are those of the fronts
            other = "behind" if config.behind else "fronts"
        yield _conflict(given, first, other, "they are different ways to say whom to believe; keep one")


def _order(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    for low, high in ORDERED:
        if value_at(config, low) > value_at(config, high):
            text = _said(given, high) or f"{high} = {value_at(config, high):g} (the default)"
            yield _about(given, low, given[low].shown, f"must not exceed {text}")


def _server_tls(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    tls = config.tls
    if not configured_certificates(config):
        for path, speaks in _tls_listeners(config):
            if speaks:
                allowed = "needs a certificate: give tls.certificate (--tls-cert) or [[certificates]]"
                yield _about(given, path, "true" if "[" in path else given[path].shown, allowed)
    if tls.key and not tls.certificate:
        cure = "is a key without its certificate; give tls.certificate (--tls-cert) too"
        yield _about(given, "tls.key", given["tls.key"].shown, cure)
    if tls.client_auth is not ClientAuth.OFF and not tls.client_ca:
        allowed = "needs tls.client_ca: the authorities that clients' certificates are checked against"
        yield _about(given, "tls.client_auth", shown(tls.client_auth.value), allowed)
    if tls.client_ca and tls.client_auth is ClientAuth.OFF:
        allowed = 'is never read while tls.client_auth is "off"; make it "optional" or "required"'
        yield _about(given, "tls.client_ca", shown(tls.client_ca), allowed)


def _tls_listeners(config: Config) -> Iterator[tuple[str, bool]]:
    """Every place that can ask for TLS, and whether it does."""
    yield "listen_tls", bool(config.listen_tls)
    for number, listener in enumerate(config.listeners):
        yield f"listeners[{number}].tls", listener.tls


def _tls(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    for name, upstream in config.upstreams.items():
        prefix = f"upstreams.{name}"
        if upstream.ca_file and upstream.insecure:
            cure = "nothing is checked against an authority where nothing is verified; keep one"
            yield _conflict(given, f"{prefix}.insecure", f"{prefix}.ca_file", cure)
        if upstream.client_key and not upstream.client_cert:
            cure = "a key without its certificate; give client_cert, or remove it"
            yield _about(given, f"{prefix}.client_key", given[f"{prefix}.client_key"].shown, cure)
        for word in ("ca_file", "server_name", "insecure", "client_cert"):
            if getattr(upstream, word) and not upstream.url.tls:
                cure = "it only means something for an https upstream"
                yield _conflict(given, f"{prefix}.{word}", f"{prefix}.url", cure)


def _listeners(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    addresses = [listener.address for listener in configured_listeners(config)]
    fixed = [address for address in addresses if isinstance(address, UnixAddress) or address.port != 0]
    for address, count in Counter(fixed).items():
        if count > 1:
            places = {"listen": config.listen, "listen_tls": config.listen_tls}
            path = next((path for path, listed in places.items() if address in listed), "listeners")
            yield _about(given, path, shown(str(address)), "is given more than once")


def _loops(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    for name, upstream in config.upstreams.items():
        for listener in configured_listeners(config):
            if _reaches(upstream.url, address := listener.address):
                allowed = f"is where this proxy itself listens ({address}): requests would go round for ever"
                yield _about(given, f"upstreams.{name}.url", shown(str(upstream.url)), allowed)


def _reaches(url: UpstreamUrl, listener: ListenAddress) -> bool:
    target = url.address
    if isinstance(target, UnixAddress) or isinstance(listener, UnixAddress):
        return target == listener
    if target.port != listener.port:
        return False
    return _numeric(target) == _numeric(listener) or (
        _numeric(listener) in ("0.0.0.0", "::") and _is_loopback(_numeric(target))
    )


def _numeric(address: TcpAddress) -> str:
    return "127.0.0.1" if address.host == "localhost" else address.host


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name: only the resolver knows
        return False


def _routes(config: Config, given: Mapping[str, Setting], upstreams: Collection[str]) -> Iterator[Problem]:
    where = given["routes"].where if "routes" in given else ""
    seen: dict[str, int] = {}
    for index, route in enumerate(config.routes):
        first = seen.setdefault(route.path, index)
        if first != index and route.path:
            allowed = f"is the path of routes[{first}] too"
            yield Problem(f"routes[{index}].path", shown(route.path), allowed, where)
        yield from _missing(f"routes[{index}].upstream", route.upstream, upstreams, where)


def _entrances(config: Config, given: Mapping[str, Setting], upstreams: Collection[str]) -> Iterator[Problem]:
    where = given["listeners"].where if "listeners" in given else ""
    for index, listener in enumerate(config.listeners):
        path = f"listeners[{index}].upstream"
        yield from _missing(path, listener.upstream, upstreams, where)
        if listener.upstream and listener.mode is ListenerMode.HTTP:
            allowed = 'only means something with mode = "tcp"; [[routes]] say where requests go'
            yield Problem(path, shown(listener.upstream), allowed, where)


def _certificates(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    if config.access.client_certificate and not any(one.tls for one in configured_listeners(config)):
        allowed = "no listener speaks TLS, so no client could show one and every protected path were closed"
        yield _about(given, "access.client_certificate", "true", allowed)
    elif config.access.client_certificate and config.tls.client_auth is ClientAuth.OFF:
        allowed = 'needs tls.client_auth = "optional" or "required": no client is asked for a certificate'
        yield _about(given, "access.client_certificate", "true", allowed)


def _forward_auth(
    config: Config, given: Mapping[str, Setting], upstreams: Collection[str]
) -> Iterator[Problem]:
    if config.access.forward_auth:
        where = given["access.forward_auth"].where if "access.forward_auth" in given else "default"
        yield from _missing("access.forward_auth", config.access.forward_auth, upstreams, where)
        return
    for path in sorted(given):
        if path.startswith("access.forward_auth_"):
            allowed = "only means something with access.forward_auth"
            yield _about(given, path, given[path].shown, allowed)


def _strips(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    where = given["routes"].where if "routes" in given else ""
    for index, route in enumerate(config.routes):
        if route.strip and not (route.path or "").startswith(f"{route.strip}/"):
            allowed = f"must be the beginning of routes[{index}].path, before a /"
            yield Problem(f"routes[{index}].strip", shown(route.strip), allowed, where)


def _aliases(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    """Names that hide PostHog's own paths, or that stand twice."""
    own = [preset.path.removesuffix("/*") for preset in BUILT_IN]
    prefix = config.aliases.prefix
    if prefix and _first_segment(prefix) in {_first_segment(path) for path in own}:
        allowed = f"hides PostHog's own {_first_segment(prefix)}; take a name that is not PostHog's"
        yield _about(given, "aliases.prefix", shown(prefix), allowed)
    seen: set[str] = set()
    for alias in config.aliases.paths:
        name = alias.path.removesuffix("/")
        if name in own:
            allowed = "has a name that is PostHog's own; take another"
        elif name in seen:
            allowed = "has a name that another one has"
        elif prefix and f"{name}/".startswith(f"{prefix}/"):
            allowed = "has a name below aliases.prefix, where it can never be asked for; take another"
        else:
            allowed = ""
        if allowed:
            yield _about(given, "aliases.paths", shown(str(alias)), allowed)
        seen.add(name)


def _admin(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    """The admin listener is nobody else's address, and asks for a token where others can connect."""
    address = config.admin.listen
    if address is None:
        if config.admin.token_file:
            allowed = "only means something with admin.listen"
            yield _about(given, "admin.token_file", shown(config.admin.token_file), allowed)
        return
    fixed = isinstance(address, UnixAddress) or address.port != 0
    if fixed and address in [listener.address for listener in configured_listeners(config)]:
        yield _about(given, "admin.listen", shown(str(address)), "is where clients are served; take another")
    if not (config.admin.token_file or is_private(address)):
        allowed = (
            "can be reached from other machines: give admin.token_file, or a loopback address or unix:/path"
        )
        yield _about(given, "admin.listen", shown(str(address)), allowed)


def _spool(config: Config, given: Mapping[str, Setting]) -> Iterator[Problem]:
    """Modes without a place to keep anything, or for what cannot be kept."""
    if config.spool.directory == "" and config.spool.mode is not SpoolMode.OFF and "spool.mode" in given:
        yield _about(given, "spool.mode", given["spool.mode"].shown, "means nothing without spool.directory")
    where = given["routes"].where if "routes" in given else ""
    for index, route in enumerate(config.routes):
        if route.spool in (None, SpoolMode.OFF):
            continue
        if config.spool.directory == "":
            allowed = "means nothing without spool.directory"
        elif SPOOLED_CLASSES.isdisjoint(_classes(route)):
            allowed = "is only for v0 ingest and replay: other answers cannot be given in PostHog's stead"
        else:
            continue
        yield Problem(f"routes[{index}].spool", shown(route.spool.value), allowed, where)


def _classes(route: RouteConfig) -> Iterator[EndpointClass]:
    """The classes of the paths that PostHog has below a configured path."""
    if route.cls is not None:
        yield route.cls
        return
    path = route.path or ""
    for preset in BUILT_IN:
        below = path.endswith("*") and f"{preset.path}/".startswith(path[:-1])
        if below or path.rstrip("/") == preset.path:
            yield preset.cls


def _first_segment(path: str) -> str:
    return "/" + path.split("/")[1]


def _missing(path: str, name: str, upstreams: Collection[str], where: str) -> Iterator[Problem]:
    """A name that no upstream has."""
    if name and name not in upstreams:
        near = keys.closest_word(name, upstreams)
        yield Problem(
            path, shown(name), f"is not an upstream; there are: {', '.join(upstreams)}", where, near
        )


def _conflict(given: Mapping[str, Setting], path: str, other: str, cure: str) -> Problem:
    """A problem of one given setting with another."""
    return _about(given, path, given[path].shown, f"contradicts {_said(given, other)}: {cure}")


def _said(given: Mapping[str, Setting], path: str) -> str:
    """How a setting was given; empty where it was not."""
    setting = given.get(path)
    return f"{setting.said} = {setting.shown} ({setting.where})" if setting is not None else ""


def _about(given: Mapping[str, Setting], path: str, value: str, allowed: str) -> Problem:
    setting = given.get(path)
    if setting is None:
        return Problem(path, value, allowed, "default")
    return Problem(setting.said, value, allowed, setting.where)


def value_at(config: Config, path: str) -> float:
    """Return the number at ``section.key``."""
    section, _, name = path.partition(".")
    number: float = getattr(getattr(config, section), name)
    return number


def advice(config: Config) -> list[str]:
    """Return a warning for every setting that works, but hardly as it was meant."""
    return [
        *_insecure(config),
        *_everybody(config.trust),
        *_unread(config.trust),
        *_unused_tls(config),
        *_redirect_loop(config),
    ]


def trusts_somebody(trust: TrustConfig) -> bool:
    """Whether any peer's word about the client can be believed."""
    return bool(trust.proxies) or trust.all or trust.unix or trust.hops > 0


def _insecure(config: Config) -> Iterator[str]:
    for name, upstream in config.upstreams.items():
        if upstream.insecure:
            yield (
                f"upstreams.{name}.insecure = true: whoever stands between here and {upstream.url} can read "
                f"and change everything; give upstreams.{name}.ca_file instead"
            )


def _everybody(trust: TrustConfig) -> Iterator[str]:
    if trust.all:
        yield (
            "trust.all = true (TRUST_ALL_PROXIES): whoever can connect here chooses the address, scheme and "
            "host that PostHog sees, so address blocks, rate limits and locations hold for nobody; name what "
            'stands in front instead: behind = "nginx", "aws-alb", "cloudflare" or its addresses'
        )


def _unread(trust: TrustConfig) -> Iterator[str]:
    if trusts_somebody(trust):
        return
    for name, value in (("forwarded", trust.forwarded), ("client_header", trust.client_header)):
        if value:
            yield (
                f"trust.{name} = {shown(value)}: it is never read, because nobody is trusted; "
                "list the proxies in front in trust.proxies"
            )


def _unused_tls(config: Config) -> Iterator[str]:
    if _ends_tls(config):
        return
    if configured_certificates(config):
        yield "certificates are given, but no listener speaks TLS: give listen_tls (--listen-tls)"
    if config.tls.redirect_https and not trusts_somebody(config.trust):
        yield (
            "tls.redirect_https = true, while no listener speaks TLS and no proxy is trusted: nobody can "
            "come by https here, so every page is redirected for ever; give listen_tls, or list the proxy "
            "that ends TLS in trust.proxies"
        )


def _ends_tls(config: Config) -> bool:
    return any(listener.tls for listener in configured_listeners(config))


def _redirect_loop(config: Config) -> Iterator[str]:
    """PostHog fact: with SECURE_SSL_REDIRECT its Django answers 301 unless X-Forwarded-Proto says https.
    An https upstream has a proxy of its own to say so."""
    plain = not config.upstreams["default"].url.tls
    unsaid = not trusts_somebody(config.trust) and not _ends_tls(config)
    if config.posthog.secure_ssl_redirect and plain and unsaid:
        yield (
            "posthog.secure_ssl_redirect = true while no proxy is trusted: nobody can say that a client came "
            "by https, so PostHog redirects every page for ever; list the proxy that ends TLS in "
            "trust.proxies (--trusted-proxies, TRUSTED_PROXIES), or set DISABLE_SECURE_SSL_REDIRECT=true for "
            "both PostHog and this proxy"
        )
