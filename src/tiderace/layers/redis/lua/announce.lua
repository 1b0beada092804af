-- Stores which channels of a process have joined and left groups, under a lease.
--
-- KEYS: for each group the set of the process's channels in it
-- ARGV: lease_ms, then for each group: how many left, these, how many joined, these
-- Returns: 1
local lease_ms = unpack(ARGV, 1, 1)

local position = 1
local function each_channel(command, key)
  local count = tonumber(ARGV[position + 1])
  position = position + 1
  for _ = 1, count do
    position = position + 1
    redis.call(command, key, ARGV[position])
  end
end
for _, key in ipairs(KEYS) do
  each_channel('SREM', key)
  each_channel('SADD', key)
  redis.call('PEXPIRE', key, lease_ms)
end
return 1
