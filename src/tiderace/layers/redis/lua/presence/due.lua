-- The groups in which something is due.
--
-- KEYS: due (a sorted set of groups by when something is due in them)
-- ARGV: how many groups at most
-- Returns: ms until something is due (0 when it is, -1 when nothing will be), groups
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local groups = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
if #groups > 0 then return {0, groups} end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {first[2] and tonumber(first[2]) - now or -1, groups}
