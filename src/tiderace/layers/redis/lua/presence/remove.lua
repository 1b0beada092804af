-- Take a connection out of a group.
--
-- KEYS, ARGV: see presence_room.lua; then connection
-- Returns: notices
local room = presence_room()
room.remove(ARGV[6])
return room.close()
