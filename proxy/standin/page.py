"""The page that shows what arrived: events, the client by each PostHog service, header lines.

One self-contained document, without a script it is complete as of its loading; with one it follows.
"""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING

from proxy.standin.assets import asset
from proxy.standin.client_ip import agree
from proxy.standin.timing import iso

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.standin.journal import Event

SHOWN = 50
"""Events on the page; the JSON has all that are kept."""

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)

SERVICES: Mapping[str, str] = {
    "capture": "ingestion",
    "flags": "feature flags",
    "django": "web app",
    "gate": "IP gate",
}

TOKEN = "phc_demo"

_STYLE = asset("page.css")
_SCRIPT = asset("page.js")


def js_snippet(api_host: str) -> str:
    """What a web page pastes to send events through ``api_host`` with posthog-js."""
    loader = (
        "!function(t,e){var o,n,p,r;e.__SV||(window.posthog=e,e._i=[],e.init=function(i,s,a){"
        "function g(t,e){t[e]=function(){t.push([e].concat(Array.prototype.slice.call(arguments,0)))}}"
        "(p=t.createElement('script')).async=!0,p.src=s.api_host+'/static/array.js',"
        "(r=t.getElementsByTagName('script')[0]).parentNode.insertBefore(p,r);var u=e;"
        "for(void 0!==a?u=e[a]=[]:a='posthog',u.people=u.people||[],"
        "o='capture identify alias reset set_config register opt_in_capturing opt_out_capturing "
        "isFeatureEnabled getFeatureFlag onFeatureFlags reloadFeatureFlags startSessionRecording'.split(' '),"
        "n=0;n<o.length;n++)g(u,o[n]);e._i.push([i,s,a])},e.__SV=1)}(document,window.posthog||[]);"
    )
    return (
        f"<script>\n{loader}\n"
        f"posthog.init({json.dumps(TOKEN)}, {{api_host: {json.dumps(api_host)}, defaults: '2025-11-30'}});\n"
        "posthog.capture('hello');\n</script>"
    )


def python_snippet(api_host: str) -> str:
    """The same with the Python SDK."""
    return (
        "from posthog import Posthog\n"
        f"posthog = Posthog({json.dumps(TOKEN)}, host={json.dumps(api_host)})\n"
        'posthog.capture("hello", distinct_id="me")\n'
        "posthog.shutdown()"
    )


def _table(noun: str, lines: Sequence[tuple[str, str]]) -> str:
    cells = (f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in lines)
    table = f"<table>{''.join(cells)}</table>"
    return f"<details><summary>{_counted(len(lines), noun)}</summary>{table}</details>"


def _services(ip: Mapping[str, str]) -> str:
    verdict = "good" if agree(ip.values()) else "bad"
    chips = (
        f"<li class={verdict}>{label} <b>{escape(ip[name]) or 'nobody'}</b></li>"
        for name, label in SERVICES.items()
    )
    note = "" if verdict == "good" else "<p class=bad>PostHog’s services disagree about the client.</p>"
    return f'<ul class=who aria-label="Client address by service">{"".join(chips)}</ul>{note}'


def _counted(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun.removesuffix('y')}ies" if noun.endswith("y") else f"{number} {noun}s"


def _article(event: Event) -> str:
    request = event.request
    properties = [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in event.properties.items()
    ]
    own = f" · filed under $ip {escape(event.ip)}" if event.ip != request.ip["capture"] else ""
    return (
        f"<article data-number={event.number}>"
        f"<div class=top><h2>{escape(event.name)}</h2>"
        f"<span class=soft>{iso(event.time)[11:23]}</span></div>"
        f"<p class=soft>{escape(event.distinct_id)} · {escape(request.method)} "
        f"{escape(request.target.partition('?')[0])} · {request.body_bytes} bytes{own}</p>"
        f"{_services(request.ip)}"
        f"{_table('header line', request.fields)}{_table('property', properties)}"
        "</article>"
    )


def _snippet(label: str, code: str) -> str:
    return f"<details><summary>{label}</summary><pre>{escape(code)}</pre></details>"


def events_page(events: Sequence[Event], total: int, api_host: str) -> str:
    """The whole document, newest event first. ``api_host`` is where the reader's browser reached us."""
    shown = "".join(_article(event) for event in reversed(events[-SHOWN:]))
    count = _counted(total, "event") if total else "no event yet"
    empty = "<p class=empty>Nothing yet. Send an event with the button above, or paste a snippet below.</p>"
    return (
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>What arrived at PostHog</title><style>{_STYLE}</style></head><body>"
        "<header><h1>What arrived at PostHog</h1>"
        f"<p class=soft><span id=count role=status>{count}</span> at the stand-in. "
        "Green: all of PostHog’s services see the same client. "
        "As JSON: <a href=/__standin__/events>events</a>, <a href=/__standin__/requests>requests</a>.</p>"
        "<button id=send type=button>Send an event from this page</button></header>"
        f"<main id=events data-shown={SHOWN} data-token={TOKEN}>{shown or empty}</main>"
        "<footer><h2>Send your own</h2>"
        f"{_snippet('posthog-js, in a page', js_snippet(api_host))}"
        f"{_snippet('the Python SDK', python_snippet(api_host))}"
        f"</footer><script>{_SCRIPT}</script></body></html>\n"
    )
