-- Tell which channels of a process have joined and left subjects, under a lease.
--
-- KEYS: for each subject the set of the process's channels in it
-- ARGV: lease (ms), then for each subject: how many left, these, how many joined, these
-- Returns: 1
local place = 1
local function named(verb, key)
  local count = tonumber(ARGV[place + 1])
  place = place + 1
  for _ = 1, count do
    place = place + 1
    redis.call(verb, key, ARGV[place])
  end
end
for _, key in ipairs(KEYS) do
  named('SREM', key)
  named('SADD', key)
  redis.call('PEXPIRE', key, ARGV[1])
end
return 1
