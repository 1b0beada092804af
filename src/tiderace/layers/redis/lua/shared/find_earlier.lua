-- Returns the offset of the entry with this id, as text, among those that are not older than
-- a time (ms); nil if there is none.
local function find_entry(stream, id, oldest)
  local upto = '+'
  while true do
    local entries = redis.call('XREVRANGE', stream, upto, '-', 'COUNT', 50)
    for _, entry in ipairs(entries) do
      local found, at = string.match(entry[1], '^(%d+)-(%d+)')
      if entry[2][2] == id then return found end
      if tonumber(at) < oldest then return nil end
    end
    if #entries < 50 then return nil end
    upto = '(' .. entries[50][1]
  end
end

-- Returns where an earlier try has appended the message with this id, not longer ago than
-- since_ms: epoch and offset, with a space between them; nil if none has.
local function find_earlier(stream, meta, id, since_ms, now)
  local epoch = select(7, load_state(meta))
  local offset = epoch and find_entry(stream, id, now - since_ms)
  return offset and epoch .. ' ' .. offset
end
