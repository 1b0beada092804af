-- Put a connection into a group.
--
-- KEYS, ARGV: see presence_room.lua; then connection, who, info, "1" per user, grace
--             (ms), time to live (ms), presence id for a user who is new
-- Returns: notices
local room = presence_room()
room.add(
  ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]),
  ARGV[12]
)
return room.close()
