-- Adds a named channel to a group.
--
-- KEYS: members (sorted set: named channel by join time)
-- ARGV: member, ttl_ms
-- Returns: 1
local members = unpack(KEYS)
local member, ttl_ms = unpack(ARGV)

redis.call('ZADD', members, now_ms(), member)
redis.call('PEXPIRE', members, ttl_ms)
return 1
