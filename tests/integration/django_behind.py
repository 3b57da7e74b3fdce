"""Django configured as PostHog behind gunicorn, the proxy before it, and browsers that are curl."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.integration.conftest import SITE
from tests.support import servers
from tests.support.curl import CurlResult, curl
from tests.support.process import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.tls import Certificate

APPLICATION = "tests.support.django_site.wsgi:application"
DATABASE = "site.sqlite3"


def make_database(folder: Path) -> None:
    """Make the tables and the user that a login needs."""
    command = [sys.executable, "-m", "tests.support.django_site.prepare"]
    environment = servers.clean_environment(DJANGO_SITE_DB=str(folder / DATABASE))
    subprocess.run(command, env=environment, cwd=ROOT, check=True)


@contextmanager
def django(folder: Path, **env: str) -> Iterator[str]:
    """The site under gunicorn with PostHog's variables in ``env``. Yields its URL."""
    with servers.gunicorn(APPLICATION, folder, DJANGO_SITE_DB=str(folder / DATABASE), **env) as server:
        yield f"http://{server.authority}"


@dataclass(frozen=True, slots=True)
class Browser:
    """A browser with its cookies, for which ``SITE`` on ports 80 and 443 is at the two authorities given."""

    cookies: Path
    http: str
    https: str
    certificate: Certificate

    def get(self, url: str, *arguments: str | Path) -> CurlResult:
        """Load ``url`` and follow redirects as a browser does, five at most."""
        return curl(
            *("--cookie", self.cookies, "--cookie-jar", self.cookies, "--location", "--max-redirs", "5"),
            *("--connect-to", f"{SITE}:80:{self.http}", "--connect-to", f"{SITE}:443:{self.https}"),
            *("--cacert", self.certificate.certificate, "--http1.1"),
            *arguments,
            url,
        )

    def log_in(self, name: str, password: str, *, origin: str) -> CurlResult:
        """Load the form, fill it in and send it, as a page of ``origin`` would."""
        form = self.get(f"https://{SITE}/login?next=/")
        token = re.search(rb'name="csrfmiddlewaretoken" value="([^"]+)"', form.body)
        assert token is not None, form
        fields = {"csrfmiddlewaretoken": token.group(1).decode(), "username": name, "password": password}
        words = [word for field in fields.items() for word in ("--data-urlencode", "=".join(field))]
        return self.get(
            f"https://{SITE}/login?next=/",
            *("--header", f"Origin: {origin}", "--header", f"Referer: {origin}/login"),
            *words,
        )


def statuses(result: CurlResult) -> list[int]:
    """Return the status of every answer on the way, in order."""
    return [head.status for head in result.heads]
