-- Adds a connection to a group, or refreshes it.
--
-- KEYS: those of shared/presence_group.lua
-- ARGV: those of shared/presence_group.lua, client (the connection), identity, info,
--       per_user ('1' or '0'), grace_ms, ttl_ms, new_id (presence id of a new user),
--       stayed ('1' for no join)
-- Returns: events
local group = presence_group()
local client, identity, info, per_user, grace_ms, ttl_ms, new_id, stayed = unpack(ARGV, 6)

group.add(
  client, identity, info, tonumber(per_user), tonumber(grace_ms), tonumber(ttl_ms),
  new_id, tonumber(stayed)
)
return group.close()
