"""The page of the devices, and the ingest over HTTP."""

from __future__ import annotations

import json

import msgspec
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from tiderace.demo.devices.ingest import ingest
from tiderace.demo.devices.models import ALARMS, Device
from tiderace.demo.devices.tokens import device_of
from tiderace.demo.devices.topics import FLEET, interval
from tiderace.exceptions import ChannelFull
from tiderace.topics import positions


@login_required
def page(request: HttpRequest) -> HttpResponse:
    """Show the map and the table; the values come over the topic."""
    # Before the devices, so that the page gets every later alarm.
    where = positions(ALARMS)
    devices = [device.as_dict() for device in Device.objects.all()]
    config = {"fleet": FLEET, "alarms": ALARMS, "devices": devices}
    return render(request, "devices/page.html", {"positions": where, "config": config})


@csrf_exempt
@require_POST
async def report(request: HttpRequest) -> HttpResponse:
    """Take a report of a device that opens no socket: no cookie is read, only its token."""
    device = device_of(request.headers.get("Authorization", ""))
    if device is None:
        return JsonResponse({"error": "send a token"}, status=401)
    try:
        await ingest(device, json.loads(request.body))
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        return JsonResponse({"error": str(error)}, status=422)
    except ChannelFull:
        return JsonResponse({"error": "too many reports, try again"}, status=503)
    return JsonResponse({"interval": await interval()}, status=202)
