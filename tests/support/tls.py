"""Certificates made by openssl in the test's folder: for servers, and for clients with their authority."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.parts import find

if TYPE_CHECKING:
    from pathlib import Path

_EC_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: a certificate, its key, and both in one. Clients take a self-signed ``certificate`` as the
    authority that signed it."""

    certificate: Path
    key: Path
    pem: Path

    def overwrite(self, other: Certificate) -> None:
        """Put another one's content into the files of this one, as a renewal does."""
        for ours, theirs in ((self.certificate, other.certificate), (self.key, other.key)):
            new = ours.with_suffix(".new")
            new.write_bytes(theirs.read_bytes())
            new.replace(ours)


def _openssl(words: str) -> None:
    subprocess.run([find("openssl"), *words.split()], check=True, capture_output=True)


def _files(folder: Path, stem: str) -> Certificate:
    folder.mkdir(parents=True, exist_ok=True)
    return Certificate(folder / f"{stem}.crt", folder / f"{stem}.key", folder / f"{stem}.pem")


def _finished(made: Certificate) -> Certificate:
    made.pem.write_bytes(made.certificate.read_bytes() + made.key.read_bytes())
    made.key.chmod(0o644)  # read by servers that have given up root
    return made


def self_signed(
    folder: Path,
    *names: str,
    stem: str = "front",
    days: int = 1,
    extra: str = "",
    address: bool = True,
) -> Certificate:
    """Make a certificate for ``names`` and, unless ``address`` is false, 127.0.0.1; ``extra``: further words
    for `openssl req`.

    ``days=0``: it has expired when it is there.
    """
    made = _files(folder, stem)
    alternatives = ",".join([*(f"DNS:{name}" for name in names), *(["IP:127.0.0.1"] * address)])
    _openssl(
        f"req -x509 {_EC_KEY} -days {days or 1} -subj /CN={stem} -addext subjectAltName={alternatives}"
        f" {extra} -keyout {made.key} -out {made.certificate}"
    )
    if not days:
        _openssl(f"x509 -in {made.certificate} -signkey {made.key} -days 0 -out {made.certificate}")
    return _finished(made)


def signed_by(authority: Certificate, folder: Path, subject: str, *, stem: str = "client") -> Certificate:
    """Make a certificate for a client: ``subject`` as in ``/O=Example/CN=ann``."""
    made = _files(folder, stem)
    request = folder / f"{stem}.csr"
    _openssl(f"req {_EC_KEY} -subj {subject} -keyout {made.key} -out {request}")
    _openssl(
        f"x509 -req -in {request} -CA {authority.certificate} -CAkey {authority.key} -set_serial 7 -days 1"
        f" -out {made.certificate}"
    )
    return _finished(made)
