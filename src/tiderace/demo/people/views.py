"""Signing in, as a user or as a guest, and signing out."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import login
from django.contrib.auth import logout as end_session
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from tiderace.demo.people.forms import GuestForm
from tiderace.demo.people.person import SEEDED, new_guest


def _next(request: HttpRequest) -> str:
    wanted = request.POST.get("next", "")
    safe = url_has_allowed_host_and_scheme(wanted, allowed_hosts={request.get_host()})
    return wanted if safe else resolve_url("chat:lobby")


class Login(LoginView):
    """Django's log-in, with the seeded users and the guest form on the same page."""

    template_name = "people/login.html"
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Add the guest form and the seeded users."""
        kwargs.setdefault("guest_form", GuestForm())
        kwargs["seeded"] = SEEDED
        return super().get_context_data(**kwargs)

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        """End the previous session, then log in."""
        end_session(self.request)
        return super().form_valid(form)


@require_POST
def guest(request: HttpRequest) -> HttpResponse:
    """Sign in under a display name; ends the previous session."""
    form = GuestForm(request.POST)
    if not form.is_valid():
        page = {
            "form": AuthenticationForm(request),
            "guest_form": form,
            "seeded": SEEDED,
            "next": request.POST.get("next", ""),
        }
        return render(request, "people/login.html", page, status=422)
    end_session(request)
    user = new_guest(form.cleaned_data["name"])
    login(request, user, "django.contrib.auth.backends.ModelBackend")
    return redirect(_next(request))


@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    """Sign out; Tiderace closes the sockets of the open windows."""
    end_session(request)
    return redirect("people:login")
