-- Lists the groups in which something is due.
--
-- KEYS: due (sorted set: group by when something is due in it)
-- ARGV: limit (groups)
-- Returns: ms until something is due (0 when it is, -1 when nothing is scheduled), groups
local due = unpack(KEYS)
local limit = unpack(ARGV)

local now = now_ms()
local groups = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, limit)
if #groups > 0 then return {0, groups} end
local first = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')
return {first[2] and tonumber(first[2]) - now or -1, groups}
