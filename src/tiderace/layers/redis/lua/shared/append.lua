-- Deletes the entries of a stream up to an offset.
local function trim(stream, last)
  if last > 0 then
    redis.call('XTRIM', stream, 'MINID', '~', string.format('%.0f-0', last + 1))
  end
end

-- Appends a message to a group's stream, deletes what is not kept any longer, and decides
-- until when publications may leave this out. The arguments are those of publish.lua.
--
-- Returns: epoch and offset, with a space between them.
local function append(stream, meta, server, data, id, options, now, now_text)
  local capacity, ttl, position_ttl_ms, _, max_bytes, history_size, history_ttl_ms, leap =
    struct.unpack('<dddddddd', options)
  local last_offset, published_at, bytes, _, _, _, epoch, replication, _, size, history_ttl,
    position_ttl, step, step_before, first_step, checkpoint, checkpoint_at,
    history_checkpoint, history_checkpoint_at, stream_ends_at, leaps = load_state(meta)
  local before
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
    size, history_ttl = history_size, history_ttl_ms
  end
  local kept = math.max(size, 0)
  local has_history = kept > 0 and history_ttl > ttl
  -- Bytes since the last step, four of which are kept.
  bytes = bytes + #data
  local step_size = max_bytes / 4

  local max_length = string.format('%.0f', math.max(capacity, kept))
  local number = string.format('%.0f', offset)
  local entry_id = number .. '-' .. now_text
  local is_kept = not before and redis.call('XADD', stream, 'NOMKSTREAM',
    'MAXLEN', '~', max_length, entry_id, 'i', id, 'd', data)
  if before then
    redis.call('XADD', stream, 'MAXLEN', '~', max_length, entry_id,
      'i', id, 'd', data, 'b', before)
  elseif not is_kept then
    -- A new stream, which has no time to live yet.
    redis.call('XADD', stream, entry_id, 'i', id, 'd', data)
  end

  if bytes > step_size then
    trim(stream, first_step)
    first_step, step_before, step, bytes = step_before, step, offset, 0
  end
  -- The messages up to the last checkpoint are older than ttl, so a busy group keeps the
  -- messages of two periods at most.
  if now - checkpoint_at >= ttl then
    local expired = checkpoint
    if has_history then expired = math.min(expired, history_start(offset, kept, leaps)) end
    trim(stream, expired)
    checkpoint, checkpoint_at = offset, now
  end
  if has_history and now - history_checkpoint_at >= history_ttl then
    trim(stream, history_checkpoint)
    history_checkpoint, history_checkpoint_at = offset, now
  end
  local stream_ttl = has_history and history_ttl or ttl
  if not is_kept or has_other_history then
    redis.call('PEXPIRE', stream, stream_ttl)
    stream_ends_at = now + stream_ttl
  elseif stream_ends_at - now < stream_ttl then
    -- A quarter longer than necessary, so that it is not renewed by each publication.
    redis.call('PEXPIRE', stream, math.floor(stream_ttl * 1.25))
    stream_ends_at = now + stream_ttl * 1.25
  end
  position_ttl = math.max(position_ttl_ms, history_ttl * 10)
  -- The time to live of the position is renewed when a tenth of it has passed.
  local settled_until = math.min(
    now + position_ttl * 0.1, checkpoint_at + ttl, stream_ends_at - stream_ttl)
  if has_history then
    settled_until = math.min(settled_until, history_checkpoint_at + history_ttl)
  end
  save_state(meta, offset, now, bytes, settled_until, step_size, options, epoch, replication,
    max_length, size, history_ttl, position_ttl, step, step_before, first_step, checkpoint,
    checkpoint_at, history_checkpoint, history_checkpoint_at, stream_ends_at, leaps)
  return epoch .. ' ' .. number
end
