-- Returns the state of a stream, or nothing when there is none: last offset, when it was
-- published (ms), bytes since the last step, history size (-1 until a publication or reader
-- gives one) and ttl (ms), ttl of the state (ms), when that ends (ms), the offsets of the
-- last three steps, the offset and the time of the last checkpoint, and of the last
-- checkpoint of the history, when the stream ends (ms, at least); epoch, the server's replication id at the last publication,
-- leaps (see history_start).
local function load_state(meta)
  local packed = redis.call('GET', meta)
  if packed then return struct.unpack('<dddddddddddddddsss', packed) end
end
