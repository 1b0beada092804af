-- What a subject's stream holds after an offset.
--
-- KEYS: stream, meta
-- ARGV: offset
-- Returns: epoch ('' when nothing is known), top offset, entries as (offset, offset of
--          the one before, age in ms, data)
local meta = redis.call('HMGET', KEYS[2], 'e', 'n')
if not meta[1] then
  return {'', 0, {}}
end
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)
local entries = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-0', '+')) do
  local fields = entry[2]
  local offset = tonumber(string.match(entry[1], '^%d+'))
  table.insert(entries, {
    offset, tonumber(fields[8] or offset - 1), milliseconds - tonumber(fields[4]), fields[6]
  })
end
return {meta[1], tonumber(meta[2]), entries}
