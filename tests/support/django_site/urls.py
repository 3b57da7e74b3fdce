"""The pages of the site."""

# Django ships no types.
# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path, re_path

from tests.support.django_site import views

urlpatterns = [
    path("", views.home),
    re_path(r"^_health/?$", views.health),
    path("login", LoginView.as_view(template_name="login.html")),
    path("logout", LogoutView.as_view()),
    path("meta", views.meta),
    path("digest", views.digest),
    path("moved", views.moved),
    path("download", views.download),
]
