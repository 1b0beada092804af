-- Confirm, or give back, a message that was taken from a named queue.
--
-- KEYS: queue (a list), taken (a sorted set)
-- ARGV: the item as take.lua returned it, "1" to confirm or "0" to give it back,
--       pub/sub channel
-- Returns: 1 if it was still held
local held = redis.call('ZREM', KEYS[2], ARGV[1])
if held == 1 and ARGV[2] == '0' then
  redis.call('LPUSH', KEYS[1], ARGV[1])
  redis.call('PUBLISH', ARGV[3], '')
end
return held
