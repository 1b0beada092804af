-- Put a message into a named queue, unless it is full.
--
-- KEYS: queue (a list)
-- ARGV: pub/sub channel, data, message id (16 bytes), capacity, time to live (ms),
--       "1" for a repeated try, verb to publish with
-- Returns: 1 if it is in, 0 if the queue was full
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)

-- Every item is its deadline (16 digits), its id (16 bytes), and its data.
while true do
  local head = redis.call('LINDEX', KEYS[1], 0)
  if not head or tonumber(string.sub(head, 1, 16)) > milliseconds then break end
  redis.call('LPOP', KEYS[1])
end
if ARGV[6] == '1' then
  for _, item in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    if string.sub(item, 17, 32) == ARGV[3] then return 1 end
  end
end
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
local deadline = string.format('%016d', milliseconds + tonumber(ARGV[5]))
redis.call('RPUSH', KEYS[1], deadline .. ARGV[3] .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
tell(ARGV[7], ARGV[1], '')
return 1
