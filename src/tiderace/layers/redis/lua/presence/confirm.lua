-- Notes that the application has handled a claimed event.
--
-- KEYS: those of shared/presence_group.lua
-- ARGV: those of shared/presence_group.lua, identity, claim (its token)
-- Returns: the user's next event, if there is one
local group = presence_group()
local identity, claim = unpack(ARGV, 6)

group.confirm(identity, claim)
return group.close()
