"""Request heads as PostHog's senders write them: browsers, SDKs, and balancers that relay them.

The shapes (which lines, in which order and spelling) are recorded ones: posthog-js in Chromium, the Python
and Node SDKs, curl (tests/corpus/requests), Firefox and Safari by their documentation, an Application Load
Balancer by AWS's. What varies from client to client is drawn from the given ``Random``, so the same seed
gives the same requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

HOST = "ph.example.com"
"""The host of the proxy, as its clients know it."""

Lines = list[tuple[str, str]]
"""Header lines of a request: name and value, in order."""

_PLATFORMS = {
    "Windows": "Windows NT 10.0; Win64; x64",
    "macOS": "Macintosh; Intel Mac OS X 10_15_7",
    "Linux": "X11; Linux x86_64",
    "Android": "Linux; Android 10; K",
}
_LANGUAGES = (
    "en-US,en;q=0.9", "en-GB,en;q=0.9,en-US;q=0.8", "de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7", "fr-FR,fr;q=0.9",
    "pt-BR,pt;q=0.9,en-US;q=0.8,en;q=0.7", "es-ES,es;q=0.9", "ja,en-US;q=0.9", "nl,en-US;q=0.7,en;q=0.3",
)  # fmt: skip
_PAGES = ("", "pricing", "docs/getting-started", "blog/how-we-did-it", "account/settings", "cart", "search")
_HEX = "0123456789abcdef"


def hexadecimal(random: Random, digits: int) -> str:
    return f"{random.getrandbits(4 * digits):0{digits}x}"


def uuid(random: Random) -> str:
    return "-".join(hexadecimal(random, digits) for digits in (8, 4, 4, 4, 12))


def site(random: Random) -> str:
    """The origin of one of 200 sites that use the proxy."""
    return f"https://www.shop-{random.randrange(200)}.example"


def page(random: Random) -> str:
    """The path of a page, every third with a query of its own."""
    path = f"/{random.choice(_PAGES)}"
    return path + f"?id={hexadecimal(random, 8)}" if random.random() < 1 / 3 else path


def posthog_cookie(random: Random) -> str:
    """The cookie in which posthog-js keeps a visitor, after what the site's own server has set."""
    visitor = uuid(random)
    now = 1_795_000_000_000 + random.randrange(10**9)
    state = (
        f"%7B%22%24device_id%22%3A%22{visitor}%22%2C%22distinct_id%22%3A%22{visitor}%22%2C%22%24sesid%22%3A%5B"
        f"{now}%2C%22{uuid(random)}%22%2C{now}%5D%2C%22%24epp%22%3Atrue%7D"
    )
    others = f"csrftoken={hexadecimal(random, 32)}; _ga=GA1.1.{random.randrange(10**9)}"
    return f"{others}; ph_phc_bench_posthog={state}"


# --- browsers --------------------------------------------------------------------------------------


def _chrome_names(random: Random) -> tuple[str, str, str]:
    """Platform, brands and User-Agent of a Chrome."""
    platform = random.choice(tuple(_PLATFORMS))
    version = random.randrange(140, 157)
    mobile = " Mobile" if platform == "Android" else ""
    agent = (
        f"Mozilla/5.0 ({_PLATFORMS[platform]}) AppleWebKit/537.36 (KHTML, like Gecko) "
        f"Chrome/{version}.0.0.0{mobile} Safari/537.36"
    )
    brands = f'"Not:A-Brand";v="8", "Chromium";v="{version}", "Google Chrome";v="{version}"'
    return platform, brands, agent


def chrome(random: Random, body: int | None, content_type: str) -> Lines:
    """fetch() from a page in Chrome; a sender with a body of ``body`` bytes, or none."""
    platform, brands, agent = _chrome_names(random)
    origin = site(random)
    lines = [("Host", HOST), ("Connection", "keep-alive")]
    if body is not None:
        lines.append(("Content-Length", str(body)))
    lines += [("sec-ch-ua-platform", f'"{platform}"'), ("User-Agent", agent), ("sec-ch-ua", brands)]
    if body is not None:
        lines.append(("content-type", content_type))
    lines += [("sec-ch-ua-mobile", "?1" if platform == "Android" else "?0"), ("Accept", "*/*")]
    if body is not None:
        lines.append(("Origin", origin))
    lines += [
        ("Sec-Fetch-Site", "cross-site" if random.random() < 0.75 else "same-site"),
        ("Sec-Fetch-Mode", "cors" if body is not None else "no-cors"),
        ("Sec-Fetch-Dest", "empty" if body is not None else "script"),
        ("Referer", origin + (page(random) if random.random() < 0.3 else "/")),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Accept-Language", random.choice(_LANGUAGES)),
    ]
    return lines + _cookie(random)


def firefox(random: Random, body: int | None, content_type: str) -> Lines:
    version = random.randrange(128, 146)
    system = random.choice(
        ("Windows NT 10.0; Win64; x64", "X11; Linux x86_64", "Macintosh; Intel Mac OS X 10.15")
    )
    origin = site(random)
    lines = [
        ("Host", HOST),
        ("User-Agent", f"Mozilla/5.0 ({system}; rv:{version}.0) Gecko/20100101 Firefox/{version}.0"),
        ("Accept", "*/*"),
        ("Accept-Language", random.choice(_LANGUAGES)),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Referer", f"{origin}/"),
    ]
    if body is not None:
        lines += [("Content-Type", content_type), ("Content-Length", str(body)), ("Origin", origin)]
    lines += [
        ("Connection", "keep-alive"),
        ("Sec-Fetch-Dest", "empty" if body is not None else "script"),
        ("Sec-Fetch-Mode", "cors" if body is not None else "no-cors"),
        ("Sec-Fetch-Site", "cross-site"),
    ]
    return lines + _cookie(random)


def safari(random: Random, body: int | None, content_type: str) -> Lines:
    version = f"{random.randrange(17, 19)}.{random.randrange(7)}"
    phone = random.random() < 0.6
    system = "iPhone; CPU iPhone OS 18_5 like Mac OS X" if phone else "Macintosh; Intel Mac OS X 10_15_7"
    agent = f"Mozilla/5.0 ({system}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{version}"
    origin = site(random)
    lines = [("Host", HOST)]
    if body is not None:
        lines.append(("Content-Type", content_type))
    lines.append(("Accept", "*/*"))
    if body is not None:
        lines.append(("Origin", origin))
    lines += [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Mode", "cors" if body is not None else "no-cors"),
        ("User-Agent", agent + (" Mobile/15E148 Safari/604.1" if phone else " Safari/605.1.15")),
        ("Referer", f"{origin}/"),
        ("Sec-Fetch-Dest", "empty" if body is not None else "script"),
    ]
    if body is not None:
        lines.append(("Content-Length", str(body)))
    lines += [("Accept-Language", random.choice(_LANGUAGES)), ("Accept-Encoding", "gzip, deflate, br")]
    return [*lines, ("Connection", "keep-alive"), *_cookie(random)]


def chrome_page(random: Random) -> Lines:
    """Chrome asking for a page of PostHog's app, by someone who has logged in."""
    platform, brands, agent = _chrome_names(random)
    return [
        ("Host", HOST),
        ("Connection", "keep-alive"),
        ("sec-ch-ua", brands),
        ("sec-ch-ua-mobile", "?0"),
        ("sec-ch-ua-platform", f'"{platform}"'),
        ("Upgrade-Insecure-Requests", "1"),
        ("User-Agent", agent),
        ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-User", "?1"),
        ("Sec-Fetch-Dest", "document"),
        ("Referer", f"https://{HOST}/project/{random.randrange(40)}/insights"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        ("Accept-Language", random.choice(_LANGUAGES)),
        ("Cookie", f"{posthog_cookie(random)}; sessionid={hexadecimal(random, 32)}"),
    ]


def _cookie(random: Random) -> Lines:
    """Cookies come along where the proxy shares the site's domain: every fourth time here."""
    return [("Cookie", posthog_cookie(random))] if random.random() < 0.25 else []


# --- SDKs on servers -------------------------------------------------------------------------------


def posthog_python(random: Random, body: int, compressed: bool) -> Lines:
    lines = [
        ("Host", HOST),
        ("User-Agent", f"posthog-python/7.{random.randrange(60, 92)}.{random.randrange(4)}"),
        ("Accept-Encoding", "gzip, deflate"),
        ("Accept", "*/*"),
        ("Connection", "keep-alive"),
        ("Content-Type", "application/json"),
    ]
    if compressed:
        lines.append(("Content-Encoding", "gzip"))
    return [*lines, ("Content-Length", str(body))]


def posthog_node(random: Random, body: int, compressed: bool) -> Lines:
    lines = [
        ("host", HOST),
        ("connection", "keep-alive"),
        ("User-Agent", f"posthog-node/5.{random.randrange(40, 71)}.{random.randrange(3)}"),
        ("Content-Type", "application/json"),
    ]
    if compressed:
        lines.append(("Content-Encoding", "gzip"))
    return [
        *lines,
        ("accept", "*/*"),
        ("accept-language", "*"),
        ("sec-fetch-mode", "cors"),
        ("accept-encoding", "gzip, deflate"),
        ("content-length", str(body)),
    ]


# --- balancers -------------------------------------------------------------------------------------


def public_address(random: Random) -> str:
    """A client's address: mostly IPv4, sometimes IPv6 (documentation and benchmark networks)."""
    if random.random() < 0.15:
        return f"2001:db8:{random.randrange(1, 2**16):x}::{random.randrange(1, 2**16):x}"
    return f"198.{random.randrange(18, 20)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def chain(random: Random) -> str:
    """X-Forwarded-For as it arrives: what the client claimed (sometimes), the client, and behind it up to
    two of our own balancers in 10.0.0.0/8."""
    hops = [public_address(random)]
    if random.random() < 0.2:
        hops.insert(0, f"203.0.113.{random.randrange(256)}")
    inner = random.choices((0, 1, 2), (60, 30, 10))[0]
    hops += [
        f"10.{random.randrange(4)}.{random.randrange(256)}.{random.randrange(1, 255)}" for _ in range(inner)
    ]
    return ", ".join(hops)


def relayed(random: Random, lines: Lines) -> Lines:
    """The same request after a balancer: an AWS one, nginx or HAProxy."""
    kept = [(name, value) for name, value in lines if name.lower() not in ("connection", "host")]
    kind = random.choices(("alb", "nginx", "haproxy"), (50, 30, 20))[0]
    if kind == "alb":
        trace = f"Root=1-{hexadecimal(random, 8)}-{hexadecimal(random, 24)}"
        said = [
            ("X-Forwarded-For", chain(random)),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Port", "443"),
        ]
        return [*said, ("Host", HOST), ("X-Amzn-Trace-Id", trace), *kept]
    if kind == "nginx":
        return [("X-Forwarded-For", chain(random)), ("Host", HOST), ("X-Forwarded-Proto", "https"), *kept]
    lower = [(name.lower(), value) for name, value in kept]
    return [("host", HOST), *lower, ("x-forwarded-proto", "https"), ("x-forwarded-for", chain(random))]
