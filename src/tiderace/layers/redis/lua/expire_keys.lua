-- Shortens the life of idempotency keys of a group.
--
-- KEYS: any number of idempotency keys
-- ARGV: ttl_ms (the longest that they live from now on)
local ttl_ms = unpack(ARGV)
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) > tonumber(ttl_ms) then
    redis.call('PEXPIRE', key, ttl_ms)
  end
end
