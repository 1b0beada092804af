-- Deal with what is due in a group.
--
-- KEYS, ARGV: see presence_room.lua; then how many entries at most
-- Returns: notices
local room = presence_room()
room.reap(ARGV[6])
return room.close()
