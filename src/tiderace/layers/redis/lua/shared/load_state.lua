-- Returns the state of a stream, or nothing when there is none: epoch, last offset, when it
-- was published (ms), the server's replication id then, leaps (see history_start), history
-- size (false until a publication or reader gives one) and ttl (ms), ttl of the state (ms),
-- bytes since the last step, the offsets of the last steps, the offset and the time of the
-- last checkpoint, and of the last checkpoint of the history.
local function load_state(meta)
  local packed = redis.call('GET', meta)
  if packed then return unpack(cmsgpack.unpack(packed)) end
end
