-- Append a message to a subject's stream and publish it, in one step.
--
-- KEYS: stream, meta, plain members (a sorted set of channel names), and where there is
--       an idempotency key, what was published under it
-- ARGV: pub/sub channel, data, message id, capacity, time to live of the stream (ms),
--       time to live of the meta key (ms), epoch to begin with, "1" for a repeated try,
--       oldest join time of a plain member (ms of the server's clock, 0 for any age),
--       how far to leap after a failover, how long ago the first try can have been
--       (ms), verb to publish with, size of the history ('' to leave it as it is), its
--       time to live (ms), how long an idempotency key is remembered (ms)
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

local function plain_members()
  if redis.call('EXISTS', KEYS[3]) == 0 then return {} end
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', milliseconds - ARGV[9])
  return redis.call('ZRANGE', KEYS[3], 0, -1)
end

if KEYS[4] then
  local done = redis.call('GET', KEYS[4])
  if done then
    local of, at, id = string.match(done, '^(%x+) (%d+) (.*)$')
    -- Of this very message it is a repeated try, whose answer got lost.
    return {of, tonumber(at), id == ARGV[3] and plain_members() or {}}
  end
end
local meta = redis.call('HMGET', KEYS[2],
  'e', 'n', 't', 'r', 'c', 'ct', 'hs', 'hm', 'h', 'ht')
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
  redis.call('HSET', KEYS[2], 'e', epoch, 'r', run())
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

-- Everything is kept for a short time, for processes that were cut off; for those who
-- read the stream the last ones are kept longer, whoever publishes.
local whole = tonumber(ARGV[5])
local size, lasts = tonumber(meta[7] or 0), tonumber(meta[8] or 0)
if ARGV[13] ~= '' and not (
  meta[7] and tonumber(ARGV[13]) == size and tonumber(ARGV[14]) == lasts
) then
  size, lasts = tonumber(ARGV[13]), tonumber(ARGV[14])
  redis.call('HSET', KEYS[2], 'hs', size, 'hm', lasts)
end
local longer = size > 0 and lasts > whole
local position_lasts = math.max(tonumber(ARGV[6]), lasts * 10)
redis.call('HSET', KEYS[2], 'n', offset, 't', milliseconds, 'l', position_lasts)

local capacity = math.max(tonumber(ARGV[4]), size)
local id = string.format('%.0f-0', offset)
if before then
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', capacity, id,
    'i', ARGV[3], 't', milliseconds, 'd', ARGV[2], 'b', before)
else
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', capacity, id,
    'i', ARGV[3], 't', milliseconds, 'd', ARGV[2])
end

local function trim(last)
  if last > 0 then
    redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f-0', last + 1))
  end
end
-- What stood at the last checkpoint has expired since: a busy subject keeps the messages
-- of two such times at most.
if milliseconds - tonumber(meta[6] or 0) >= whole then
  local expired = tonumber(meta[5] or 0)
  trim(longer and math.min(expired, offset - size) or expired)
  redis.call('HSET', KEYS[2], 'c', offset, 'ct', milliseconds)
end
if longer and milliseconds - tonumber(meta[10] or 0) >= lasts then
  trim(tonumber(meta[9] or 0))
  redis.call('HSET', KEYS[2], 'h', offset, 'ht', milliseconds)
end
redis.call('PEXPIRE', KEYS[1], longer and lasts or whole)
redis.call('PEXPIRE', KEYS[2], position_lasts)
local place = epoch .. ' ' .. string.format('%.0f', offset) .. ' '
if KEYS[4] then redis.call('SET', KEYS[4], place .. ARGV[3], 'PX', ARGV[15]) end
tell(ARGV[12], ARGV[1], place .. ARGV[2])
return {epoch, offset, plain_members()}
