-- Who is present in a group.
--
-- KEYS: rows, deadlines, users
-- ARGV: "1" for users, "0" for connections
-- Returns: now (ms); users or rows as field and value; connections whose time is over,
--          each with when that was, and their rows
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local over = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'WITHSCORES')
local stale = {}
for place = 1, #over, 2 do table.insert(stale, redis.call('HGET', KEYS[1], over[place])) end
return {now, redis.call('HGETALL', ARGV[1] == '1' and KEYS[3] or KEYS[1]), over, stale}
