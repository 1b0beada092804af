"""Many connections together: the group patterns of the guide."""

import asyncio
import gzip
import json
import logging
import uuid

from channels.generic.websocket import AsyncWebsocketConsumer
from django.core.cache import cache

from sites.guide_site.board.journal import note

logger = logging.getLogger("sites.guide_site.board")


class Room(AsyncWebsocketConsumer):
    """A chat room by URL: joins, leavings, messages, typing."""

    async def connect(self):
        self.room_name = self.scope["url_route"]["kwargs"]["room_name"]
        self.room_group_name = f"room_{self.room_name}"
        await self.channel_layer.group_add(self.room_group_name, self.channel_name)
        await self.accept()
        await self.tell("user_joined", channel_name=self.channel_name)

    async def disconnect(self, close_code):
        await self.tell("user_left", channel_name=self.channel_name)
        await self.channel_layer.group_discard(self.room_group_name, self.channel_name)

    async def receive(self, text_data):
        data = json.loads(text_data)
        kind = data.get("type", "chat_message")
        if kind == "chat_message":
            await self.tell("chat_message", message=data["message"])
        elif kind == "typing":
            await self.tell("typing_indicator", is_typing=data.get("is_typing", False))

    async def tell(self, kind, **content):
        await self.channel_layer.group_send(
            self.room_group_name, {"type": kind, "username": self.name(), **content}
        )

    async def chat_message(self, event):
        await self.send(text_data=json.dumps(event))

    async def user_joined(self, event):
        if event["channel_name"] != self.channel_name:
            await self.send(text_data=json.dumps(self.notice(event, "came in")))

    async def user_left(self, event):
        if event["channel_name"] != self.channel_name:
            await self.send(text_data=json.dumps(self.notice(event, "went out")))

    async def typing_indicator(self, event):
        if event["username"] != self.name():
            await self.send(text_data=json.dumps({**event, "type": "typing"}))

    def notice(self, event, verb):
        name = event["username"]
        return {"type": event["type"], "username": name, "message": f"{name} {verb}"}

    def name(self):
        user = self.scope.get("user")
        if user and user.is_authenticated:
            return user.username
        return "Anonymous"


class Lobby(AsyncWebsocketConsumer):
    """One room for all, whose messages are JSON of the client's own making."""

    async def connect(self):
        await self.channel_layer.group_add("lobby", self.channel_name)
        await self.accept()
        await self.channel_layer.group_send(
            "lobby",
            {"type": "lobby.said", "what": {"type": "user_joined", "user": "one more"}},
        )

    async def disconnect(self, close_code):
        await self.channel_layer.group_discard("lobby", self.channel_name)

    async def receive(self, text_data):
        try:
            what = json.loads(text_data)
        except ValueError:
            await self.send(
                text_data=json.dumps({"type": "error", "message": "not JSON"})
            )
            return
        await self.channel_layer.group_send(
            "lobby", {"type": "lobby.said", "what": what}
        )

    async def lobby_said(self, event):
        await self.send(text_data=json.dumps(event["what"]))


class Forwarding(AsyncWebsocketConsumer):
    """Passes what it gets from its groups on to the client."""

    async def forward(self, event):
        await self.send(text_data=json.dumps(event))

    notification_message = maintenance_alert = scheduled_notification = forward
    activity_update = new_message = user_status_change = announcement = forward


class Many(Forwarding):
    """Joins several groups after accept, one by who the user is."""

    async def connect(self):
        await self.accept()
        user = self.scope["user"]
        groups = [
            "notifications",
            "all_users",
            f"user_{user.id}",
            "moderators" if user.is_staff else "users",
            "conversation_1",
            "user_status_updates",
            "team_updates_1",
        ]
        for group in groups:
            await self.channel_layer.group_add(group, self.channel_name)
        await self.send(text_data=json.dumps({"type": "joined", "groups": groups}))


class Passing(Forwarding):
    """Makes a group for an occasion and a task that outlives the handler."""

    async def receive(self, text_data):
        group = await self.make_temporary_group()
        await self.send(text_data=group)

    async def make_temporary_group(self):
        group = f"event_{uuid.uuid4().hex[:8]}"
        await self.channel_layer.group_add(group, self.channel_name)
        self.cleanup = asyncio.create_task(self.forget_later(group, 3600))
        return group

    async def forget_later(self, group, delay):
        await asyncio.sleep(delay)

    async def disconnect(self, close_code):
        self.cleanup.cancel()


class Hierarchy(Forwarding):
    """Global, department, team, person."""

    async def connect(self):
        user = self.scope["user"]
        groups = [
            "all_users",
            f"department_{user.department.id}",
            f"team_{user.team.id}",
            f"user_{user.id}",
        ]
        for group in groups:
            await self.channel_layer.group_add(group, self.channel_name)
        await self.accept()

    async def receive(self, text_data):
        await self.send_announcement(*text_data.split(":"))

    async def send_announcement(self, scope, message):
        user = self.scope["user"]
        group = {
            "global": "all_users",
            "department": f"department_{user.department.id}",
            "team": f"team_{user.team.id}",
            "personal": f"user_{user.id}",
        }.get(scope)
        if group:
            await self.channel_layer.group_send(
                group, {"type": "announcement", "message": message, "scope": scope}
            )


class Shards(Forwarding):
    """Spreads a large audience over several groups."""

    MAX_GROUP_SIZE = 2

    async def receive(self, text_data):
        await self.send(text_data=await self.join_large_group(text_data))

    async def join_large_group(self, base):
        count = sum(
            len(members)
            for group, members in self.channel_layer.groups.items()
            if group.startswith(base)
        )
        group = base
        if count >= self.MAX_GROUP_SIZE:
            group = f"{base}_{count // self.MAX_GROUP_SIZE}"
        await self.channel_layer.group_add(group, self.channel_name)
        return group


class Compressing(AsyncWebsocketConsumer):
    """Sends large content as hex of gzip, small content as it is."""

    groups = ["squeezed"]

    async def receive(self, text_data):
        await self.send_squeezed("squeezed", json.loads(text_data))

    async def send_squeezed(self, group, data):
        text = json.dumps(data)
        if len(text) > 1024:
            message = {
                "type": "compressed_message",
                "compressed": True,
                "data": gzip.compress(text.encode()).hex(),
            }
        else:
            message = {"type": "regular_message", "compressed": False, "data": data}
        await self.channel_layer.group_send(group, message)

    async def compressed_message(self, event):
        text = gzip.decompress(bytes.fromhex(event["data"])).decode()
        await self.send(text_data=json.dumps({"how": "gzip", "data": json.loads(text)}))

    async def regular_message(self, event):
        await self.send(text_data=json.dumps({"how": "plain", "data": event["data"]}))


class Tidy(AsyncWebsocketConsumer):
    """Leaves its groups and cancels its tasks when it ends."""

    async def connect(self):
        self.joined_groups = ["tidy_a", "tidy_b"]
        for group in self.joined_groups:
            await self.channel_layer.group_add(group, self.channel_name)
        self.background_tasks = [asyncio.create_task(self.tick())]
        note("ticking", self.background_tasks[0])
        await self.accept()

    async def tick(self):
        await asyncio.Event().wait()

    async def disconnect(self, close_code):
        for group in getattr(self, "joined_groups", []):
            await self.channel_layer.group_discard(group, self.channel_name)
        for task in getattr(self, "background_tasks", []):
            task.cancel()
        logger.info("channel %s ended with %s", self.channel_name, close_code)


class Statistics(AsyncWebsocketConsumer):
    """Tells how busy the layer is, from what the in-memory layer shows."""

    async def connect(self):
        await self.accept()
        await self.channel_layer.group_add("counted", self.channel_name)
        stats = await self.get_channel_stats()
        await self.send(text_data=json.dumps({"type": "stats", "data": stats}))

    async def get_channel_stats(self):
        return {
            "total_channels": len(self.channel_layer.channels),
            "total_groups": len(self.channel_layer.groups),
        }


class Guarded(Forwarding):
    """Lets people join the groups they may join."""

    async def connect(self):
        await self.accept()

    async def receive(self, text_data):
        if await self.join_group(text_data):
            await self.send(
                text_data=json.dumps({"type": "joined", "group": text_data})
            )

    async def join_group(self, group):
        if await self.has_group_permission(group):
            await self.channel_layer.group_add(group, self.channel_name)
            return True
        await self.send(
            text_data=json.dumps({"type": "error", "message": f"not for you: {group}"})
        )
        return False

    async def has_group_permission(self, group):
        user = self.scope.get("user")
        return not (group.startswith("admin_") and not user.is_staff)


class Limited(AsyncWebsocketConsumer):
    """Ten messages a minute, counted in Django's cache."""

    async def receive(self, text_data):
        if not await self.check_rate_limit():
            await self.send(
                text_data=json.dumps({"type": "error", "message": "slow down"})
            )
            return
        await self.send(text_data=text_data)

    async def check_rate_limit(self):
        key = f"rate_limit_{self.channel_name}"
        current = cache.get(key, 0)
        if current >= 10:
            return False
        cache.set(key, current + 1, 60)
        return True
