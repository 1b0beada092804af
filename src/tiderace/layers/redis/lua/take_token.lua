-- Take one from a bucket that fills up evenly, by the server's clock.
--
-- KEYS: the bucket
-- ARGV: how many it holds, how long it takes to fill (ms)
-- Returns: 0 when it was taken, else in how many ms it would be there
--
-- What is kept is the time at which the bucket will be full again.
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + now[2] / 1000
local each = tonumber(ARGV[2]) / tonumber(ARGV[1])
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), milliseconds) + each
local wait = full - milliseconds - tonumber(ARGV[2])
if wait > 0.001 then return math.ceil(wait) end
redis.call('SET', KEYS[1], string.format('%.3f', full), 'PX',
  math.ceil(full - milliseconds))
return 0
