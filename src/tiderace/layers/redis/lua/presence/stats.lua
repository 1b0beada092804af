-- Counts the members of a group.
--
-- KEYS: deadlines, users
-- Returns: number of connections, number of users
local deadlines, users = unpack(KEYS)

return {
  redis.call('ZCOUNT', deadlines, string.format('(%.0f', now_ms()), '+inf'),
  redis.call('HLEN', users)
}
