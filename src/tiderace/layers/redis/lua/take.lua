-- Take the next message of a named queue, to be confirmed within a lease.
--
-- KEYS: queue (a list), taken (a sorted set: item by the end of its lease)
-- ARGV: lease (ms)
-- Returns: deadline, id and data as one string, or nothing
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)

-- Whoever took these died before it had them: they are next again.
local lapsed = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', milliseconds)
for index = #lapsed, 1, -1 do
  redis.call('ZREM', KEYS[2], lapsed[index])
  local left = tonumber(string.sub(lapsed[index], 1, 16)) - milliseconds
  if left > 0 then
    redis.call('LPUSH', KEYS[1], lapsed[index])
    if redis.call('PTTL', KEYS[1]) < left then redis.call('PEXPIRE', KEYS[1], left) end
  end
end
while true do
  local item = redis.call('LPOP', KEYS[1])
  if not item then return false end
  local deadline = tonumber(string.sub(item, 1, 16))
  if deadline > milliseconds then
    redis.call('ZADD', KEYS[2], milliseconds + tonumber(ARGV[1]), item)
    -- Outlives what it holds, and not by much.
    local left = redis.call('PTTL', KEYS[2])
    if left < deadline - milliseconds then
      redis.call('PEXPIRE', KEYS[2], deadline - milliseconds + tonumber(ARGV[1]))
    end
    return item
  end
end
