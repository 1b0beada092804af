-- Returns the offset after which the last `size` entries of a stream begin. `leaps` has
-- the skipped offsets: the one before and the first one after each leap, the latest first.
local function history_start(last_offset, size, leaps)
  local start = last_offset - size
  for before, first in string.gmatch(leaps or '', '(%d+) (%d+)') do
    if start + 1 >= tonumber(first) then break end
    start = start - (tonumber(first) - 1 - tonumber(before))
  end
  return start
end
