-- Append a message to a subject's stream and publish it, in one step.
--
-- KEYS: stream, meta, plain members (a sorted set of channel names)
-- ARGV: pub/sub channel, data, message id, capacity, time to live of the stream (ms),
--       time to live of the meta key (ms), epoch to begin with, "1" for a repeated try,
--       oldest join time of a plain member (ms of the server's clock, 0 for any age)
-- Returns: epoch, offset, plain members
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)

local epoch = redis.call('HGET', KEYS[2], 'e')
if ARGV[8] == '1' and epoch then
  -- The first try may have arrived although its answer did not.
  for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-')) do
    if entry[2][2] == ARGV[3] then
      return {epoch, tonumber(string.match(entry[1], '^%d+')), {}}
    end
  end
end
if not epoch then
  epoch = ARGV[7]
  redis.call('HSET', KEYS[2], 'e', epoch)
  -- What an older epoch left would have higher offsets.
  redis.call('DEL', KEYS[1])
end
local offset = redis.call('HINCRBY', KEYS[2], 'n', 1)
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], offset .. '-0',
  'i', ARGV[3], 't', milliseconds, 'd', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
redis.call('PUBLISH', ARGV[1], epoch .. ' ' .. offset .. ' ' .. ARGV[2])

local members = {}
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', milliseconds - ARGV[9])
  members = redis.call('ZRANGE', KEYS[3], 0, -1)
end
return {epoch, offset, members}
