-- Appends a message to a group's stream and publishes it, in one step.
--
-- KEYS: stream, meta, members (sorted set: named channel by join time), server (the
--       server's replication id, see replication_id), once (what was published under the
--       idempotency key; left out when there is no such key)
-- ARGV: channel (pub/sub), data, id (of the message), capacity, ttl_ms (of the stream),
--       position_ttl_ms (of meta), new_epoch, is_retry ('1' or '0'), members_age_ms (how
--       long a membership lasts, 0 for ever), leap (added to the offset after a
--       failover), elapsed_ms (since the first try, at most), publish (command),
--       history_size ('' to leave it as it is), history_ttl_ms, once_ttl_ms, max_bytes
--       (of the stream)
-- Returns: epoch, offset, named channels in the group
local stream, meta, members, server, once = unpack(KEYS)
local channel, data, id, capacity, ttl_ms, position_ttl_ms, new_epoch, is_retry,
  members_age_ms, leap, elapsed_ms, publish, history_size, history_ttl_ms,
  once_ttl_ms, max_bytes = unpack(ARGV)
local now = now_ms()

local function find(oldest)
  local upto = '+'
  while true do
    local entries = redis.call('XREVRANGE', stream, upto, '-', 'COUNT', 50)
    for _, entry in ipairs(entries) do
      if entry[2][2] == id then return entry[1] end
      if tonumber(entry[2][4]) < oldest then return nil end
    end
    if #entries < 50 then return nil end
    upto = '(' .. entries[50][1]
  end
end

local function named_channels()
  if redis.call('EXISTS', members) == 0 then return {} end
  redis.call('ZREMRANGEBYSCORE', members, '-inf', now - members_age_ms)
  return redis.call('ZRANGE', members, 0, -1)
end

if once then
  local published = redis.call('GET', once)
  if published then
    local of, at, earlier = string.match(published, '^(%x+) (%d+) (.*)$')
    -- The same message is a retry, whose first reply was lost.
    return {of, tonumber(at), earlier == id and named_channels() or {}}
  end
end
local epoch, last_offset, published_at, replication, leaps, size, history_ttl, _, bytes,
  steps, checkpoint, checkpoint_at, history_checkpoint, history_checkpoint_at =
  load_state(meta)
local before
if epoch and is_retry == '1' then
  -- The first try may have been executed although its reply was lost.
  local found = find(now - elapsed_ms)
  if found then
    return {epoch, tonumber(string.match(found, '^%d+')), named_channels()}
  end
end
if not epoch then
  epoch, last_offset, published_at, replication, leaps, size, history_ttl, bytes, steps,
    checkpoint, checkpoint_at, history_checkpoint, history_checkpoint_at =
    new_epoch, 0, now, replication_id(server, now), '', false, 0, 0, '0 0 0', 0, 0, 0, 0
  -- Entries of an older epoch would have higher offsets.
  redis.call('DEL', stream)
elseif math.abs(now - published_at) > 20 then
  -- After a failover, or a restart from a file, the server may lack the last messages,
  -- which subscribers have received: their offsets must not be used again. No failover
  -- takes less than 20 ms, so a busy group is spared the question.
  local current = replication_id(server, now)
  if current ~= replication then
    before, last_offset = last_offset, last_offset + tonumber(leap)
    replication = current
    -- Of earlier leaps, only those of the last weeks matter.
    leaps = string.format('%.0f %.0f ', before, last_offset + 1) .. string.sub(leaps, 1, 200)
    leaps = string.match(leaps, '^.* ')
  end
end
local offset = last_offset + 1

-- Everything is kept for ttl_ms, for processes that were disconnected. The last
-- history_size entries are kept for history_ttl_ms, by whatever publication.
local ttl = tonumber(ttl_ms)
if history_size ~= '' then
  size, history_ttl = tonumber(history_size), tonumber(history_ttl_ms)
end
local kept = size or 0
local has_history = kept > 0 and history_ttl > ttl
local position_ttl = math.max(tonumber(position_ttl_ms), history_ttl * 10)
-- Bytes since the last step, four of which are kept.
bytes = bytes + #data
local is_step = bytes > tonumber(max_bytes) / 4

local max_length = math.max(tonumber(capacity), kept)
local entry_id = string.format('%.0f-0', offset)
if before then
  redis.call('XADD', stream, 'MAXLEN', '~', max_length, entry_id,
    'i', id, 't', now, 'd', data, 'b', before)
else
  redis.call('XADD', stream, 'MAXLEN', '~', max_length, entry_id,
    'i', id, 't', now, 'd', data)
end

local function trim(last)
  if last > 0 then
    redis.call('XTRIM', stream, 'MINID', '~', string.format('%.0f-0', last + 1))
  end
end
if is_step then
  local newer, last = string.match(steps, '^(%d+ %d+) (%d+)$')
  trim(tonumber(last))
  steps, bytes = string.format('%.0f ', offset) .. newer, 0
end
-- What was there at the last checkpoint has expired since, so a busy group keeps the
-- messages of two periods at most.
if now - checkpoint_at >= ttl then
  local expired = checkpoint
  if has_history then expired = math.min(expired, history_start(offset, kept, leaps)) end
  trim(expired)
  checkpoint, checkpoint_at = offset, now
end
if has_history and now - history_checkpoint_at >= history_ttl then
  trim(history_checkpoint)
  history_checkpoint, history_checkpoint_at = offset, now
end
redis.call('PEXPIRE', stream, has_history and history_ttl or ttl)
save_state(meta, epoch, offset, now, replication, leaps, size, history_ttl, position_ttl,
  bytes, steps, checkpoint, checkpoint_at, history_checkpoint, history_checkpoint_at)
local position = epoch .. ' ' .. string.format('%.0f', offset) .. ' '
if once then redis.call('SET', once, position .. id, 'PX', once_ttl_ms) end
publish_message(publish, channel, position .. data)
return {epoch, offset, named_channels()}
