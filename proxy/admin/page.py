"""The status page: one document, nothing from outside, drawn by its own script from the figures.

The figures of the first look stand in the document; the later ones come as events. What they say becomes
text, never markup, and only this script may run (a hash in the Content-Security-Policy).
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

from proxy.admin.assets import asset

if TYPE_CHECKING:
    from proxy.admin.figures import Figures

_STYLE = asset("status.css")
_SCRIPT = asset("status.js")


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEAD = (
    "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
    '<meta name=viewport content="width=device-width, initial-scale=1">'
    '<meta name=color-scheme content="light dark">'
    f"<title>posthog-proxy</title><style>{_STYLE}</style></head><body>"
    "<header><h1>posthog-proxy</h1><p id=state role=status></p><p id=live class=soft></p></header>"
    "<main id=main></main>"
    "<noscript><p>This page is drawn by its script; the figures are at "
    "<a href=/status.json>/status.json</a>.</p></noscript>"
    "<footer class=soft><a href=/status.json>JSON</a> · <a href=/metrics>metrics</a> · "
    "<a href=/config>configuration</a></footer>"
    "<script id=figures type=application/json>"
)

_TAIL = f"</script><script>{_SCRIPT}</script></body></html>\n"


def status_page(figures: Figures) -> str:
    """Return the document."""
    data = json.dumps(figures).replace("<", "\\u003c")  # no end tag in it
    return f"{_HEAD}{data}{_TAIL}"
