-- Extends the announced memberships of a process by another lease.
--
-- KEYS: for each group the set of the process's channels in it
-- ARGV: lease_ms
-- Returns: the positions among KEYS, from 1, of sets that no longer exist
local lease_ms = unpack(ARGV)

local missing = {}
for position, key in ipairs(KEYS) do
  if redis.call('PEXPIRE', key, lease_ms) == 0 then table.insert(missing, position) end
end
return missing
