-- Takes a token from a bucket, which holds `count` when it is full and fills up evenly within
-- period_ms; returns 0, or the time until there is one (ms).
--
-- The key lasts until the bucket is full again. It holds that time, or 0 when a token was
-- taken from a full bucket and no other one since.
local function take_token(bucket, count, period_ms, now)
  local interval = period_ms / count
  -- Most buckets are full, and have no key. One command takes half the time of two.
  if redis.call('SET', bucket, 0, 'PX', math.ceil(interval), 'NX') then return 0 end
  local full_at = tonumber(redis.call('GET', bucket))
  if full_at == 0 then full_at = now + redis.call('PTTL', bucket) end
  full_at = math.max(full_at, now) + interval
  local wait = full_at - now - period_ms
  if wait > 0.001 then return math.ceil(wait) end
  redis.call('SET', bucket, full_at, 'PX', math.ceil(full_at - now))
  return 0
end
