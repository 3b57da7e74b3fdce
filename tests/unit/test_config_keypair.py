"""Certificates and keys, read from files that are right and wrong in every way."""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from proxy.config.keypair import KeyPair, UnusablePairError, authorities_failure, load_pair, read_pair
from tests.support.parts import find
from tests.support.tls import self_signed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.tls import Certificate

pytestmark = pytest.mark.needs("openssl")

DAY = 86_400.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def made(folder: Path) -> Certificate:
    return self_signed(folder, "A.example.test", "*.b.example.test")


@pytest.fixture(scope="module")
def other(folder: Path) -> Certificate:
    return self_signed(folder, "other.test", stem="other")


def failure(certificate: Path, key: Path | str) -> UnusablePairError:
    with pytest.raises(UnusablePairError) as caught:
        read_pair(str(certificate), str(key))
    return caught.value


class TestReading:
    def test_names_and_dates(self, made: Certificate) -> None:
        pair = read_pair(str(made.certificate), str(made.key))
        assert pair.names == ("a.example.test", "*.b.example.test", "127.0.0.1")
        assert pair.not_after - pair.not_before == DAY

    def test_both_in_one_file(self, made: Certificate) -> None:
        assert read_pair(str(made.pem), "").names[0] == "a.example.test"

    def test_an_ipv6_address_is_written_as_it_is_looked_up(self, folder: Path) -> None:
        extra = "-addext subjectAltName=IP:2001:DB8::1"
        certificate, key = folder / "six.crt", folder / "six.key"
        words = (
            f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x {extra} -keyout {key} -out {certificate}"
        )
        subprocess.run([find("openssl"), *words.split()], check=True, capture_output=True)
        assert read_pair(str(certificate), str(key)).names == ("2001:db8::1",)

    def test_an_expired_one_is_read(self, folder: Path) -> None:
        expired = self_signed(folder, "old.test", stem="expired", days=0)
        pair = read_pair(str(expired.certificate), str(expired.key))
        assert pair.not_after == pair.not_before


class TestMistakes:
    def test_files_that_are_not_there(self, made: Certificate, folder: Path) -> None:
        error = failure(folder / "no", made.key)
        assert not error.of_key
        assert str(error) == "must be a readable PEM file: No such file or directory"
        error = failure(made.certificate, folder / "no")
        assert error.of_key

    def test_the_key_of_another(self, made: Certificate, other: Certificate) -> None:
        error = failure(made.certificate, other.key)
        assert error.of_key
        assert str(error) == f"must be the key of {made.certificate}; it is another one's"

    def test_a_key_with_a_password(self, made: Certificate, folder: Path) -> None:
        locked = folder / "locked.key"
        words = f"pkey -in {made.key} -aes256 -passout pass:secret -out {locked}"
        subprocess.run([find("openssl"), *words.split()], check=True, capture_output=True)
        error = failure(made.certificate, locked)
        assert error.of_key
        assert "without a password" in str(error)

    def test_no_certificate_in_the_file(self, made: Certificate) -> None:
        error = failure(made.key, made.key)
        assert not error.of_key
        assert "holds none that can be read" in str(error)

    def test_no_key_in_the_file(self, made: Certificate) -> None:
        error = failure(made.certificate, "")
        assert error.of_key
        assert "with the private key" in str(error)

    def test_too_weak(self, folder: Path) -> None:
        certificate, key = folder / "weak.crt", folder / "weak.key"
        words = (
            f"req -x509 -newkey rsa:1024 -nodes -days 1 -subj /CN=x -addext subjectAltName=DNS:x"
            f" -keyout {key} -out {certificate}"
        )
        subprocess.run([find("openssl"), *words.split()], check=True, capture_output=True)
        error = failure(certificate, key)
        assert not error.of_key
        assert "ee key too small" in str(error)

    def test_no_names(self, folder: Path) -> None:
        certificate, key = folder / "bare.crt", folder / "bare.key"
        words = f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x.test -keyout {key} -out {certificate}"
        subprocess.run([find("openssl"), *words.split()], check=True, capture_output=True)
        assert "must have a subjectAltName" in str(failure(certificate, key))

    def test_not_for_servers(self, folder: Path) -> None:
        made = self_signed(folder, "x.test", stem="usage", extra="-addext extendedKeyUsage=clientAuth")
        error = failure(made.certificate, made.key)
        assert not error.of_key
        assert str(error) == "must be a certificate for servers (certificate verify failed)"

    def test_a_clients_may_be_for_clients(self, folder: Path) -> None:
        made = self_signed(folder, "x.test", stem="client", extra="-addext extendedKeyUsage=clientAuth")
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), str(made.certificate), str(made.key))


class TestDates:
    PAIR = KeyPair(("a.test",), 1_000_000.0, 1_000_000.0 + 90 * DAY)

    @pytest.mark.parametrize(
        ("wall", "said"),
        [
            (999_999.0, "is not valid before 1970-01-12 13:46 UTC"),
            (1_000_000.0, None),
            (1_000_000.0 + 90 * DAY, None),
            (1_000_001.0 + 90 * DAY, "has expired at 1970-04-12 13:46 UTC"),
        ],
    )
    def test_validity(self, wall: float, said: str | None) -> None:
        assert self.PAIR.untimely(wall) == said

    @pytest.mark.parametrize(("days", "soon"), [(91.0, True), (77.0, True), (75.0, False), (0.0, False)])
    def test_its_end_is_near(self, days: float, soon: bool) -> None:
        assert (self.PAIR.ends_soon(1_000_000.0 + days * DAY) is not None) is soon

    def test_a_short_life_is_not_always_near_its_end(self) -> None:
        pair = KeyPair(("a.test",), 0.0, 6 * DAY)
        assert pair.ends_soon(3.9 * DAY) is None
        assert pair.ends_soon(4.1 * DAY) == "expires at 1970-01-07 00:00 UTC"


class TestAuthorities:
    def test_good(self, made: Certificate) -> None:
        assert authorities_failure(str(made.certificate)) is None

    def test_bad(self, folder: Path) -> None:
        empty = folder / "empty"
        empty.write_text("")
        assert "must be readable" in str(authorities_failure(str(folder / "no")))
        assert "holds none" in str(authorities_failure(str(empty)))
