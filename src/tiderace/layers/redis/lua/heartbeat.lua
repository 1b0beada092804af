-- Say that a process lives, forget those that have not for a lease, list the living.
--
-- KEYS: processes (a sorted set by the time of their last beat)
-- ARGV: process ('' only to list), lease (ms)
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], milliseconds, ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', milliseconds - ARGV[2])
return redis.call('ZRANGE', KEYS[1], 0, -1)
