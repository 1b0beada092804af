-- Keep what a process has announced for another lease.
--
-- KEYS: sets of the process's channels
-- ARGV: lease (ms)
-- Returns: the places among KEYS, counted from 1, of those that are no longer there
local gone = {}
for place, key in ipairs(KEYS) do
  if redis.call('PEXPIRE', key, ARGV[1]) == 0 then table.insert(gone, place) end
end
return gone
