-- Appends a message to a group's stream and publishes it, in one step.
--
-- KEYS: stream, meta, members (sorted set: named channel by join time), server (the
--       server's replication id, see replication_id), once (what was published under the
--       idempotency key; left out when there is no such key)
-- ARGV: channel (pub/sub), publish (command), data, id (of the message, 12 random bytes),
--       since_ms ('' for the first try, else at least the time since then), once_ttl_ms,
--       options (packed numbers: capacity; ttl_ms of the stream; position_ttl_ms, of meta;
--       members_age_ms, how long a membership lasts; max_bytes of the stream;
--       history_size, -1 to leave it as it is; history_ttl_ms; leap, the number of offsets
--       that are skipped after a failover, to which up to as many are added at random)
-- Returns: epoch, offset, named channels in the group
local stream, meta, members, server, once = unpack(KEYS)
local channel, publish, data, id, since_ms, once_ttl_ms, options = unpack(ARGV)
local capacity, ttl, position_ttl_ms, members_age_ms, max_bytes, history_size,
  history_ttl_ms, leap = struct.unpack('<dddddddd', options)
local now = now_ms()

local function find(oldest)
  local upto = '+'
  while true do
    local entries = redis.call('XREVRANGE', stream, upto, '-', 'COUNT', 50)
    for _, entry in ipairs(entries) do
      local found, at = string.match(entry[1], '^(%d+)-(%d+)')
      if entry[2][2] == id then return tonumber(found) end
      if tonumber(at) < oldest then return nil end
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
    -- With the same id it is a retry of this call, whose first reply was lost.
    return {of, tonumber(at), earlier == id and named_channels() or {}}
  end
end
local last_offset, published_at, bytes, size, history_ttl, position_ttl, ends_at, step,
  step_before, first_step, checkpoint, checkpoint_at, history_checkpoint,
  history_checkpoint_at, stream_ends_at, epoch, replication, leaps = load_state(meta)
-- Whether more of the state has changed than the numbers that every publication changes.
local has_changed = not last_offset
local before
if last_offset and since_ms ~= '' then
  -- The first try may have been executed although its reply was lost.
  local found = find(now - since_ms)
  if found then
    return {epoch, found, named_channels()}
  end
end
if not last_offset then
  last_offset, published_at, bytes, size, history_ttl, step, step_before, first_step,
    checkpoint, checkpoint_at, history_checkpoint, history_checkpoint_at, stream_ends_at,
    leaps =
    0, now, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, ''
  epoch = string.gsub(string.sub(id, 1, 6), '.', function(byte)
    return string.format('%02x', string.byte(byte))
  end)
  replication = replication_id(server, now)
  -- Entries of an older epoch would have higher offsets.
  redis.call('DEL', stream)
elseif math.abs(now - published_at) > 20 then
  -- After a failover, or a restart from a file, the server may lack the last messages,
  -- which subscribers have received: their offsets must not be used again. No failover
  -- takes less than 20 ms, so it is not checked for a busy group.
  local current = replication_id(server, now)
  if current ~= replication then
    has_changed = true
    local random = struct.unpack('<I4', id)
    before, last_offset = last_offset, last_offset + leap + random % leap
    replication = current
    -- Only the leaps of the last weeks matter: older ones are cut off.
    leaps = string.format('%.0f %.0f ', before, last_offset + 1) .. string.sub(leaps, 1, 200)
    leaps = string.match(leaps, '^.* ')
  end
end
local offset = last_offset + 1

-- All entries are kept for ttl, for processes that were disconnected. The last
-- history_size entries are kept for history_ttl.
local has_other_history =
  history_size >= 0 and (history_size ~= size or history_ttl_ms ~= history_ttl)
if has_other_history then
  size, history_ttl, has_changed = history_size, history_ttl_ms, true
end
local kept = math.max(size, 0)
local has_history = kept > 0 and history_ttl > ttl
-- Bytes since the last step, four of which are kept.
bytes = bytes + #data
local is_step = bytes > max_bytes / 4

local max_length = math.max(capacity, kept)
local number = string.format('%.0f', offset)
local entry_id = number .. string.format('-%.0f', now)
local is_kept = not before and redis.call('XADD', stream, 'NOMKSTREAM',
  'MAXLEN', '~', max_length, entry_id, 'i', id, 'd', data)
if before then
  redis.call('XADD', stream, 'MAXLEN', '~', max_length, entry_id,
    'i', id, 'd', data, 'b', before)
elseif not is_kept then
  -- A new stream, which has no time to live yet.
  redis.call('XADD', stream, entry_id, 'i', id, 'd', data)
end

local function trim(last)
  if last > 0 then
    redis.call('XTRIM', stream, 'MINID', '~', string.format('%.0f-0', last + 1))
  end
end
if is_step then
  trim(first_step)
  first_step, step_before, step, bytes, has_changed = step_before, step, offset, 0, true
end
-- The messages up to the last checkpoint are older than ttl, so a busy group keeps the
-- messages of two periods at most.
if now - checkpoint_at >= ttl then
  local expired = checkpoint
  if has_history then expired = math.min(expired, history_start(offset, kept, leaps)) end
  trim(expired)
  checkpoint, checkpoint_at, has_changed = offset, now, true
end
if has_history and now - history_checkpoint_at >= history_ttl then
  trim(history_checkpoint)
  history_checkpoint, history_checkpoint_at, has_changed = offset, now, true
end
local stream_ttl = has_history and history_ttl or ttl
if not is_kept or has_other_history then
  redis.call('PEXPIRE', stream, stream_ttl)
  stream_ends_at, has_changed = now + stream_ttl, true
elseif stream_ends_at - now < stream_ttl then
  -- A quarter longer than necessary, so that it is not renewed by each publication.
  redis.call('PEXPIRE', stream, math.floor(stream_ttl * 1.25))
  stream_ends_at, has_changed = now + stream_ttl * 1.25, true
end
position_ttl = math.max(position_ttl_ms, history_ttl * 10)
-- The time to live of the position is renewed when a tenth of it has passed.
if has_changed or ends_at - now < position_ttl * 0.9 then
  save_state(meta, offset, now, bytes, size, history_ttl, position_ttl, now + position_ttl,
    step, step_before, first_step, checkpoint, checkpoint_at, history_checkpoint,
    history_checkpoint_at, stream_ends_at, epoch, replication, leaps)
else
  redis.call('SETRANGE', meta, 0, struct.pack('<ddd', offset, now, bytes))
end
local position = epoch .. ' ' .. number .. ' '
if once then redis.call('SET', once, position .. id, 'PX', once_ttl_ms) end
publish_message(publish, channel, position .. data)
return {epoch, offset, named_channels()}
