"""Devices with their alarms, and what they have reported."""

from __future__ import annotations

from typing import Any

from django.db import models

from tiderace.topics.models import PublishesChanges

ALARMS = "devices:alarms"


class Device(PublishesChanges, models.Model):
    """A buoy; saving a new ``alarm`` publishes it."""

    name = models.CharField(max_length=40, unique=True)
    # Where it is on the map, which is 100 wide and 60 high.
    x = models.FloatField()
    y = models.FloatField()
    # What is wrong, empty for nothing.
    alarm = models.CharField(max_length=60, blank=True)

    publish_fields = ["name", "alarm"]
    publish_on = []  # one topic for all devices

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.name

    def topics(self) -> list[str]:
        """Return the topic of the alarms."""
        return [ALARMS]

    def as_dict(self) -> dict[str, Any]:
        """Return the device as the page shows it."""
        return {
            "device": self.pk,
            "name": self.name,
            "x": self.x,
            "y": self.y,
            "alarm": self.alarm,
        }


class Reading(models.Model):
    """The measurements of a device at one time."""

    device = models.ForeignKey(Device, on_delete=models.CASCADE)
    wave = models.FloatField()  # metres
    temperature = models.FloatField()  # degrees Celsius
    battery = models.FloatField()  # percent
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.device}: {self.wave} m"
