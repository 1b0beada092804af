-- Returns the state of a stream, or nothing when there is none. The values in order: last
-- offset, when it was published (ms), bytes since the last step; size of the history (-1
-- until a publication or a reader gives one), its ttl (ms), ttl of the state (ms), when that
-- ends (ms); the offsets of the last three steps; offset and time of the last checkpoint,
-- and of the last checkpoint of the history; when the stream ends at the earliest (ms);
-- epoch, the server's replication id at the last publication, leaps (see history_start).
local function load_state(meta)
  local packed = redis.call('GET', meta)
  if packed then return struct.unpack('<dddddddddddddddsss', packed) end
end
