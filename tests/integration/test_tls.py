"""TLS that ends at the proxy: curl, openssl and the Python SDK as clients, nginx as an upstream that asks for
a certificate, renewal while a request runs."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.integration.conftest import SITE
from tests.support import servers
from tests.support.curl import CurlResult, curl
from tests.support.parts import find
from tests.support.process import ROOT
from tests.support.tls import self_signed, signed_by
from tests.support.wire import RawUpstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.tls import Certificate

pytestmark = pytest.mark.needs("curl", "openssl")

LARGE = bytes(range(256)) * 4 * 4096
OTHER = "other.example.test"


@dataclass(frozen=True, slots=True)
class Secure:
    """A proxy with a plain and a TLS listener."""

    proxy: servers.RunningProxy
    plain: str
    tls: str

    def get(
        self, *arguments: str | Path, path: str = "/__standin__/echo", name: str = SITE, **trust: Path
    ) -> CurlResult:
        """Ask for ``name`` with curl; ``authority``: the certificate to trust."""
        words: list[str | Path] = ["--connect-to", f"{name}:443:{self.tls}", "--http1.1"]
        words += ["--cacert", trust["authority"]]
        return curl(*words, *arguments, f"https://{name}{path}")

    @property
    def tls_address(self) -> tuple[str, int]:
        host, _, port = self.tls.rpartition(":")
        return host, int(port)


@contextmanager
def running(upstream: str, certificate: Certificate, *arguments: str | Path) -> Iterator[Secure]:
    words = ("--tls-cert", certificate.certificate, "--tls-key", certificate.key, *arguments)
    with servers.posthog_proxy(upstream, "--listen-tls", "127.0.0.1:0", *words) as proxy:
        plain, tls = servers.listening(proxy.process, 2)
        yield Secure(proxy, plain, tls)


@pytest.fixture(scope="module")
def standin() -> Iterator[str]:
    with servers.standin() as url:
        yield url


@pytest.fixture(scope="module")
def secure(standin: str, certificate: Certificate) -> Iterator[Secure]:
    with running(standin, certificate) as started:
        yield started


def s_client(secure: Secure, *words: str, said: bytes = b"") -> str:
    """Run `openssl s_client`; return all that it wrote."""
    command = [find("openssl"), "s_client", "-connect", secure.tls, *words]
    done = subprocess.run(command, input=said, capture_output=True, timeout=20, check=False)
    return (done.stdout + done.stderr).decode("utf-8", "backslashreplace")


class TestCurl:
    @pytest.mark.parametrize("version", ["1.2", "1.3"])
    def test_the_upstream_hears_of_https(
        self, secure: Secure, certificate: Certificate, version: str
    ) -> None:
        authority = certificate.certificate
        path = "/__standin__/echo"
        result = secure.get("--tls-max", version, f"--tlsv{version}", path=path, authority=authority)
        assert result.status == 200, result
        fields = dict(json.loads(result.body)["fields"])
        assert (fields["X-Forwarded-Proto"], fields["X-Forwarded-Port"]) == ("https", "443")

    def test_older_versions_are_refused(self, secure: Secure) -> None:
        said = s_client(secure, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
        assert "no peer certificate available" in said
        secure.proxy.process.wait_for_lines('"handshake_failed","reason":"version"')

    def test_a_client_that_only_offers_h2_gets_no_alpn_and_a_505(self, secure: Secure) -> None:
        said = s_client(secure, "-alpn", "h2", "-ign_eof", said=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert "No ALPN negotiated" in said
        assert "HTTP/1.1 505 " in said

    def test_no_renegotiation(self, secure: Secure) -> None:
        command = [find("openssl"), "s_client", "-connect", secure.tls, "-tls1_2"]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"R\n")  # its command for it, at the beginning of a line
            client.stdin.flush()
            assert b"no renegotiation" in client.stdout.read()

    def test_a_session_comes_back(self, secure: Secure, tmp_path: Path) -> None:
        session = str(tmp_path / "session")
        request = f"GET /e/ HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n\r\n".encode()
        assert "New, TLSv1.3" in s_client(secure, "-sess_out", session, "-ign_eof", said=request)
        assert "Reused, TLSv1.3" in s_client(secure, "-sess_in", session, "-ign_eof", said=request)

    def test_plain_http_is_told_what_is_spoken(self, secure: Secure) -> None:
        result = curl("--data", "x", f"http://{secure.tls}/e/")
        assert result.status == 400
        assert json.loads(result.body)["code"] == "http_on_tls_port"

    def test_large_bodies_both_ways(self, certificate: Certificate, tmp_path: Path) -> None:
        large = tmp_path / "large"
        large.write_bytes(LARGE)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(LARGE), LARGE)
        with RawUpstream(answer) as upstream, running(upstream.url, certificate) as started:
            words = ("--data-binary", f"@{large}", "--header", "Expect:")
            result = started.get(*words, path="/s/", authority=certificate.certificate)
            assert hashlib.sha256(upstream.next_request().body).digest() == hashlib.sha256(LARGE).digest()
        assert result.status == 200
        assert hashlib.sha256(result.body).digest() == hashlib.sha256(LARGE).digest()


def test_the_python_sdk(secure: Secure, certificate: Certificate) -> None:
    code = (
        "import sys, posthog\n"
        "failures = []\n"
        "client = posthog.Posthog('phc_test', host=sys.argv[1], on_error=lambda *a: failures.append(a))\n"
        "client.capture('over tls', distinct_id='u1')\n"
        "client.flush(); client.shutdown()\n"
        "print(len(failures), 'failures')\n"
    )
    environment = servers.clean_environment(REQUESTS_CA_BUNDLE=str(certificate.certificate), NO_PROXY="*")
    argv = [sys.executable, "-c", code, f"https://{secure.tls}"]
    done = subprocess.run(
        argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "0 failures\n", done
    (line,) = secure.proxy.process.wait_for_lines(r'"path":"/batch/"', stream="stdout")
    assert json.loads(line.string)["status"] == 200


class TestSni:
    def test_each_name_has_its_certificate(
        self, standin: str, certificate: Certificate, tmp_path: Path
    ) -> None:
        second = self_signed(tmp_path, OTHER, "*.wild.test", stem="second", address=False)
        more = f'certificates=[{{certificate = "{second.certificate}", key = "{second.key}"}}]'
        words = ("--set", more, "--set", "tls.strict_sni=true")
        with running(standin, certificate, *words) as started:
            assert started.get(authority=certificate.certificate).status == 200
            assert started.get(name=OTHER, authority=second.certificate).status == 200
            assert started.get(name="a.wild.test", authority=second.certificate).status == 200
            unknown = started.get("--insecure", name="unknown.test", authority=second.certificate)
            assert unknown.exit_code == 35
            misled = started.get("--header", f"Host: {OTHER}", authority=certificate.certificate)
            assert misled.status == 421
            assert json.loads(misled.body)["code"] == "host_not_in_certificate"


class TestClientCertificates:
    def test_required(self, standin: str, certificate: Certificate, tmp_path: Path) -> None:
        authority = self_signed(tmp_path, "ca.test", stem="ca")
        known = signed_by(authority, tmp_path, "/O=Example/CN=ann")
        stranger = self_signed(tmp_path, "x.test", stem="stranger")
        words = ("--set", "tls.client_auth=required", "--set", f"tls.client_ca={authority.certificate}")
        with running(standin, certificate, *words) as started:
            ours = certificate.certificate
            with_one = started.get("--cert", known.certificate, "--key", known.key, authority=ours)
            assert with_one.status == 200
            assert started.get(authority=ours).status == 0
            assert (
                started.get("--cert", stranger.certificate, "--key", stranger.key, authority=ours).status == 0
            )
            started.proxy.process.wait_for_lines('"handshake_failed","reason":"no_client_certificate"')
            started.proxy.process.wait_for_lines('"handshake_failed","reason":"client_certificate"')

    def test_only_what_is_protected_demands_one(
        self, standin: str, certificate: Certificate, tmp_path: Path
    ) -> None:
        authority = self_signed(tmp_path, "ca.test", stem="ca")
        known = signed_by(authority, tmp_path, "/O=Example/CN=ann")
        words = ("--set", "tls.client_auth=optional", "--set", f"tls.client_ca={authority.certificate}")
        with running(standin, certificate, *words, "--set", "access.client_certificate=true") as started:
            ours = certificate.certificate
            assert started.get("--cert", known.certificate, "--key", known.key, authority=ours).status == 200
            nobody = started.get(authority=ours)
            assert (nobody.status, json.loads(nobody.body)["code"]) == (403, "no_client_certificate")
            event = ("--json", '{"api_key":"phc_x","event":"$pageview","distinct_id":"ann"}')
            assert started.get(*event, path="/e/", authority=ours).status == 200
            assert curl(f"http://{started.plain}/__standin__/echo").status == 403

    @pytest.mark.needs("nginx")
    def test_ours_is_shown_to_an_upstream(self, certificate: Certificate, tmp_path: Path) -> None:
        authority = self_signed(tmp_path, "ca.test", stem="ca")
        ours = signed_by(authority, tmp_path, "/O=Example/CN=proxy")
        values = {"certificate": certificate.certificate, "key": certificate.key}
        values["authority"] = authority.certificate
        with servers.nginx("nginx_mutual_tls.conf", tmp_path / "nginx", **values) as nginx:
            settings = {"ca_file": certificate.certificate}
            words = [word for key, value in settings.items() for word in set_upstream(key, value)]
            url = f"https://{nginx.authority}"
            with servers.posthog_proxy(url, *words) as without:
                assert curl(f"{without.url}/e/").status == 400  # nginx: no required certificate was sent
            words += set_upstream("client_cert", ours.certificate) + set_upstream("client_key", ours.key)
            with servers.posthog_proxy(url, *words) as shown:
                assert curl(f"{shown.url}/e/").body == b"CN=proxy,O=Example"


def set_upstream(key: str, value: Path) -> list[str]:
    return ["--set", f"upstreams.default.{key}={value}"]


class TestRenewal:
    @pytest.mark.parametrize("how", ["by itself", "SIGHUP"])
    def test_a_running_request_does_not_notice(self, tmp_path: Path, how: str) -> None:
        made = self_signed(tmp_path, SITE)
        new = self_signed(tmp_path, SITE, OTHER, stem="new")
        pause = "tls.reload_interval=" + ("0.1" if how == "by itself" else "0")
        with RawUpstream() as upstream, running(upstream.url, made, "--set", pause) as started:
            context = ssl.create_default_context(cafile=str(made.certificate))
            with (
                socket.create_connection(started.tls_address, timeout=20) as sock,
                context.wrap_socket(sock, server_hostname=SITE) as client,
            ):
                client.sendall(
                    f"POST /e/ HTTP/1.1\r\nHost: {SITE}\r\nContent-Length: 10\r\n\r\nfirst".encode()
                )
                made.overwrite(new)
                if how == "SIGHUP":
                    started.proxy.process.send_signal(signal.SIGHUP)
                    started.proxy.process.wait_for_lines('"event":"reloaded"')
                else:
                    started.proxy.process.wait_for_lines('"event":"certificate_renewed"')
                assert started.get(name=OTHER, authority=new.certificate).status == 200
                assert upstream.next_request().start_line.startswith(b"GET ")
                client.sendall(b"later")
                assert client.recv(65536).startswith(b"HTTP/1.1 200")
                assert upstream.next_request().body == b"firstlater"

    def test_a_bad_pair_keeps_the_old_one(self, standin: str, tmp_path: Path) -> None:
        made = self_signed(tmp_path, SITE)
        authority = tmp_path / "authority"
        authority.write_bytes(made.certificate.read_bytes())
        other = self_signed(tmp_path, SITE, stem="other")
        with running(standin, made, "--set", "tls.reload_interval=0.1") as started:
            made.key.write_bytes(other.key.read_bytes())
            (line,) = started.proxy.process.wait_for_lines('"event":"certificate_unusable"')
            assert "must be the key of" in line.string
            assert started.get(authority=authority).status == 200
            started.proxy.process.send_signal(signal.SIGHUP)
            started.proxy.process.wait_for_lines('"event":"reload_failed"')
            assert started.get(authority=authority).status == 200
