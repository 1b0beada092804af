-- Stores the state of a stream, in the order of load_state, for its ttl.
local function save_state(meta, ...)
  local ttl = select(6, ...)
  redis.call('SET', meta, struct.pack('<dddddddddddddddsss', ...), 'PX', ttl)
end
