"""Django as PostHog configures it where a proxy is concerned, read from the same environment variables.

PostHog facts: IS_BEHIND_PROXY turns on the three forwarding settings; SECURE_SSL_REDIRECT follows
SECURE_COOKIES (on in production) and exempts `/_health`; TRUST_ALL_PROXIES is any non-empty string.
"""

from __future__ import annotations

import os
from pathlib import Path


def _flag(name: str, default: str = "") -> bool:
    return os.environ.get(name, default).lower() in ("1", "true", "yes", "on", "y", "t")


def _items(name: str, default: str = "") -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


HERE = Path(__file__).parent

SECRET_KEY = "only for tests"
DEBUG = False
ROOT_URLCONF = "tests.support.django_site.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DJANGO_SITE_DB"]}}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "tests.support.django_site.gate.AddressGate",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [HERE / "templates"],
        "OPTIONS": {"context_processors": ["django.contrib.auth.context_processors.auth"]},
    }
]
LOGIN_URL = "/login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login"
APPEND_SLASH = False
USE_TZ = True

secure_cookies = _flag("SECURE_COOKIES", "true")
SESSION_COOKIE_SECURE = secure_cookies
CSRF_COOKIE_SECURE = secure_cookies
SECURE_SSL_REDIRECT = secure_cookies and not _flag("DISABLE_SECURE_SSL_REDIRECT")
SECURE_REDIRECT_EXEMPT = [r"^_health/?"]

IS_BEHIND_PROXY = _flag("IS_BEHIND_PROXY")
TRUSTED_PROXIES = os.environ.get("TRUSTED_PROXIES", "")
TRUST_ALL_PROXIES = os.environ.get("TRUST_ALL_PROXIES", "")
ALLOWED_IP_BLOCKS = _items("ALLOWED_IP_BLOCKS")
ALLOWED_HOSTS = _items("ALLOWED_HOSTS", "*")

if IS_BEHIND_PROXY:
    USE_X_FORWARDED_HOST = True
    USE_X_FORWARDED_PORT = True
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "loggers": {"django": {"handlers": ["stderr"], "level": "WARNING"}},
}
