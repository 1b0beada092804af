-- What a subject's stream has, exactly: no more than its readers are promised, or as
-- much of it as is well sent in one answer. A stream begins here if there is none.
--
-- KEYS: stream, meta
-- ARGV: the epoch asked about ('' for any), the offset below the first one and the one
--       above the last one ('' where there is no bound), how many at most (-1 for all),
--       "1" for the newest first, size of the history ('' where the bounds say it),
--       its time to live (ms), epoch to begin with, time to live of the meta key (ms)
-- Returns: epoch, top offset, entries as (offset, offset of the one before, age in ms,
--          data), 1 if there is more, and the bounds for that
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)
local size, lasts = tonumber(ARGV[6]), tonumber(ARGV[7])

local meta = redis.call('HMGET', KEYS[2], 'e', 'n', 'l', 'hs')
local epoch, top = meta[1] or ARGV[8], tonumber(meta[2] or 0)
local position_lasts = tonumber(meta[3] or 0)
if not meta[1] then
  redis.call('HSET', KEYS[2], 'e', epoch, 'n', 0, 'r', run())
  redis.call('DEL', KEYS[1])
end
if not meta[4] and size then
  -- Nobody has published with a promise yet: group messages count on this one.
  position_lasts = math.max(position_lasts, tonumber(ARGV[9]), lasts * 10)
  redis.call('HSET', KEYS[2], 'hs', size, 'hm', lasts, 'l', position_lasts)
  if size > 0 and redis.call('PTTL', KEYS[1]) < lasts then
    redis.call('PEXPIRE', KEYS[1], lasts)
  end
end
if position_lasts > 0 then redis.call('PEXPIRE', KEYS[2], position_lasts) end

local low, high = tonumber(ARGV[2]) or 0, tonumber(ARGV[3]) or top + 1
if size then low = math.max(low, top - size) end
local left = tonumber(ARGV[4])
local entries, bytes, seen = {}, 0, 0
local done = left == 0 or (ARGV[1] ~= '' and ARGV[1] ~= epoch)

local function some()
  local first, last = string.format('%.0f-0', low + 1), string.format('%.0f-0', high - 1)
  if ARGV[5] == '1' then
    return redis.call('XREVRANGE', KEYS[1], last, first, 'COUNT', 50)
  end
  return redis.call('XRANGE', KEYS[1], first, last, 'COUNT', 50)
end

while not done and low + 1 < high and bytes < 1000000 and seen < 1000 do
  local found = some()
  for _, entry in ipairs(found) do
    local fields = entry[2]
    local offset = tonumber(string.match(entry[1], '^%d+'))
    local age = milliseconds - tonumber(fields[4])
    if ARGV[5] == '1' then high = offset else low = offset end
    if age < lasts then
      table.insert(entries, {offset, tonumber(fields[8] or offset - 1), age, fields[6]})
      bytes = bytes + #fields[6]
      left = left - 1
    elseif ARGV[5] == '1' then
      left = 0
    end
    if left == 0 then break end
  end
  seen = seen + #found
  done = left == 0 or #found < 50
end
return {epoch, top, entries, (done or low + 1 >= high) and 0 or 1, low, high}
