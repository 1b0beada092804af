-- Removes a connection from a group.
--
-- KEYS: those of shared/presence_group.lua
-- ARGV: those of shared/presence_group.lua, client (the connection)
-- Returns: events
local group = presence_group()
local client = unpack(ARGV, 6)

group.remove(client)
return group.close()
