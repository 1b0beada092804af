-- Reads a group's stream within its history: all of it, or about a megabyte. Creates the
-- stream if there is none.
--
-- KEYS: stream, meta, server (see replication_id)
-- ARGV: since_epoch ('' for any), above and below (offsets that bound what is read, '' for
--       no bound), limit (-1 for all), reverse ('1' for the newest first), history_size
--       ('' on the calls after the first, whose bounds cover it), history_ttl_ms,
--       new_epoch, position_ttl_ms (of meta), empty_ttl_ms (of meta before the first
--       publication; listeners extend it)
-- Returns: epoch, last offset, entries as (offset, offset of the one before, age in ms,
--          data), 1 if there is more, and above and below for the next call
local stream, meta, server = unpack(KEYS)
local since_epoch, above, below, limit, reverse, history_size, history_ttl_ms, new_epoch,
  position_ttl_ms, empty_ttl_ms = unpack(ARGV)
local now = now_ms()
local size, ttl = tonumber(history_size), tonumber(history_ttl_ms)

local state = {load_state(meta)}
if not state[1] then
  state = {0, now, 0, 0, 0, string.rep('\0', 64), new_epoch, replication_id(server, now), '',
    -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ''}
  redis.call('DEL', stream)
end
local last_offset, epoch, position_ttl, leaps = state[1], state[7], state[12], state[21]
if state[10] < 0 and size then
  -- No publication has set a history yet: messages of the group are kept by that of the
  -- reader.
  position_ttl = math.max(position_ttl, tonumber(position_ttl_ms), ttl * 10)
  -- Clients can subscribe to any number of names.
  if last_offset == 0 then position_ttl = tonumber(empty_ttl_ms) end
  state[10], state[11], state[12] = size, ttl, position_ttl
  -- The next publication decides how long the history is kept.
  state[4] = 0
  save_state(meta, unpack(state, 1, 21))
  if size > 0 and redis.call('PTTL', stream) < ttl then
    redis.call('PEXPIRE', stream, ttl)
  end
else
  redis.call('PEXPIRE', meta, position_ttl)
end

local low, high = tonumber(above) or 0, tonumber(below) or last_offset + 1
if size then low = math.max(low, history_start(last_offset, size, leaps)) end
local left = tonumber(limit)
local entries, bytes, seen = {}, 0, 0
local done = left == 0 or (since_epoch ~= '' and since_epoch ~= epoch)

local function next_entries()
  -- Of the last one the whole id, whose second part is its time.
  local first, last = string.format('%.0f-0', low + 1), string.format('%.0f', high - 1)
  if reverse == '1' then
    return redis.call('XREVRANGE', stream, last, first, 'COUNT', 50)
  end
  return redis.call('XRANGE', stream, first, last, 'COUNT', 50)
end

while not done and low + 1 < high and bytes < 1000000 and seen < 1000 do
  local found = next_entries()
  for _, entry in ipairs(found) do
    local fields = entry[2]
    local number, at = string.match(entry[1], '^(%d+)-(%d+)')
    local offset, age = tonumber(number), now - tonumber(at)
    if reverse == '1' then high = offset else low = offset end
    if age < ttl then
      table.insert(entries, {offset, tonumber(fields[6] or offset - 1), age, fields[4]})
      bytes = bytes + #fields[4]
      left = left - 1
    elseif reverse == '1' then
      left = 0
    end
    if left == 0 then break end
  end
  seen = seen + #found
  done = left == 0 or #found < 50
end
return {epoch, last_offset, entries, (done or low + 1 >= high) and 0 or 1, low, high}
