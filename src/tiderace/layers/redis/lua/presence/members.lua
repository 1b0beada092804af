-- Reads the members of a group.
--
-- KEYS: rows, deadlines, users
-- ARGV: per_user ('1' for users, '0' for connections)
-- Returns: now (ms), users or rows as field and value, the expired connections with the
--          time of each, and their rows
local rows, deadlines, users = unpack(KEYS)
local per_user = unpack(ARGV)

local now = now_ms()
local expired = redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'WITHSCORES')
local expired_rows = {}
for place = 1, #expired, 2 do
  table.insert(expired_rows, redis.call('HGET', rows, expired[place]))
end
return {now, redis.call('HGETALL', per_user == '1' and users or rows), expired, expired_rows}
