-- What a subject's stream holds after an offset: all of it, or as much as is well sent
-- in one answer.
--
-- KEYS: stream, meta
-- ARGV: offset ('' to ask for no entries)
-- Returns: epoch ('' when nothing is known), top offset, entries as (offset, offset of
--          the one before, age in ms, data)
local meta = redis.call('HMGET', KEYS[2], 'e', 'n', 'l')
if not meta[1] then
  return {'', 0, {}}
end
-- Who asks remembers the epoch, which must not be given up before that memory is.
if meta[3] then redis.call('PEXPIRE', KEYS[2], meta[3]) end
local now = redis.call('TIME')
local milliseconds = now[1] * 1000 + math.floor(now[2] / 1000)
local entries, size = {}, 0
local after = ARGV[1] .. '-0'
while ARGV[1] ~= '' and size < 1000000 and #entries < 1000 do
  local some = redis.call('XRANGE', KEYS[1], '(' .. after, '+', 'COUNT', 20)
  for _, entry in ipairs(some) do
    local fields = entry[2]
    local offset = tonumber(string.match(entry[1], '^%d+'))
    table.insert(entries, {
      offset, tonumber(fields[8] or offset - 1), milliseconds - tonumber(fields[4]),
      fields[6]
    })
    size = size + #fields[6]
    after = entry[1]
  end
  if #some < 20 then break end
end
return {meta[1], tonumber(meta[2]), entries}
