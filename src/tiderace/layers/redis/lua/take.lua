-- Takes the next message of a named queue, to be acknowledged within a lease.
--
-- KEYS: queue (list), taken (sorted set: item by the end of its lease)
-- ARGV: lease_ms
-- Returns: deadline, id and data as one string, or nothing
local queue, taken = unpack(KEYS)
local lease_ms = unpack(ARGV)
local now = now_ms()

-- Messages whose lease has ended, because their reader died, are first again.
local lapsed = redis.call('ZRANGEBYSCORE', taken, '-inf', now)
for index = #lapsed, 1, -1 do
  redis.call('ZREM', taken, lapsed[index])
  local left = tonumber(string.sub(lapsed[index], 1, 16)) - now
  if left > 0 then
    redis.call('LPUSH', queue, lapsed[index])
    if redis.call('PTTL', queue) < left then redis.call('PEXPIRE', queue, left) end
  end
end
while true do
  local item = redis.call('LPOP', queue)
  if not item then return false end
  local left = tonumber(string.sub(item, 1, 16)) - now
  if left > 0 then
    redis.call('ZADD', taken, now + tonumber(lease_ms), item)
    -- The set outlives its items by a lease.
    if redis.call('PTTL', taken) < left then
      redis.call('PEXPIRE', taken, left + lease_ms)
    end
    return item
  end
end
