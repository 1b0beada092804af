-- Publishes a message with PUBLISH or SPUBLISH.
local function publish_message(command, channel, payload)
  local reply = redis.pcall(command, channel, payload)
  if type(reply) ~= 'table' or not reply.err then return end
  -- Before version 7 there is no SPUBLISH; all nodes of a cluster pass messages on.
  if command ~= 'SPUBLISH' or not string.find(reply.err, '[Uu]nknown') then
    error(reply.err)
  end
  redis.call('PUBLISH', channel, payload)
end
