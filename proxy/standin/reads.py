"""The endpoints that SDKs read: flags, definitions, remote config, scripts."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.standin import payloads
from proxy.standin.arrival import MIB, bearer, both_forms, read_body, refusal
from proxy.standin.assets import asset
from proxy.standin.bodies import BodyError, query_of, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_VERSION_FOLDER = re.compile(r"^\d+\.\d+\.\d+[^/]*/")
_PLAIN_NAME = re.compile(r"^[\w-][\w.-]*(?:/[\w-][\w.-]*)*$")
_TOKEN = "{token:[A-Za-z0-9_-]+}"

CONFIG_HEADERS = {"Cache-Control": "public, max-age=300", "Vary": "Origin, Referer"}


class Reads:
    """``static`` is a folder of posthog-js's built files (the npm package's `dist`); without it a very
    small array.js of our own is served."""

    def __init__(self, static: Path | None) -> None:
        self._static = static
        own = static / "array.js" if static is not None else None
        if own is not None and own.is_file():
            self._array_js = own.read_text("utf-8")
        else:
            self._array_js = asset("array.js")

    def routes(self) -> Iterator[web.RouteDef]:
        for name in ("/flags", "/decide"):
            for path in both_forms(name):
                yield web.post(path, self._flags)
                yield web.get(path, self._no_flags)
        for name in ("/flags/definitions", "/api/feature_flag/local_evaluation"):
            for path in both_forms(name):
                yield web.get(path, self._definitions)
        for path in both_forms("/api/projects/@current/feature_flags/{key}/remote_config"):
            yield web.get(path, self._payload)
        yield web.get(f"/array/{_TOKEN}/config", self._config)
        yield web.get(f"/array/{_TOKEN}/config.js", self._config_script)
        yield web.get(f"/array/{_TOKEN}/array.js", self._array)
        yield web.get("/static/{name:.*}", self._file)
        for name in payloads.READS:
            for path in both_forms(name):
                yield web.get(path, self._read)

    async def _flags(self, request: web.Request) -> web.Response:
        body = await read_body(request, 2 * MIB)
        if body is None:
            return refusal(413, "payload too large")
        headers = request.headers
        query = request.rel_url.raw_query_string
        try:
            unwrap(body, query, headers.get("Content-Type", ""), headers.get("Content-Encoding", ""))
        except BodyError as error:
            return refusal(error.status, error.detail)
        return web.json_response(payloads.flags(_version(request), _request_id(request)))

    async def _no_flags(self, request: web.Request) -> web.Response:
        return web.json_response(payloads.flags(_version(request), _request_id(request), empty=True))

    async def _definitions(self, request: web.Request) -> web.Response:
        if bearer(request) is None:
            return refusal(401, "authentication credentials were not provided")
        body = json.dumps(payloads.definitions()).encode()
        tag = payloads.etag(body)
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers={"ETag": tag})
        return web.Response(body=body, content_type="application/json", headers={"ETag": tag})

    async def _payload(self, request: web.Request) -> web.Response:
        if bearer(request) is None:
            return refusal(401, "authentication credentials were not provided")
        payload = payloads.PAYLOADS.get(request.match_info["key"])
        return refusal(404, "not found") if payload is None else web.json_response(payload)

    async def _config(self, request: web.Request) -> web.Response:
        return web.json_response(payloads.remote_config(request.match_info["token"]), headers=CONFIG_HEADERS)

    async def _config_script(self, request: web.Request) -> web.Response:
        return _script(payloads.config_script(request.match_info["token"]))

    async def _array(self, request: web.Request) -> web.Response:
        return _script(payloads.config_script(request.match_info["token"]) + self._array_js)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = _VERSION_FOLDER.sub("", request.match_info["name"])
        if _PLAIN_NAME.match(name) and self._static is not None:
            path = self._static / name
            if path.is_file():
                return web.FileResponse(path, headers={"Cache-Control": "public, max-age=86400"})
        if name == "array.js":
            return _script(self._array_js)
        return refusal(404, "no such file")

    async def _read(self, request: web.Request) -> web.Response:
        return web.json_response(payloads.READS[request.path.rstrip("/")])


def _script(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/javascript", headers=CONFIG_HEADERS)


def _version(request: web.Request) -> int:
    """`v=`; an SDK that says nothing gets the latest form."""
    given = query_of(request.rel_url.raw_query_string).get("v", "2")
    return int(given) if given.isascii() and given.isdigit() else 1


def _request_id(request: web.Request) -> str:
    return payloads.request_id(request.headers.get("X-Request-Id"))
