-- Appends a message to a group's stream and publishes it, in one step.
--
-- KEYS: stream, meta, members (sorted set: named channel by join time), server (the
--       server's replication id, see replication_id), bucket (of tokens, one of which is
--       taken; left out without a rate), once (what was published under the idempotency
--       key; left out when there is no such key)
-- ARGV: channel (pub/sub), publish (command), data, id (of the message, 12 random bytes),
--       options (packed numbers: capacity; ttl_ms of the stream; position_ttl_ms, of meta;
--       members_age_ms, how long a membership lasts; max_bytes of the stream;
--       history_size, -1 to leave it as it is; history_ttl_ms; leap, the number of offsets
--       that are skipped after a failover, to which up to as many are added at random),
--       rate (packed numbers: tokens in a full bucket, period_ms to fill it; '' for no
--       limit), once_ttl_ms, since_ms (for a retry, at least the time since the first try);
--       the last ones are left out when they are not needed
-- Returns: epoch and offset, with a space between them; where the group has named
--          channels, a list of this text and the channels. A list takes Redis a tenth of
--          the script's time. When there is no token, the time until there is one (ms).
local stream, meta, members, server, bucket, once = unpack(KEYS)
local channel, publish, data, id, options, rate, once_ttl_ms, since_ms = unpack(ARGV)
local is_limited = rate and rate ~= ''
if not is_limited then once = bucket end
local now, now_text = now_ms()
-- Where the message is, and whether an earlier call has published it there.
local position, was_published

if once then
  local published = redis.call('GET', once)
  if published then
    local earlier
    position, earlier = string.match(published, '^(%x+ %d+) (.*)$')
    -- With the same id this is a retry of that call, whose reply was lost.
    was_published = earlier == id
  end
end
if since_ms and not position then
  position = find_earlier(stream, meta, id, since_ms, now)
  was_published = position
end

-- A retry takes no second token, and is not refused after its first try was executed.
if is_limited and not was_published then
  local count, period_ms = struct.unpack('<dd', rate)
  local wait = take_token(bucket, count, period_ms, now)
  if wait > 0 then return wait end
end
if position and not was_published then return position end

-- Most publications change nothing but the first numbers of the state. For them the rest of
-- it, and what follows from it, is left out, which takes a third of the time.
local packed = not position and redis.call('GET', meta)
if packed then
  local last_offset, published_at, bytes, settled_until, step_size, known, epoch,
    replication, max_length = struct.unpack('<dddddc64c12ss', packed)
  local age = now - published_at
  bytes = bytes + #data
  if options == known and now < settled_until and bytes <= step_size
    -- No failover takes less than 20 ms; see append.
    and (age >= 0 and age <= 20 or replication_id(server, now) == replication)
  then
    local offset = last_offset + 1
    local number = string.format('%.0f', offset)
    if redis.call('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', max_length,
        number .. '-' .. now_text, 'i', id, 'd', data) then
      redis.call('SETRANGE', meta, 0, struct.pack('<ddd', offset, now, bytes))
      position = epoch .. ' ' .. number
    end
  end
end

if not position then
  position = append(stream, meta, server, data, id, options, now, now_text)
end
if not was_published then
  if once then redis.call('SET', once, position .. ' ' .. id, 'PX', once_ttl_ms) end
  publish_message(publish, channel, position .. ' ' .. data)
end
if redis.call('EXISTS', members) == 0 then return position end
local members_age_ms = struct.unpack('<d', options, 25)
redis.call('ZREMRANGEBYSCORE', members, '-inf', now - members_age_ms)
return {position, redis.call('ZRANGE', members, 0, -1)}
