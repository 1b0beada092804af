-- Takes a token from a bucket that fills up evenly.
--
-- KEYS: bucket
-- ARGV: count (tokens in a full bucket), period_ms (to fill it)
-- Returns: 0 when a token was taken, else the time until there is one (ms)
local bucket = unpack(KEYS)
local count, period_ms = unpack(ARGV)

-- The key holds the time at which the bucket will be full again.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local interval = tonumber(period_ms) / tonumber(count)
local full_at = math.max(tonumber(redis.call('GET', bucket) or 0), now) + interval
local wait = full_at - now - tonumber(period_ms)
if wait > 0.001 then return math.ceil(wait) end
redis.call('SET', bucket, string.format('%.3f', full_at), 'PX', math.ceil(full_at - now))
return 0
