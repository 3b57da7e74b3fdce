"""The page of what arrived."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from proxy.standin.journal import Event, Request
from proxy.standin.page import SHOWN, events_page, js_snippet, python_snippet

HOST = "http://127.0.0.1:8000"
HOSTILE = "<script>alert('x')</script>&\"'"
AGREED = dict.fromkeys(("capture", "flags", "django", "gate"), "203.0.113.7")


def event(number: int = 1, ip: dict[str, str] | None = None, **more: Any) -> Event:
    request = Request(
        number=number,
        arrived=1_700_000_000.0,
        method="POST",
        target="/e/?ip=1",
        version="1.1",
        peer="127.0.0.1",
        fields=(("X-Forwarded-For", HOSTILE),),
        ip=ip or AGREED,
        body_bytes=321,
    )
    values: dict[str, Any] = {
        "number": number,
        "token": "t",
        "name": f"event {number}",
        "distinct_id": "u",
        "uuid": "id",
        "time": 1_700_000_000.0,
        "properties": {"plan": HOSTILE, "count": 3},
        "ip": "203.0.113.7",
        "request": request,
    }
    return Event(**(values | more))


class Elements(HTMLParser):
    """The text of each element by its tag, and whether every tag that has to be closed is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "input", "br"}:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_whatever_arrived_is_shown_as_text() -> None:
    page = Elements(events_page([event(name=HOSTILE, distinct_id=HOSTILE)], 1, HOST))
    assert page.stack == []
    assert len(page.named("script")) == 1
    assert page.text.count(HOSTILE) == 4


def test_the_newest_comes_first_and_the_oldest_are_left_to_the_json() -> None:
    page = Elements(events_page([event(number) for number in range(1, 61)], 1060, HOST))
    numbers = [int(article["data-number"] or 0) for article in page.named("article")]
    assert numbers == list(range(60, 60 - SHOWN, -1))
    assert "1060 events" in page.text


def test_services_that_agree_are_told_from_those_that_do_not() -> None:
    assert "class=good" in events_page([event()], 1, HOST)
    page = events_page([event(ip=AGREED | {"gate": "403"})], 1, HOST)
    assert "class=bad" in page
    assert "class=good" not in page
    assert "disagree about the client" in page


def test_an_ip_that_the_event_names_is_pointed_out() -> None:
    stored = replace(event(), ip="198.51.100.1")
    assert "filed under $ip 198.51.100.1" in events_page([stored], 1, HOST)
    assert "filed under" not in events_page([event()], 1, HOST)


def test_counts_are_in_words_that_fit() -> None:
    text = Elements(events_page([event()], 1, HOST)).text
    assert "1 event at" in text
    assert "1 header line" in text
    assert "2 properties" in text


def test_nothing_yet() -> None:
    page = Elements(events_page([], 0, HOST))
    assert "no event yet" in page.text
    assert "Nothing yet" in page.text


def test_the_snippets_name_the_host_and_survive_a_strange_one() -> None:
    assert f'api_host: "{HOST}"' in js_snippet(HOST)
    assert f'host="{HOST}"' in python_snippet(HOST)
    compile(python_snippet(HOST), "snippet", "exec")
    page = Elements(events_page([], 0, f"http://{HOSTILE}"))
    assert len(page.named("script")) == 1
