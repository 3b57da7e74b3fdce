from __future__ import annotations

from ipaddress import ip_network
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from proxy.config import notation
from proxy.config.notation import NotationError
from proxy.config.schema import Alias, TcpAddress, UnixAddress, UpstreamUrl

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize("word", ["true", "TRUE", "yes", "Y", "t", "on", "1", " true "])
def test_true_is_spelled_as_posthog_spells_it(word: str) -> None:
    assert notation.boolean(word) is True


@pytest.mark.parametrize("word", ["false", "No", "n", "F", "off", "0"])
def test_false_is_spelled_as_posthog_spells_it(word: str) -> None:
    assert notation.boolean(word) is False


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("65536", 65536),
        ("64KiB", 64 * 1024),
        ("64 kib", 64 * 1024),
        ("1.5MiB", 1536 * 1024),
        ("1GiB", 1024**3),
        ("1TiB", 1024**4),
        ("0", 0),
        ("12B", 12),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert notation.size(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("10", 10), ("0.5", 0.5), ("250ms", 0.25), ("1s", 1), ("5m", 300), ("1h", 3600), ("2 d", 172_800)],
)
def test_durations(text: str, value: float) -> None:
    assert notation.duration(text) == value


def test_plain_numbers() -> None:
    assert notation.whole(" 42 ") == 42
    assert notation.fraction("0.25") == 0.25


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", TcpAddress("127.0.0.1", 8000)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("[::]:65535", TcpAddress("::", 65535)),
        ("[2001:DB8:0::1]:80", TcpAddress("2001:db8::1", 80)),
        ("unix:/run/posthog.sock", UnixAddress("/run/posthog.sock")),
    ],
)
def test_listen_addresses(text: str, address: TcpAddress | UnixAddress) -> None:
    assert notation.listen_address(text) == address


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8001", UpstreamUrl(TcpAddress("127.0.0.1", 8001))),
        ("http://web/", UpstreamUrl(TcpAddress("web", 80))),
        ("HTTPS://US.i.posthog.com", UpstreamUrl(TcpAddress("us.i.posthog.com", 443), tls=True)),
        ("http://my_service:8000", UpstreamUrl(TcpAddress("my_service", 8000))),
        ("https://[::1]:8443", UpstreamUrl(TcpAddress("::1", 8443), tls=True)),
        ("unix:/run/gunicorn.sock", UpstreamUrl(UnixAddress("/run/gunicorn.sock"))),
    ],
)
def test_upstream_urls(text: str, url: UpstreamUrl) -> None:
    assert notation.upstream_url(text) == url


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.7", "10.0.0.7/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:0:0/95", None),
        ("::fffe:0:0/95", "::fffe:0:0/95"),
    ],
)
def test_networks(text: str, network: str | None) -> None:
    if network is None:
        with pytest.raises(NotationError, match="host bits"):
            notation.network(text)
    else:
        assert notation.network(text) == ip_network(network)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("*", "*"),
        ("Example.com", "example.com"),
        (".example.com", ".example.com"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "[::1]"),
    ],
)
def test_host_patterns(text: str, pattern: str) -> None:
    assert notation.host_pattern(text) == pattern


def test_names_and_paths() -> None:
    assert notation.header_name("CF-Connecting-IP") == "CF-Connecting-IP"
    assert notation.odd_header_name("X_Custom") == "X_Custom"
    assert notation.odd_header_name("X.Custom") == "X.Custom"
    assert notation.url_path("/_health") == "/_health"
    assert notation.request_target("/verify?rd=https://x/") == "/verify?rd=https://x/"
    for page in ("/oauth2/sign_in?x", "https://login.example.com/start", "http://login"):
        assert notation.sign_in_page(page) == page
    assert notation.realm("The app [staff]") == "The app [staff]"
    assert notation.route_path("/s*") == "/s*"
    assert notation.route_path("/s") == "/s"
    assert notation.upstream_name("replay-capture_2") == "replay-capture_2"
    assert [notation.sink(word) for word in ("stdout", "off", "./a.log")] == ["stdout", "off", "./a.log"]
    assert notation.file_path("ca.pem") == "ca.pem"
    assert notation.directory("./spool") == "./spool"


@pytest.mark.parametrize(
    ("read", "text", "reason"),
    [
        (notation.boolean, "maybe", "true or false"),
        (notation.whole, "-1", "whole number"),
        (notation.whole, "1_000", "whole number"),
        (notation.whole, "٣", "whole number"),
        pytest.param(notation.whole, "9" * 5000, "whole number", id="more digits than int() reads"),
        (notation.fraction, "1e3", "must be a number"),
        (notation.fraction, "nan", "must be a number"),
        (notation.size, "64MB", "20MiB"),
        (notation.size, "1.5", "whole number of bytes"),
        (notation.size, "", "whole number of bytes"),
        (notation.duration, "10 weeks", "5m or 1h"),
        (notation.duration, "-1s", "5m or 1h"),
        (notation.listen_address, "8000", "127.0.0.1:8000"),
        (notation.listen_address, ":8000", "0.0.0.0:8000"),
        (notation.listen_address, ":", "127.0.0.1:PORT"),
        (notation.listen_address, "127.0.0.1", "must have a port"),
        (notation.listen_address, "127.0.0.1:", "port from 0 to 65535"),
        (notation.listen_address, "127.0.0.1:65536", "port from 0 to 65535"),
        (notation.listen_address, "::1:80", "in brackets"),
        (notation.listen_address, "[::1:80", "close the bracket"),
        (notation.listen_address, "[::1]80", "close the bracket"),
        (notation.listen_address, "[localhost]:80", "IPv6 address in its brackets"),
        (notation.listen_address, "[fe80::1%eth0]:80", "without a zone"),
        (notation.listen_address, "127.1:80", "valid IPv4"),
        (notation.listen_address, "10.0.0.256:80", "valid IPv4"),
        (notation.listen_address, "unix:run/x", "absolute path"),
        (notation.listen_address, "unix:///run/x", "absolute path"),
        (notation.listen_address, "unix:/run/", "absolute path"),
        (notation.listen_address, "unix:/" + "é" * 60, "107 bytes"),
        (notation.upstream_url, "127.0.0.1:8001", "for example http://127.0.0.1:8001"),
        (notation.upstream_url, "ftp://x", "must begin with http://"),
        (notation.upstream_url, "", "must begin with http://, https:// or unix:/$"),
        (notation.upstream_url, "http://", "must name a host"),
        (notation.upstream_url, "http://x/posthog", "no path"),
        (notation.upstream_url, "http://x?a=1", "no path, query"),
        (notation.upstream_url, "http://x#a", "fragment"),
        (notation.upstream_url, "http://x\\y", "no path"),
        (notation.upstream_url, "http://user:secret@x", "user name or password"),
        (notation.upstream_url, "http://x:0", "port from 1 to 65535"),
        (notation.upstream_url, "http://x:http", "port from 1 to 65535"),
        (notation.upstream_url, "http://x:", "port from 1 to 65535"),
        (notation.upstream_url, "http://-x", "host name"),
        (notation.upstream_url, "http://x..y", "host name"),
        (notation.upstream_url, "http://" + "a." * 127 + "aa", "host name"),
        (notation.upstream_url, "http://" + "a" * 64, "host name"),
        (notation.upstream_url, "http://münchen.example", "xn--"),
        (notation.network, "10.0.0.1/8", "the network is 10.0.0.0/8, the single address is 10.0.0.1"),
        (notation.network, "10.0.0.0/255.0.0.0", "prefix length as a number"),
        (notation.network, "10.0.0.0/", "prefix length as a number"),
        (notation.network, "10.0.0.0/33", "at most 32"),
        (notation.network, "::/129", "at most 128"),
        (notation.network, "proxy.internal", "valid IPv4 or IPv6"),
        (notation.network, "010.0.0.1", "valid IPv4 or IPv6"),
        (notation.network, "fe80::1%eth0", "without a zone"),
        (notation.host_pattern, "*.example.com", r"must be written \.example\.com"),
        (notation.host_pattern, "https://example.com", "without http://"),
        (notation.host_pattern, "example.com:8000", "without a port"),
        (notation.host_pattern, "a b", "host name"),
        (notation.header_name, "X Forwarded", "header's name"),
        (notation.header_name, "", "header's name"),
        (notation.odd_header_name, "X-Custom", "needs no permission"),
        (notation.url_path, "health", "begin with /"),
        (notation.url_path, "/a?b", "without"),
        (notation.url_path, "/ü", "visible ASCII"),
        (notation.request_target, "auth", "begin with /"),
        (notation.request_target, "/a#b", "without #"),
        (notation.request_target, "/a b", "visible ASCII"),
        (notation.sign_in_page, "login", "begins with one /"),
        (notation.sign_in_page, "//evil.example/", "begins with one /"),
        (notation.sign_in_page, "https:///x", "begins with one /"),
        (notation.realm, 'a"b', "ASCII text"),
        (notation.realm, "a\\b", "ASCII text"),
        (notation.realm, "ü", "ASCII text"),
        (notation.route_path, "/a*b", "at the end"),
        (notation.route_path, "/a**", "at the end"),
        (notation.upstream_name, "Replay", "lower-case"),
        (notation.upstream_name, "a__b", "single"),
        (notation.upstream_name, "a" * 65, "at most 64"),
        (notation.sink, "stdotu", "stdout, stderr, journald, syslog"),
        (notation.sink, "", "stdout, stderr, journald, syslog"),
        (notation.sink, "/var/log/", "stdout, stderr, journald, syslog"),
        (notation.file_path, "", "file's path"),
        (notation.directory, "", "a / in it"),
        (notation.directory, "fallback", "a / in it"),
    ],
)
def test_a_wrong_text_says_what_would_be_right(read: Callable[[str], object], text: str, reason: str) -> None:
    with pytest.raises(NotationError, match=reason):
        read(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0B"),
        (1000, "1000B"),
        (1024, "1KiB"),
        (20 * 1024**2, "20MiB"),
        (3 * 1024**3, "3GiB"),
        (1024**4, "1TiB"),
    ],
)
def test_a_size_is_written_as_it_is_read(value: int, text: str) -> None:
    assert notation.size_text(value) == text
    assert notation.size(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0s"), (0.25, "0.25s"), (90, "90s"), (60, "60s"), (600, "10m"), (3600, "1h"), (604_800, "7d")],
)
def test_a_duration_is_written_as_it_is_read(value: float, text: str) -> None:
    assert notation.duration_text(value) == text
    assert notation.duration(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", '"plain"'),
        ("two\nlines\x1b[31m", '"two\\nlines\\x1b[31m"'),
        ("\udcff", '"\\udcff"'),
        ("x" * 300, '"' + "x" * 197 + '..."'),
        ("http://user:p@ss@host/", '"http://***@host/"'),
        (True, "true"),
        (False, "false"),
        (17, "17"),
        (1 << 128, "a value of type int"),
        (0.5, "0.5"),
        ([1, 2], "a list of 2"),
        ({}, "a table"),
        (MappingProxyType({}), "a table"),
        (b"x", "a value of type bytes"),
    ],
)
def test_a_value_is_shown_on_one_bounded_line(value: object, text: str) -> None:
    assert notation.shown(value) == text


def test_a_number_with_more_digits_than_python_writes_is_shown() -> None:
    assert notation.shown(10**5000) == "a value of type int"


def test_every_form_has_a_description_and_a_reader() -> None:
    for description, read in notation.FORMS.values():
        assert description
        assert callable(read)


@pytest.mark.parametrize("text", ["/k7-mirelo", "/a/b", "/a.b_c~d", "/_x"])
def test_a_prefix_of_aliases_is_whole_plain_segments(text: str) -> None:
    assert notation.alias_prefix(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "/", "x", "/x/", "//x", "/x//y", "/.x", "/..", "/x/..", "/x*", "/x%20", "/x;y", "/ü", "/x" * 101],
)
def test_other_prefixes_are_refused(text: str) -> None:
    with pytest.raises(NotationError, match="no slash at the end"):
        notation.alias_prefix(text)


@pytest.mark.parametrize(
    ("text", "alias"),
    [
        ("/x1=/e/", Alias("/x1", "/e/")),
        (" /x1/ = /e ", Alias("/x1/", "/e")),
        ("/a/lib.js=/static/array.js", Alias("/a/lib.js", "/static/array.js")),
    ],
)
def test_an_alias_is_two_paths(text: str, alias: Alias) -> None:
    assert notation.alias(text) == alias


@pytest.mark.parametrize(
    "text", ["", "/x1", "/x1/e/", "=", "/x=", "=/e", "/x=/e?a=b", "/x=/../e", "/=/e", "/x=/e="]
)
def test_other_aliases_are_refused(text: str) -> None:
    with pytest.raises(NotationError, match="must"):
        notation.alias(text)


@pytest.mark.parametrize(
    ("text", "front"),
    [("cloudflare", "cloudflare"), ("aws-alb", "aws-alb"), ("10.0.0.0/8", "10.0.0.0/8"), ("::1", "::1/128")],
)
def test_what_stands_in_front_is_a_word_or_a_network(text: str, front: str) -> None:
    assert notation.front(text) == front


@pytest.mark.parametrize("text", ["", "AWS", "aws_alb", "10.0.0.1/8", "a b", "-", "10.0.0"])
def test_other_fronts_are_refused(text: str) -> None:
    with pytest.raises(NotationError, match=r"must|host bits"):
        notation.front(text)
