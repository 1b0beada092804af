-- Confirm, or give back, a message that was taken from a named queue.
--
-- KEYS: queue (a list), taken (a sorted set)
-- ARGV: the item as take.lua returned it, "1" to confirm, "0" to give back what is still
--       held, "2" to give back what was confirmed, pub/sub channel, verb to publish with
-- Returns: 1 if it was still held
local held = redis.call('ZREM', KEYS[2], ARGV[1])
if ARGV[2] == '2' or (held == 1 and ARGV[2] == '0') then
  local now = redis.call('TIME')
  local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)
  local left = tonumber(string.sub(ARGV[1], 1, 16)) - milliseconds
  if left > 0 then
    redis.call('LPUSH', KEYS[1], ARGV[1])
    if redis.call('PTTL', KEYS[1]) < left then redis.call('PEXPIRE', KEYS[1], left) end
    tell(ARGV[4], ARGV[3], '')
  end
end
return held
