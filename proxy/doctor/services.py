"""Is what answers behind the proxy PostHog, and does it believe what the proxy says?

Each question is made by the rules that make the real ones (route, Host, forwarding headers), for a client at
``CLIENT``, and sent to the upstream itself. Nothing that is asked leaves an event behind.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from proxy.config.contradictions import trusts_somebody
from proxy.config.schema import configured_listeners
from proxy.doctor.asking import ProbeError, Reply, ask
from proxy.doctor.findings import Finding, error, ok, warning
from proxy.message import Forward, Peer
from proxy.rules.decide import Tables, decide
from proxy.rules.symptoms import CURES, Asked, Loop, Symptom, is_page_for_sdk, redirect_loop
from proxy.wire.heads import read_request, render_request
from proxy.wire.strict import HeadLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config.schema import Config
    from proxy.doctor.asking import Where

CLIENT = "203.0.113.7"
"""The client of all questions: an address of the documentation (RFC 5737), nobody's."""

TOKEN = "phc_posthog_proxy_doctor_0000000000000000000"
"""No project has it."""

SKEW = 30.0
"""Seconds by which two clocks may differ; PostHog corrects the times of events by its own."""

SDK_QUESTIONS = (
    ("POST", "/e/", b"{}"),
    ("POST", "/batch/", b"{}"),
    ("POST", "/s/", b"{}"),
    ("POST", "/i/v0/e/", b"{}"),
    ("POST", "/flags/?v=2", b'{"api_key":"%b","distinct_id":"doctor"}' % TOKEN.encode()),
    ("GET", f"/array/{TOKEN}/config", b""),
    ("GET", "/static/array.js", b""),
)

_ROUTE_CURE = "send {path} to the service that answers it with [[routes]], or choose the right preset"
_ASSET_CURE = (
    "send /static/* and /array/* to the host that has them with [[routes]] (PostHog Cloud: "
    'us-assets.i.posthog.com, as preset = "posthog-cloud-us" does)'
)


@dataclass(frozen=True, slots=True)
class Answered:
    """A question, where it went, and what came back."""

    forward: Forward
    reply: Reply
    path: str


class Clinic:
    """Asks the upstreams of one configuration.

    :param places: where each upstream can be reached; those that cannot be are left out.
    :param host: the Host that clients ask for.
    """

    def __init__(
        self, config: Config, places: Mapping[str, Where], host: str, wall: float, *, timeout: float
    ) -> None:
        self._config = config
        self._tables = Tables.of(config)
        self._places = places
        self._host = host
        self._wall = wall
        self._timeout = timeout

    async def findings(self, origin: str = "") -> list[Finding]:
        """Ask everything at once. ``origin``: the page whose pre-flight is tried."""
        asked = await asyncio.gather(
            self._health(),
            *(self._sdk(method, path, body) for method, path, body in SDK_QUESTIONS),
            *([self._preflight(origin)] if origin else []),
            self._redirects(),
            self._seen(),
        )
        return [finding for found in asked for finding in found]

    # Asking.

    async def _ask(
        self, method: str, path: str, body: bytes = b"", *, tls: bool = True, lines: str = ""
    ) -> Answered | Finding | None:
        """Ask as the proxy would; a finding: there was no answer; ``None``: it is not to be asked (its
        upstream is down, or the access rules are in the way)."""
        said = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n{lines}"
        if body or method == "POST":
            said += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        limits = self._config.limits
        head = read_request(
            f"{said}\r\n".encode(), HeadLimits(limits.head_bytes, limits.head_lines, limits.target_bytes)
        )
        peer = Peer(ip_address(CLIENT), 0, tls, "doctor", 443 if tls else 80)
        decision = decide(head, peer, self._tables, "00000000-0000-4000-8000-000000000000")
        if not isinstance(decision, Forward) or decision.route.upstream not in self._places:
            return None
        where = self._places[decision.route.upstream]
        fields = (*decision.fields, (b"Connection", b"close"))
        try:
            reply = await ask(
                where,
                render_request(head.method, decision.target, fields),
                body,
                timeout=self._timeout,
            )
        except ProbeError as problem:
            upstream = decision.route.upstream
            cure = f"look at the log of upstream {upstream}, and at upstreams.{upstream}.url"
            return error("no_answer", upstream, f"{method} {path}: {problem}", cure)
        return Answered(decision, reply, path)

    # What is asked.

    async def _health(self) -> list[Finding]:
        asked = await self._ask("GET", "/_health")
        if not isinstance(asked, Answered):
            return _told(asked)
        name, reply = asked.forward.route.upstream, asked.reply
        found = _clock(name, reply, self._wall)
        if reply.status == 400 and b"HTTPS port" in reply.body:  # nginx and Apache say so
            text = "it is asked in plain HTTP and wants TLS"
            return [error("tls", name, text, f"write https:// in upstreams.{name}.url")]
        if reply.status == 400:
            text = f"/_health answers 400 to Host {self._host}"
            cure = f"add {self._host.partition(':')[0]} to ALLOWED_HOSTS at PostHog"
            return [*found, error("allowed_hosts", name, text, cure)]
        if reply.status == 200:
            return [*found, ok("health", name, "/_health answers 200")]
        text = f"/_health answers {reply.status}"
        return [*found, error("health", name, text, "look at the log of the upstream: PostHog is not well")]

    async def _sdk(self, method: str, path: str, body: bytes) -> list[Finding]:
        asked = await self._ask(method, path, body)
        if not isinstance(asked, Answered):
            return _told(asked)
        route, reply = asked.forward.route, asked.reply
        name = route.upstream
        shown = path.partition("?")[0].replace(TOKEN, "<token>")
        looped = self._loop(asked, scheme=b"https")
        if looped is not None:
            text = f"{shown} is redirected to itself"
            return [error("redirect_loop", name, text, CURES[looped])]
        paged = is_page_for_sdk(route.cls, reply.status, reply.fields) or 300 <= reply.status < 400
        if shown.startswith(("/array/", "/static/")) and (paged or reply.status >= 400):
            text = f"{shown} answers {reply.status}{' with a web page' * paged}"
            return [error("asset_host", name, text, _ASSET_CURE)]
        if paged:
            text = f"{shown} answers {reply.status} with a web page or a redirect"
            return [error("html_on_sdk_path", name, text, CURES[Symptom.HTML])]
        if reply.status == 404 or reply.status >= 500:
            text = f"{shown} answers {reply.status}"
            return [error("sdk_path", name, text, _ROUTE_CURE.format(path=shown))]
        if shown.startswith("/flags"):
            return [_flags(name, reply)]
        found = [ok("sdk_path", name, f"{shown} answers {reply.status}")]
        if shown.startswith("/static/"):
            found.append(_caching(name, shown, reply))
        return found

    async def _preflight(self, origin: str) -> list[Finding]:
        lines = (
            f"Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n"
            "Access-Control-Request-Headers: content-type\r\n"
        )
        asked = await self._ask("OPTIONS", "/e/", lines=lines)
        if not isinstance(asked, Answered):
            return _told(asked)
        return [cors(asked.forward.route.upstream, origin, asked.reply)]

    async def _redirects(self) -> list[Finding]:
        found: list[Finding] = []
        for tls, scheme in ((True, b"https"), (False, b"http")):
            asked = await self._ask("GET", "/login", tls=tls)
            if not isinstance(asked, Answered):
                found += _told(asked)
                continue
            name, said = asked.forward.route.upstream, f"/login with X-Forwarded-Proto: {scheme.decode()}"
            looped = self._loop(asked, scheme=scheme)
            if looped is not None:
                found.append(error("redirect_loop", name, f"{said} is redirected to itself", CURES[looped]))
            elif asked.reply.status == 400:
                text = f"{said} and Host {self._host} answers 400"
                cure = f"add {self._host.partition(':')[0]} to ALLOWED_HOSTS at PostHog"
                found.append(error("allowed_hosts", name, text, cure))
            elif asked.reply.status == 403:
                text = f"{said} answers 403 to a client at {CLIENT}"
                cure = (
                    "unless ALLOWED_IP_BLOCKS at PostHog is meant to shut it out: add the address of this "
                    "machine, as PostHog sees it, to TRUSTED_PROXIES there (addresses, no networks)"
                )
                found.append(warning("address_gate", name, text, cure))
            else:
                found.append(ok("redirects", name, f"{said} answers {asked.reply.status}"))
        return found

    def _loop(self, asked: Answered, *, scheme: bytes) -> Loop | None:
        config, forward = self._config, asked.forward
        question = Asked(
            scheme=scheme,
            hosts=(self._host.encode(), *(value for name, value in forward.fields if name == b"Host")),
            target=forward.target,
            told=trusts_somebody(config.trust),
            claimed=False,
            reachable=any(listener.tls for listener in configured_listeners(config)),
        )
        return redirect_loop(question, asked.reply.status, asked.reply.fields)

    async def _seen(self) -> list[Finding]:
        """The stand-in says which client each of PostHog's services would see."""
        asked = await self._ask("GET", "/__standin__/echo")
        if not isinstance(asked, Answered):
            return []
        finding = seen(asked.forward.route.upstream, asked.reply, CLIENT)
        return [] if finding is None else [finding]


def _told(asked: Finding | None) -> list[Finding]:
    return [] if asked is None else [asked]


def seen(subject: str, reply: Reply, client: str) -> Finding | None:
    """Judge the stand-in's echo; ``None``: it is none. ``client``: who it should see; empty: anybody from
    the Internet."""
    try:
        addresses = json.loads(reply.body)["ip"]
        services = {str(name): str(address) for name, address in addresses.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    shown = ", ".join(f"{name} {address}" for name, address in services.items())
    wrong = [address for name, address in services.items() if _is_wrong(name, address, client)]
    if wrong:
        return error("client_address", subject, f"PostHog would see {shown}", CURES[Symptom.PRIVATE])
    return ok("client_address", subject, f"PostHog would see {shown}")


def _is_wrong(service: str, address: str, client: str) -> bool:
    if "gate" in service:  # its answer is a verdict as well
        return False
    if client:
        return address != client
    try:
        return not ip_address(address).is_global
    except ValueError:
        return True


def _clock(name: str, reply: Reply, wall: float) -> list[Finding]:
    date = reply.get("date")
    try:
        theirs = email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return []
    skew = theirs - wall
    if abs(skew) > SKEW:
        text = f"its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
        return [warning("clock", name, text, "let NTP set both clocks (chrony, systemd-timesyncd)")]
    return [ok("clock", name, f"its clock differs by {abs(skew):.0f} s at most")]


def _flags(name: str, reply: Reply) -> Finding:
    """An unknown token is refused with JSON, or answered with an empty set."""
    try:
        said = json.loads(reply.body)
    except ValueError:
        said = None
    keys = said.keys() if isinstance(said, dict) else set()
    if reply.status in (400, 401, 403) and keys:
        return ok("flags", name, f"/flags answers {reply.status} to an unknown token")
    if reply.status == 200 and keys & {"flags", "featureFlags"}:
        return ok("flags", name, "/flags answers with flags")
    text = f"/flags answers {reply.status} with something else than flags: {reply.body[:60]!r}"
    return error("flags", name, text, _ROUTE_CURE.format(path="/flags"))


def _caching(name: str, path: str, reply: Reply) -> Finding:
    control = reply.get("cache-control").lower()
    if reply.get("set-cookie"):
        return warning(
            "cache", name, f"{path} sets a cookie, so no cache keeps it", "serve scripts without cookies"
        )
    if "no-store" in control or not ("max-age" in control or reply.get("etag") or reply.get("expires")):
        text = f"{path} says {f'Cache-Control: {control}' if control else 'nothing about caching'}"
        cure = "have the upstream send Cache-Control with max-age: every page loads the script anew"
        return warning("cache", name, text, cure)
    return ok("cache", name, f"{path} may be kept: {control or 'by its ETag'}")


def cors(subject: str, origin: str, reply: Reply) -> Finding:
    """Judge the answer to a pre-flight from ``origin``."""
    allowed = reply.get("access-control-allow-origin")
    if ", " in allowed:
        text = f"the pre-flight from {origin} is answered with two Access-Control-Allow-Origin: {allowed}"
        cure = "let only PostHog send CORS headers: take them out of what stands between"
        return error("cors", subject, text, cure)
    if allowed != origin and not (allowed == "*" and reply.get("access-control-allow-credentials") != "true"):
        text = f"the pre-flight from {origin} is answered {reply.status}, allowed origin {allowed or 'none'}"
        cure = "send OPTIONS of SDK paths on to PostHog, which allows every origin"
        return error("cors", subject, text, cure)
    if reply.status >= 300:
        text = f"the pre-flight from {origin} is answered {reply.status}; browsers want 2xx"
        return error("cors", subject, text, "send OPTIONS of SDK paths on to PostHog, without a redirect")
    return ok("cors", subject, f"pages of {origin} may send events")
