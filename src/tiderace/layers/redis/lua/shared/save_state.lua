-- Stores the state of a stream, in the order of load_state, for its ttl.
local function save_state(meta, ...)
  local ttl = select(8, ...)
  redis.call('SET', meta, cmsgpack.pack({...}), 'PX', ttl)
end
