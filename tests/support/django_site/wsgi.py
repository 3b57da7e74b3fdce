"""The site as a WSGI application, for gunicorn."""

# Django ships no types.
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.support.django_site.settings")

application = get_wsgi_application()
