"""Make the site's database: its tables and one user. Run once before gunicorn starts.

`python -m tests.support.django_site.prepare`, with DJANGO_SITE_DB naming the file.
"""

# Django ships no types.
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import os

import django
from django.core.management import call_command

USER, PASSWORD = "max@example.test", "correct horse battery staple"


def main() -> None:
    """Create the tables and the user."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.support.django_site.settings"
    django.setup()
    call_command("migrate", verbosity=0)

    from django.contrib.auth.models import User  # needs the set-up above

    User.objects.create_user(USER, password=PASSWORD)


if __name__ == "__main__":
    main()
