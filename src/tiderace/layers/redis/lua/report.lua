-- Stores the report of a process, and notifies its subscribers.
--
-- KEYS: stats (string)
-- ARGV: channel (pub/sub), data, ttl_ms, publish (command)
local stats = unpack(KEYS)
local channel, data, ttl_ms, publish = unpack(ARGV)

redis.call('SET', stats, data, 'PX', ttl_ms)
publish_message(publish, channel, '')
