"""The document of the status page."""

from __future__ import annotations

import base64
import hashlib
import json
import re

from proxy.admin.endpoints import Endpoints
from proxy.admin.page import POLICY, status_page
from tests.support.facts import PlainFacts


def page(reason: str = "") -> str:
    facts = PlainFacts()
    facts.words["upstreams"]["web"] = {"url": "http://web", "reason": reason}
    return status_page(Endpoints(facts, facts.clock).figures())


def test_nothing_comes_from_outside() -> None:
    assert re.findall(r"(?:src|href)=[\"']?(?!/)", page()) == []
    assert "http://web" in page()
    assert "import(" not in page()


def test_the_policy_names_just_its_own_script_and_style() -> None:
    text = page()
    for tag, source in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in POLICY
    assert "unsafe" not in POLICY


def test_what_an_upstream_says_cannot_end_the_data() -> None:
    reason = "</script><script>alert(1)</script><!--"
    text = page(reason)
    assert text.count("<script") == 2
    (data,) = re.findall(r"type=application/json>(.*?)</script>", text, re.DOTALL)
    assert json.loads(data)["upstreams"][0]["reason"] == reason
