-- Notes that a process is alive, and removes those without a heartbeat for a lease.
--
-- KEYS: processes (sorted set: process by the time of its last heartbeat)
-- ARGV: process ('' only to list), lease_ms
-- Returns: the processes that are alive
local processes = unpack(KEYS)
local process, lease_ms = unpack(ARGV)

local now = now_ms()
if process ~= '' then
  redis.call('ZADD', processes, now, process)
  redis.call('PEXPIRE', processes, lease_ms)
end
redis.call('ZREMRANGEBYSCORE', processes, '-inf', now - lease_ms)
return redis.call('ZRANGE', processes, 0, -1)
