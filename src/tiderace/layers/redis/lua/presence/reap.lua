-- Handles expired connections, and users whose claim or grace has ended.
--
-- KEYS: those of shared/presence_group.lua
-- ARGV: those of shared/presence_group.lua, limit (entries of each kind)
-- Returns: events
local group = presence_group()
local limit = unpack(ARGV, 6)

group.reap(limit)
return group.close()
