"""Requests, and the answers to them, that a proxy before PostHog meets: sent raw, compared byte for byte.

Each ``Case`` is one exchange on a connection of its own. ``source`` is the local address of the client:
127.0.0.1 is a trusted proxy for us, ``STRANGER`` is nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

HOST = b"posthog.example.test"
TRUSTED = "127.0.0.1"
STRANGER = "127.0.0.77"


def request(line: str, *fields: str, body: bytes = b"", host: bytes | None = HOST) -> bytes:
    """Build a request from its line (`GET /path`, HTTP/1.1 unless it says) and its header lines."""
    if " HTTP/" not in line:
        line += " HTTP/1.1"
    lines = [line.encode("latin-1")]
    if host is not None:
        lines.append(b"Host: " + host)
    lines += [field.encode("latin-1") for field in fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def answer(line: str, *fields: str, body: bytes = b"", length: bool = True) -> bytes:
    """Build an answer from its status (`200 OK`, HTTP/1.1 unless it says) and its header lines.

    It has a Date of the day before, which a proxy's own clock never gives, and a Server.
    """
    if not line.startswith("HTTP/"):
        line = "HTTP/1.1 " + line
    lines = [line, "Date: Tue, 24 Nov 2026 10:00:00 GMT", "Server: upstream", *fields]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


OK = answer("200 OK", "Content-Type: text/plain", body=b"ok")


@dataclass(frozen=True, slots=True)
class Case:
    """One exchange: what the client sends and what the upstream answers."""

    name: str
    request: bytes
    answer: bytes = OK
    source: str = TRUSTED


def chunked(*pieces: bytes, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    """Encode a chunked body."""
    chunks = [b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces]
    return b"".join(chunks) + b"0\r\n" + trailers + b"\r\n"


EVENT = b'{"api_key":"phc_test","event":"$pageview","distinct_id":"u1","properties":{"$ip":"203.0.113.9"}}'
LARGE = bytes(range(256)) * 1200  # 300 KiB: above what is held before an upstream is asked for


def length(body: bytes) -> str:
    return f"Content-Length: {len(body)}"


TARGETS = {
    "root": "/",
    "query": "/e/?ip=1&_=1700000000000&ver=1.449.0",
    "empty-query": "/flags/?",
    "question-marks": "/x?a=?b=??",
    "query-escapes": "/x?q=%7B%22a%22%3A1%7D&lower=%7b&plus=a+b",
    "query-broken-escapes": "/x?q=%zz&r=%&s=%4",
    "path-escapes": "/a%20b/%E2%9C%93/%41%7E",
    "double-slash": "//e//",
    "dot-segment": "/a/./b",
    "sub-delims": "/a;v=1,2/b:c@d/e!$&'()*+=~-._f",
    "no-trailing-slash": "/capture",
    "trailing-slash": "/capture/",
    "long-query": "/e/?data=" + "A" * 12_000,
    "quotes-and-braces": '/x?j={"a":[1|2]}&b=<c>^`',
}

REQUESTS = [Case(f"target-{name}", request(f"GET {target}")) for name, target in TARGETS.items()] + [
    Case("head", request("HEAD /static/array.js"), answer("200 OK", "Content-Type: text/javascript")),
    Case("put", request("PUT /api/x", length(EVENT), body=EVENT)),
    Case("patch", request("PATCH /api/x", length(EVENT), body=EVENT)),
    Case("delete", request("DELETE /api/x")),
    Case("delete-with-body", request("DELETE /api/x", length(EVENT), body=EVENT)),
    Case("get-with-body", request("GET /api/x", length(EVENT), body=EVENT)),
    Case("options-star", request("OPTIONS *")),
    Case("unknown-method", request("PROPFIND /api/x")),
    Case("post", request("POST /batch/", "Content-Type: application/json", length(EVENT), body=EVENT)),
    Case("post-empty", request("POST /e/", "Content-Length: 0")),
    Case("post-without-length", request("POST /e/")),
    Case("post-large", request("POST /s/", length(LARGE), body=LARGE)),
    Case(
        "post-chunked",
        request("POST /e/", "Transfer-Encoding: chunked", body=chunked(EVENT[:10], EVENT[10:])),
    ),
    Case(
        "post-chunked-large",
        request("POST /s/", "Transfer-Encoding: chunked", body=chunked(LARGE[:100_000], LARGE[100_000:])),
    ),
    Case(
        "post-chunked-extensions",
        request(
            "POST /e/",
            "Transfer-Encoding: chunked",
            "Trailer: X-Forwarded-For",
            body=chunked(EVENT, extension=b";name=value", trailers=b"X-Forwarded-For: 6.6.6.6\r\n"),
        ),
    ),
    Case(
        "post-expecting-100",
        request("POST /e/", "Expect: 100-continue", length(EVENT), body=EVENT),
    ),
    Case(
        "beacon",
        request(
            "POST /e/?compression=gzip-js&beacon=1",
            "Content-Type: text/plain",
            "Origin: https://shop.example.test",
            "Referer: https://shop.example.test/",
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
            "Accept-Encoding: gzip, deflate, br, zstd",
            "Content-Length: 4",
            body=b"\x1f\x8b\x08\x00",
        ),
    ),
    Case(
        "preflight",
        request(
            "OPTIONS /e/",
            "Origin: https://shop.example.test",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: content-type,x-custom",
        ),
        answer(
            "200 OK",
            "Access-Control-Allow-Origin: https://shop.example.test",
            "Access-Control-Allow-Credentials: true",
            "Access-Control-Allow-Headers: content-type,x-custom",
            "Vary: Origin",
        ),
    ),
    Case("cookie", request("GET /", "Cookie: sessionid=abc; csrftoken=d=e; ph_x=%7B%22a%22%7D")),
    Case("cookies-in-two-lines", request("GET /", "Cookie: a=1", "Cookie: b=2")),
    Case("cookie-large", request("GET /", "Cookie: big=" + "c" * 20_000)),
    Case("duplicate-names", request("GET /", "X-Tag: 1", "Accept: a/b", "X-Tag: 2", "x-tag: 1")),
    Case("value-empty", request("GET /", "X-Empty:", "X-Blank:    ")),
    Case("value-blanks", request("GET /", "X-Tabs: a\tb", "X-Outer: \t padded \t ", "X-Tight:tight")),
    Case("value-latin-1", request("GET /", "X-Name: J\xfcrgen", "Referer: https://x.test/\xe4")),
    Case("name-case", request("GET /", "x-lower: 1", "X-UPPER: 2", "x-MiXeD: 3", "ACCEPT: */*")),
    Case("name-underscore", request("GET /", "X_Forwarded_For: 6.6.6.6", "my_header: 1")),
    Case("name-dot", request("GET /", "X.Forwarded.For: 6.6.6.6")),
    Case("name-unusual-token", request("GET /", "X!Y~Z: 1", "X-Plain: 2")),
    Case("many-lines", request("GET /", *(f"X-Line-{number}: {number}" for number in range(100)))),
    Case(
        "hop-by-hop",
        request(
            "GET /",
            "Connection: keep-alive, X-Hop",
            "X-Hop: 1",
            "Keep-Alive: timeout=5",
            "TE: trailers",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic eDp5",
            "X-Kept: 1",
        ),
    ),
    Case(
        "connection-names-our-headers",
        request("GET /", "Connection: X-Forwarded-For, X-Forwarded-Proto, Host, Cookie", "Cookie: a=1"),
    ),
    Case("connection-close", request("GET /", "Connection: close")),
    Case(
        "client-address-headers",
        request(
            "GET /",
            "X-Real-IP: 6.6.6.6",
            "X-Client-IP: 6.6.6.6",
            "X-Cluster-Client-IP: 6.6.6.6",
            "True-Client-IP: 6.6.6.6",
            "CF-Connecting-IP: 6.6.6.6",
            "Fly-Client-IP: 6.6.6.6",
            "CloudFront-Viewer-Address: 6.6.6.6:1",
            "Forwarded: for=6.6.6.6;proto=https",
            "X-PostHog-Client-IP: 6.6.6.6",
            "X-Original-Forwarded-For: 6.6.6.6",
            "X-Forwarded-Prefix: /evil",
            "X-Original-URL: /admin",
            "X-HTTP-Method-Override: DELETE",
        ),
    ),
    Case("chain-of-one", request("GET /", "X-Forwarded-For: 203.0.113.7")),
    Case("chain-of-two", request("GET /", "X-Forwarded-For: 203.0.113.7, 127.0.0.1")),
    Case(
        "chain-in-two-lines", request("GET /", "X-Forwarded-For: 203.0.113.7", "X-Forwarded-For: 127.0.0.1")
    ),
    Case("chain-ipv6", request("GET /", "X-Forwarded-For: 2001:db8::7")),
    Case("chain-with-port", request("GET /", "X-Forwarded-For: 203.0.113.7:51234")),
    Case("chain-behind-a-lie", request("GET /", "X-Forwarded-For: 6.6.6.6, 203.0.113.7")),
    Case("chain-garbage", request("GET /", "X-Forwarded-For: unknown")),
    Case("proto-from-trusted", request("GET /", "X-Forwarded-Proto: https")),
    Case("stranger", request("GET /"), source=STRANGER),
    Case("stranger-lies", request("GET /", "X-Forwarded-For: 6.6.6.6"), source=STRANGER),
    Case("stranger-lies-about-proto", request("GET /", "X-Forwarded-Proto: https"), source=STRANGER),
    Case("host-with-port", request("GET /", host=HOST + b":8443")),
    Case("host-mixed-case", request("GET /", host=b"PostHog.Example.TEST")),
    Case("host-ipv6", request("GET /", host=b"[2001:db8::1]:8000")),
    Case("absolute-form", request("GET http://posthog.example.test/e/?a=1")),
    Case("fragment", request("GET /e/#fragment")),
    Case("dot-dot-segment", request("GET /a/../b")),
    Case("encoded-dot-dot", request("GET /a/%2e%2e/b")),
    Case("encoded-slash", request("GET /api%2Fprojects")),
    Case("utf-8-in-target", request("GET /caf\xc3\xa9")),
    Case("leading-empty-line", b"\r\n" + request("GET /")),
    Case("http-1.0", request("GET / HTTP/1.0")),
    Case("http-1.0-without-host", request("GET / HTTP/1.0", host=None)),
    Case("http-1.0-keep-alive", request("GET / HTTP/1.0", "Connection: keep-alive")),
    Case("http-1.0-post", request("POST /e/ HTTP/1.0", length(EVENT), body=EVENT)),
    Case("authorization", request("GET /api/projects/@current", "Authorization: Bearer phx_secret")),
    Case("range", request("GET /static/array.js", "Range: bytes=0-9", 'If-Range: "tag"')),
    Case(
        "capture-v1",
        request(
            "POST /i/v1/analytics/events",
            "Authorization: Bearer phc_test",
            "Content-Encoding: gzip",
            "PostHog-Request-Timestamp: 2026-11-25T00:00:00Z",
            "PostHog-Attempt: 1",
            length(EVENT),
            body=EVENT,
        ),
    ),
]

ANSWERS = [
    Case("answer-204", request("GET /"), answer("204 No Content", length=False)),
    Case(
        "answer-304",
        request("GET /array/phc_test/config", 'If-None-Match: "v1"'),
        answer("304 Not Modified", 'ETag: "v1"', "Cache-Control: max-age=300", length=False),
    ),
    Case("answer-404", request("GET /nothing"), answer("404 Not Found", body=b"no")),
    Case("answer-500", request("GET /"), answer("500 Internal Server Error", body=b"oops")),
    Case(
        "answer-503",
        request("GET /"),
        answer("503 Service Unavailable", "Retry-After: 7", body=b"busy"),
    ),
    Case("answer-own-reason", request("GET /"), answer("299 Own Words", body=b"x")),
    Case("answer-without-reason", request("GET /"), answer("200 ", body=b"x")),
    Case(
        "answer-redirect",
        request("GET /login"),
        answer("302 Found", "Location: http://127.0.0.1:8000/login?next=/%2F&x=a+b", "Refresh: 0; url=/x"),
    ),
    Case("answer-relative-redirect", request("GET /x"), answer("301 Moved Permanently", "Location: ../y?#z")),
    Case(
        "answer-set-cookie-twice",
        request("GET /"),
        answer("200 OK", "Set-Cookie: a=1; Path=/; Secure", "X-Between: 1", "Set-Cookie: b=2; HttpOnly"),
    ),
    Case(
        "answer-chunked",
        request("GET /"),
        answer("200 OK", "Transfer-Encoding: chunked", length=False) + chunked(b"first", b"second"),
    ),
    Case(
        "answer-chunked-extensions",
        request("GET /"),
        answer("200 OK", "Transfer-Encoding: chunked", "Trailer: X-Sum", length=False)
        + chunked(b"first", extension=b";a=b", trailers=b"X-Sum: 1\r\n"),
    ),
    Case(
        "answer-until-close",
        request("GET /"),
        answer("200 OK", "Connection: close", length=False) + b"until the end",
    ),
    Case("answer-http-1.0", request("GET /"), answer("HTTP/1.0 200 OK", body=b"old")),
    Case(
        "answer-chunked-to-http-1.0",
        request("GET / HTTP/1.0"),
        answer("200 OK", "Transfer-Encoding: chunked", length=False) + chunked(b"first", b"second"),
    ),
    Case("answer-connection-close", request("GET /"), answer("200 OK", "Connection: close", body=b"bye")),
    Case(
        "answer-hop-by-hop",
        request("GET /"),
        answer(
            "200 OK",
            "Connection: X-Hop",
            "X-Hop: 1",
            "Keep-Alive: timeout=2",
            "Proxy-Connection: keep-alive",
            "Upgrade: h2c",
            body=b"x",
        ),
    ),
    Case(
        "answer-head-with-length",
        request("HEAD /x"),
        answer("200 OK", length=False)[:-2] + b"Content-Length: 5000\r\n\r\n",
    ),
    Case(
        "answer-head-chunked",
        request("HEAD /x"),
        answer("200 OK", "Transfer-Encoding: chunked", length=False),
    ),
    Case(
        "answer-gzip",
        request("GET /static/array.js", "Accept-Encoding: gzip"),
        answer(
            "200 OK",
            "Content-Encoding: gzip",
            "Vary: Accept-Encoding",
            "Content-Type: text/javascript",
            body=b"\x1f\x8b\x08\x00not really",
        ),
    ),
    Case("answer-large", request("GET /static/array.js"), answer("200 OK", body=LARGE * 4)),
    Case(
        "answer-large-head",
        request("GET /"),
        answer("200 OK", *(f"X-Big-{number}: {'v' * 1000}" for number in range(20)), body=b"x"),
    ),
    Case(
        "answer-partial",
        request("GET /x", "Range: bytes=0-3"),
        answer("206 Partial Content", "Content-Range: bytes 0-3/10", "Accept-Ranges: bytes", body=b"abcd"),
    ),
    Case(
        "answer-validators",
        request("GET /x"),
        answer(
            "200 OK",
            'ETag: W/"a"',
            "Last-Modified: Tue, 24 Nov 2026 10:00:00 GMT",
            "Expires: Wed, 25 Nov 2026 10:00:00 GMT",
            "Cache-Control: public, max-age=60",
            body=b"x",
        ),
    ),
    Case(
        "answer-cors",
        request("POST /e/", "Origin: https://shop.example.test", length(EVENT), body=EVENT),
        answer(
            "200 OK",
            "Access-Control-Allow-Origin: https://shop.example.test",
            "Access-Control-Allow-Credentials: true",
            "Vary: Origin",
            "Content-Type: application/json",
            body=b'{"status":"Ok"}',
        ),
    ),
    Case(
        "answer-accel",
        request("GET /events"),
        answer("200 OK", "X-Accel-Buffering: no", "Content-Type: text/event-stream", body=b"data: 1\n\n"),
    ),
    Case("answer-underscore-name", request("GET /"), answer("200 OK", "X_Odd: 1", "X.Dot: 2", body=b"x")),
    Case(
        "answer-both-lengths",
        request("GET /"),
        answer("200 OK", "Transfer-Encoding: chunked", "Content-Length: 3", length=False) + chunked(b"abc"),
    ),
    Case("answer-bare-line-feeds", request("GET /"), answer("200 OK", body=b"x").replace(b"\r\n", b"\n")),
]

CORPUS = REQUESTS + ANSWERS
