-- Appends a message to a named queue, unless it is full.
--
-- KEYS: queue (list)
-- ARGV: channel (pub/sub), data, id (16 bytes), capacity, ttl_ms, is_retry ('1' or '0'),
--       publish (command)
-- Returns: 1 if the message is in the queue, 0 if the queue was full
local queue = unpack(KEYS)
local channel, data, id, capacity, ttl_ms, is_retry, publish = unpack(ARGV)
local now = now_ms()

-- Each item is its deadline (16 digits), its id (16 bytes) and its data.
while true do
  local head = redis.call('LINDEX', queue, 0)
  if not head or tonumber(string.sub(head, 1, 16)) > now then break end
  redis.call('LPOP', queue)
end
if is_retry == '1' then
  for _, item in ipairs(redis.call('LRANGE', queue, 0, -1)) do
    if string.sub(item, 17, 32) == id then return 1 end
  end
end
if redis.call('LLEN', queue) >= tonumber(capacity) then return 0 end
local deadline = string.format('%016d', now + tonumber(ttl_ms))
redis.call('RPUSH', queue, deadline .. id .. data)
redis.call('PEXPIRE', queue, ttl_ms)
publish_message(publish, channel, '')
return 1
