-- Let a named queue get what is published on a subject.
--
-- KEYS: plain members (a sorted set of channel names by join time)
-- ARGV: member, time to live (ms)
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], now[1] * 1000 + math.floor(now[2] / 1000), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
