-- The application knows what a claim was for.
--
-- KEYS, ARGV: see presence_room.lua; then who, the claim's token
-- Returns: notices that follow from it
local room = presence_room()
room.confirm(ARGV[6], ARGV[7])
return room.close()
