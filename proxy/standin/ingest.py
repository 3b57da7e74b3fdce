"""The endpoints that take events, with PostHog's caps and answers (PostHog fact: endpoint classes)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

from aiohttp import web

from proxy.standin.arrival import MIB, RECORD, bearer, both_forms, read_body, refusal
from proxy.standin.bodies import BodyError, Payload, decode, decode_v1, query_of
from proxy.standin.bodies import Event as Decoded
from proxy.standin.journal import Event, Journal, Request, bounded_properties
from proxy.standin.timing import event_time, parse_millis, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator

V0 = {
    "/e": 2 * MIB,
    "/capture": 2 * MIB,
    "/track": 2 * MIB,
    "/engage": 2 * MIB,
    "/i/v0/e": 2 * MIB,
    "/batch": 20 * MIB,
    "/i/v0/ai/batch": 20 * MIB,
    "/s": 25 * MIB,
}
"""Path to the largest body on the wire, in bytes."""

V1 = "/i/v1/analytics/events"
V1_CAP = 10 * MIB
V1_HEADERS = ("PostHog-Sdk-Info", "PostHog-Request-Id", "PostHog-Request-Timestamp", "PostHog-Attempt")
"""Lines without which capture v1 refuses a batch: a proxy that loses one is found out."""

OPAQUE = ("/i/v0/ai", "/i/v0/ai/otel", "/i/v1/logs", "/i/v1/traces", "/i/v1/metrics", "/report")
"""Endpoints whose bodies are not events (OTLP, multipart, CSP reports): taken and counted."""

OK = b'{"status":"Ok"}'
"""The one answer that all SDKs take for success on v0 (PostHog fact: status table)."""


class Ingest:
    """Decodes what arrives and writes it into the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def routes(self) -> Iterator[web.RouteDef]:
        for name in V0:
            for path in both_forms(name):
                yield web.post(path, self._v0)
                yield web.get(path, self._v0)
        for path in both_forms(V1):
            yield web.post(path, self._v1)
        for name in OPAQUE:
            for path in both_forms(name):
                yield web.post(path, self._opaque)

    async def _v0(self, request: web.Request) -> web.Response:
        body = await read_body(request, V0[request.path.rstrip("/")])
        if body is None:
            return refusal(413, "payload too large")
        headers = request.headers
        query = request.rel_url.raw_query_string
        try:
            payload = decode(
                body, query, headers.get("Content-Type", ""), headers.get("Content-Encoding", "")
            )
        except BodyError as error:
            return refusal(error.status, error.detail)
        params = query_of(query)
        sent_at = parse_time(payload.sent_at)
        if sent_at is None:
            sent_at = parse_millis(params.get("sent_at", params.get("_")))
        self._store(request[RECORD], payload, sent_at)
        return web.Response(body=OK, content_type="application/json")

    async def _v1(self, request: web.Request) -> web.Response:
        token = bearer(request)
        if token is None:
            return refusal(401, "no Authorization: Bearer")
        for name in V1_HEADERS:
            if name not in request.headers:
                return refusal(400, f"missing header {name}")
        body = await read_body(request, V1_CAP)
        if body is None:
            return refusal(413, "payload too large")
        try:
            payload = decode_v1(body, request.headers.get("Content-Encoding", ""), token)
        except BodyError as error:
            return refusal(error.status, error.detail)
        sent_at = parse_time(request.headers["PostHog-Request-Timestamp"])
        self._store(request[RECORD], payload, sent_at)
        return web.json_response({"results": {event["uuid"]: {"result": "ok"} for event in payload.events}})

    async def _opaque(self, request: web.Request) -> web.Response:
        if await read_body(request, 20 * MIB) is None:
            return refusal(413, "payload too large")
        return web.Response(body=OK, content_type="application/json")

    def _store(self, record: Request, payload: Payload, sent_at: float | None) -> None:
        for decoded in payload.events:
            event, size = _as_stored(self._journal.event_count + 1, record, payload.token, decoded, sent_at)
            self._journal.add_event(event, size)


def _as_stored(
    number: int, record: Request, token: str, decoded: Decoded, sent_at: float | None
) -> tuple[Event, int]:
    given = decoded.get("properties")
    properties: dict[str, Any] = given if isinstance(given, dict) else {}
    distinct_id = decoded.get("distinct_id") or properties.get("distinct_id") or ""
    kept, size = bounded_properties(properties)
    stored = Event(
        number=number,
        token=token,
        name=decoded["event"],
        distinct_id=str(distinct_id),
        uuid=str(decoded.get("uuid") or uuid4()),
        time=event_time(record.arrived, parse_time(decoded.get("timestamp")), sent_at, decoded.get("offset")),
        properties=kept,
        ip=str(properties.get("$ip") or record.ip["capture"]),
        request=record,
    )
    return stored, size
