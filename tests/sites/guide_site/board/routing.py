from django.urls import path

from . import consumers, groups

websocket_urlpatterns = [
    path("ws/high/", consumers.HighLevelEcho.as_asgi()),
    path("ws/low/", consumers.LowLevelEcho.as_asgi()),
    path("ws/sync/", consumers.SyncEcho.as_asgi()),
    path("ws/overriding/", consumers.OverridingEcho.as_asgi()),
    path("ws/who/", consumers.WhoAmI.as_asgi()),
    path("ws/query/", consumers.QueryRoom.as_asgi()),
    path("ws/members/", consumers.MembersOnly.as_asgi()),
    path("ws/shown-out/", consumers.ShownOut.as_asgi()),
    path("ws/files/", consumers.Files.as_asgi()),
    path("ws/lobby/", groups.Lobby.as_asgi()),
    path("ws/room/<str:room_name>/", groups.Room.as_asgi()),
    path("ws/many/", groups.Many.as_asgi()),
]
