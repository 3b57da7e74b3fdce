from __future__ import annotations

import pytest

from proxy.config.values import Alias, TcpAddress, UnixAddress, UpstreamUrl


def test_addresses_are_written_as_they_are_read() -> None:
    assert str(TcpAddress("127.0.0.1", 80)) == "127.0.0.1:80"
    assert str(TcpAddress("::1", 80)) == "[::1]:80"
    assert str(UnixAddress("/run/x")) == "unix:/run/x"
    assert str(Alias("/x1", "/e/")) == "/x1=/e/"


@pytest.mark.parametrize(
    ("url", "authority", "text"),
    [
        (UpstreamUrl(TcpAddress("web", 80)), "web", "http://web"),
        (UpstreamUrl(TcpAddress("web", 443)), "web:443", "http://web:443"),
        (UpstreamUrl(TcpAddress("web", 443), tls=True), "web", "https://web"),
        (UpstreamUrl(TcpAddress("::1", 80)), "[::1]", "http://[::1]"),
        (UpstreamUrl(TcpAddress("::1", 8443), tls=True), "[::1]:8443", "https://[::1]:8443"),
        (UpstreamUrl(UnixAddress("/run/x")), "localhost", "unix:/run/x"),
    ],
)
def test_an_upstream_names_itself(url: UpstreamUrl, authority: str, text: str) -> None:
    assert url.authority == authority
    assert str(url) == text
