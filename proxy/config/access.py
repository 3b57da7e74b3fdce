"""Who may ask for what: `[access]`."""

# ruff: noqa: RUF009 -- `key` is dataclasses.field with metadata.
from __future__ import annotations

from dataclasses import dataclass

from proxy.config.declaration import key
from proxy.config.values import IPNetwork, Satisfy


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """`[access]`: who may ask for what. What SDKs and visitors need is public and stays so; all else is
    protected by whatever is set here, and by nothing while nothing is."""

    allowed_hosts: tuple[str, ...] = key(
        ("*",),
        minimum=1,
        form="host_pattern",
        doc="Hosts that are served, as Django reads them: a name, `.example.com` with all below it, or `*`. "
        "Others get 421.",
        why="PostHog's own default.",
    )
    probe_paths: tuple[str, ...] = key(
        (),
        form="path",
        doc="Paths that are served under an address as Host too, or without any, whatever `allowed_hosts` "
        "says; for example `/_health`.",
        why="Balancers that probe by address know no name; whoever needs none of it should not open it.",
    )
    allowed_ip_blocks: tuple[IPNetwork, ...] = key(
        (),
        doc="Protected paths are for clients in these addresses and CIDR blocks. Others get 403.",
        why="PostHog's own ALLOWED_IP_BLOCKS, on the true client address.",
    )
    basic_auth_file: str = key(
        "",
        form="file",
        doc="Protected paths want a user and password of this file: lines of `htpasswd -B` (bcrypt). It is "
        "read again when it changes.",
        why="Every other kind of hash that htpasswd writes can be guessed quickly.",
    )
    basic_realm: str = key(
        "PostHog",
        form="realm",
        doc="The name under which browsers ask for the password.",
        why="It says what the password is for.",
    )
    basic_auth_checks: int = key(
        32,
        unit="checks",
        minimum=1,
        maximum=1024,
        doc="Passwords being checked at once, waiting ones included; above: 503 with Retry-After.",
        why="One check takes about a quarter of a second by design; a longer line only ends in time-outs.",
    )
    basic_auth_cache: float = key(
        60.0,
        unit="s",
        minimum=0,
        maximum=3600,
        doc="A checked password is not checked again for this long (at most 1,024 are remembered, as keyed "
        "digests).",
        why="A page of the app makes dozens of requests; a changed file counts at once all the same.",
    )
    forward_auth: str = key(
        "",
        form="upstream",
        doc="Protected paths want the consent of this upstream, asked before each request as by Traefik and "
        "Caddy (oauth2-proxy, Authelia and their like). Its 2xx lets the request through, any other answer "
        "goes to the client; where it cannot be asked: 503.",
        why="Sign-on belongs to a service that does nothing else.",
    )
    forward_auth_path: str = key(
        "/",
        form="target",
        doc="What it is asked for, a query included: `/oauth2/auth` for oauth2-proxy.",
        why="Traefik and Caddy ask for the address that they are given.",
    )
    forward_auth_send: tuple[str, ...] = key(
        ("Accept", "User-Agent", "X-Requested-With"),
        form="header",
        doc="Request headers that it is sent besides Cookie, Authorization, X-Forwarded-For, -Host, -Method, "
        "-Port, -Proto and -Uri.",
        why="By these oauth2-proxy tells pages from calls.",
    )
    forward_auth_copy: tuple[str, ...] = key(
        (),
        form="header",
        doc="Headers of its consent that the request goes on with, such as X-Auth-Request-User, "
        "X-Auth-Request-Email or Remote-User. From clients they are never taken, on no path.",
        why="PostHog reads none of them; whoever reads one must be sure that no client wrote it.",
    )
    forward_auth_sign_in: str = key(
        "",
        form="sign_in",
        doc="Where a browser that asks for a page is sent (302) after its 401, with the page in the query's "
        "`rd`: `/oauth2/sign_in` for oauth2-proxy. Empty: the 401 goes to the client.",
        why="oauth2-proxy's own convention with nginx.",
    )
    forward_auth_timeout: float = key(
        5.0,
        unit="s",
        minimum=0.1,
        maximum=60,
        doc="Longest wait for its answer, connecting included.",
        why="A page waits for it before anything else happens.",
    )
    client_certificate: bool = key(
        False,
        doc="Protected paths want a client certificate, as `[[listeners]]` with TLS check it.",
        why="Few browsers have one.",
    )
    satisfy: Satisfy = key(
        Satisfy.ALL,
        doc="Whether all of the demands above hold for a protected path, or any one lets in.",
        why="nginx's satisfy and its default.",
    )
