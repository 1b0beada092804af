-- Goes before the scripts that publish.
local function tell(verb, channel, payload)
  local told = redis.pcall(verb, channel, payload)
  if type(told) ~= 'table' or not told.err then return end
  -- Sharded pub/sub came with version 7; before, all nodes of a cluster pass messages on.
  if verb ~= 'SPUBLISH' or not string.find(told.err, '[Uu]nknown') then error(told.err) end
  redis.call('PUBLISH', channel, payload)
end
