"""A certificate for a front that terminates TLS, made by openssl in the test's folder."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.parts import find

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: a self-signed certificate, its key, and both in one. Clients take ``certificate`` as the
    authority that signed it."""

    certificate: Path
    key: Path
    pem: Path


def self_signed(folder: Path, *names: str) -> Certificate:
    """Make a certificate for ``names`` and 127.0.0.1, valid for a day."""
    made = Certificate(folder / "front.crt", folder / "front.key", folder / "front.pem")
    alternatives = ",".join([*(f"DNS:{name}" for name in names), "IP:127.0.0.1"])
    arguments = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=front"
        f" -addext subjectAltName={alternatives} -keyout {made.key} -out {made.certificate}"
    )
    subprocess.run([find("openssl"), *arguments.split()], check=True, capture_output=True)
    made.pem.write_bytes(made.certificate.read_bytes() + made.key.read_bytes())
    made.key.chmod(0o644)  # read by servers that have given up root
    return made
