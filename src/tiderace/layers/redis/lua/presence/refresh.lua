-- Extends connections by another time to live.
--
-- KEYS: due, then for each group: rows, deadlines, users, claims, turns
-- ARGV: ttl_ms, keys_ttl_ms, then for each group: its name, how many connections, these
-- Returns: for each connection that is missing: index of the group, from 0, connection
local due = unpack(KEYS, 1, 1)
local ttl_ms, keys_ttl_ms = unpack(ARGV, 1, 2)

local expires_at = now_ms() + ttl_ms
local missing, place = {}, 2
for index = 0, (#KEYS - 1) / 5 - 1 do
  local keys = {unpack(KEYS, index * 5 + 2, index * 5 + 6)}
  local rows, deadlines, users, _, turns = unpack(keys)
  local group, count = ARGV[place + 1], tonumber(ARGV[place + 2])
  place = place + 2
  -- A server that runs out of memory may have evicted some of a group's keys. (Without
  -- connections there may still be users, within their grace.)
  local connected = redis.call('EXISTS', rows, deadlines)
  if connected == 1 or connected == 2 and redis.call('EXISTS', users) == 0 then
    redis.call('DEL', rows, deadlines, users)
  end
  local clients = {unpack(ARGV, place + 1, place + count)}
  place = place + count
  local known = {}
  for each, score in ipairs(redis.call('ZMSCORE', deadlines, unpack(clients))) do
    if score then
      table.insert(known, expires_at)
      table.insert(known, clients[each])
    else
      table.insert(missing, index)
      table.insert(missing, clients[each])
    end
  end
  if #known > 0 then redis.call('ZADD', deadlines, unpack(known)) end
  local next
  for _, key in ipairs({deadlines, turns}) do
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if first[2] then next = math.min(next or math.huge, tonumber(first[2])) end
  end
  if next then redis.call('ZADD', due, next, group) end
  for _, key in ipairs(keys) do redis.call('PEXPIRE', key, keys_ttl_ms) end
end
redis.call('PEXPIRE', due, keys_ttl_ms)
return missing
