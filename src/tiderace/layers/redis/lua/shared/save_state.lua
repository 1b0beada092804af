-- Stores the state of a stream, in the order of load_state, for its ttl.
local function save_state(meta, ...)
  local ttl = select(12, ...)
  redis.call('SET', meta, struct.pack('<dddddc64c12ssddddddddddds', ...), 'PX', ttl)
end
