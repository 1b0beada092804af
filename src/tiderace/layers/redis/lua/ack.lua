-- Acknowledges a message that was taken from a named queue, or returns it to the queue.
--
-- KEYS: queue (list), taken (sorted set)
-- ARGV: item (as take.lua returned it), action ('ack'; 'nack': return it if it is still
--       taken; 'unack': return it after an ack), channel (pub/sub), publish (command)
-- Returns: 1 if it was still taken
local queue, taken = unpack(KEYS)
local item, action, channel, publish = unpack(ARGV)

local removed = redis.call('ZREM', taken, item)
if action == 'unack' or (removed == 1 and action == 'nack') then
  local left = tonumber(string.sub(item, 1, 16)) - now_ms()
  if left > 0 then
    redis.call('LPUSH', queue, item)
    if redis.call('PTTL', queue) < left then redis.call('PEXPIRE', queue, left) end
    publish_message(publish, channel, '')
  end
end
return removed
