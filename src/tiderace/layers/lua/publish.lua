-- Append a message to a subject's stream and publish it, in one step.
--
-- KEYS: stream, meta, plain members (a sorted set of channel names)
-- ARGV: pub/sub channel, data, message id, capacity, time to live of the stream (ms),
--       time to live of the meta key (ms), epoch to begin with, "1" for a repeated try,
--       oldest join time of a plain member (ms of the server's clock, 0 for any age),
--       how far to leap after a failover, how long ago the first try can have been
--       (ms), verb to publish with
-- Returns: epoch, offset, plain members
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)

local function find(id, oldest)
  local upto = '+'
  while true do
    local entries = redis.call('XREVRANGE', KEYS[1], upto, '-', 'COUNT', 50)
    for _, entry in ipairs(entries) do
      if entry[2][2] == id then return entry[1] end
      if tonumber(entry[2][4]) < oldest then return nil end
    end
    if #entries < 50 then return nil end
    upto = '(' .. entries[50][1]
  end
end

-- Which life of which server this is. Not every user may ask; then we do without.
local function run()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
end

local function plain_members()
  if redis.call('EXISTS', KEYS[3]) == 0 then return {} end
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', milliseconds - ARGV[9])
  return redis.call('ZRANGE', KEYS[3], 0, -1)
end

local meta = redis.call('HMGET', KEYS[2], 'e', 'n', 't', 'r', 'c', 'ct')
local epoch, top, before = meta[1], tonumber(meta[2] or 0), nil
if epoch and ARGV[8] == '1' then
  -- The first try may have arrived although its answer did not.
  local found = find(ARGV[3], milliseconds - ARGV[11])
  if found then
    return {epoch, tonumber(string.match(found, '^%d+')), plain_members()}
  end
end
if not epoch then
  epoch, top = ARGV[7], 0
  redis.call('HSET', KEYS[2], 'e', epoch, 'r', run(), 'l', ARGV[6])
  -- What an older epoch left would have higher offsets.
  redis.call('DEL', KEYS[1])
elseif math.abs(milliseconds - tonumber(meta[3] or 0)) > 20 then
  -- A server that took over, or came back with its file, may lack the last messages
  -- others have already got. Their offsets must not be given again. No takeover is as
  -- quick as this, so a busy subject is spared the question.
  local this = run()
  if this ~= meta[4] then
    before, top = top, top + tonumber(ARGV[10])
    redis.call('HSET', KEYS[2], 'r', this)
  end
end
local offset = top + 1
redis.call('HSET', KEYS[2], 'n', offset, 't', milliseconds)
local id = string.format('%.0f-0', offset)
if before then
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], id,
    'i', ARGV[3], 't', milliseconds, 'd', ARGV[2], 'b', before)
else
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], id,
    'i', ARGV[3], 't', milliseconds, 'd', ARGV[2])
end
if not meta[1] or milliseconds - tonumber(meta[6] or 0) >= tonumber(ARGV[5]) then
  -- What stood at the last checkpoint has expired since: a busy subject keeps the
  -- messages of two such times at most.
  if meta[1] and meta[5] then
    redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f-0', meta[5] + 1))
  end
  redis.call('HSET', KEYS[2], 'c', offset, 'ct', milliseconds)
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
tell(ARGV[12], ARGV[1], epoch .. ' ' .. string.format('%.0f', offset) .. ' ' .. ARGV[2])
return {epoch, offset, plain_members()}
