-- How many are present in a group.
--
-- KEYS: deadlines, users
-- Returns: connections, users
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {
  redis.call('ZCOUNT', KEYS[1], string.format('(%.0f', now), '+inf'),
  redis.call('HLEN', KEYS[2])
}
