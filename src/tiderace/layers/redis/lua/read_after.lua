-- Reads a group's stream after an offset: all of it, or about a megabyte.
--
-- KEYS: stream, meta
-- ARGV: offset ('' for no entries)
-- Returns: epoch ('' when there is none), last offset, entries as (offset, offset of the
--          one before, age in ms, data)
local stream, meta = unpack(KEYS)
local offset = unpack(ARGV)

local state = {load_state(meta)}
local last_offset, epoch, position_ttl_ms = state[1], state[7], state[12]
if not epoch then
  return {'', 0, {}}
end
-- The caller continues with this epoch, so the position must not expire before that.
redis.call('PEXPIRE', meta, position_ttl_ms)
local now = now_ms()
local entries, size = {}, 0
local after = offset .. '-18446744073709551615'
while offset ~= '' and size < 1000000 and #entries < 1000 do
  local found = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', 20)
  for _, entry in ipairs(found) do
    local fields = entry[2]
    local found, at = string.match(entry[1], '^(%d+)-(%d+)')
    local number = tonumber(found)
    table.insert(entries, {
      number, tonumber(fields[6] or number - 1), now - tonumber(at), fields[4]
    })
    size = size + #fields[4]
    after = entry[1]
  end
  if #found < 20 then break end
end
return {epoch, last_offset, entries}
