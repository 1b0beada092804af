-- Takes a token from a bucket, which holds `count` when it is full and fills up evenly within
-- period_ms; returns 0, or the time until there is one (ms).
--
-- The key holds the time at which the bucket will be full again.
local function take_token(bucket, count, period_ms, now)
  local interval = period_ms / count
  -- Most buckets are full, and have no key. One command takes half the time of two.
  if redis.call('SET', bucket, now + interval, 'PX', math.ceil(interval), 'NX') then
    return 0
  end
  local full_at = math.max(tonumber(redis.call('GET', bucket)), now) + interval
  local wait = full_at - now - period_ms
  if wait > 0.001 then return math.ceil(wait) end
  redis.call('SET', bucket, full_at, 'PX', math.ceil(full_at - now))
  return 0
end
