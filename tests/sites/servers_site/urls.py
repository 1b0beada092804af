"""One page: who is in which group, for the tests to look at."""

from channels.layers import get_channel_layer
from django.http import JsonResponse
from django.urls import path


def groups(request):
    members = get_channel_layer().groups
    return JsonResponse({group: len(names) for group, names in members.items()})


urlpatterns = [path("groups/", groups)]
