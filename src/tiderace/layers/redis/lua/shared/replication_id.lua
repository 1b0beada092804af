-- Returns the id of the server's replication history, which changes with a failover or a
-- restart; '' when the user may not read it.
--
-- INFO takes a sixth of the time of a publication, so its reply is cached for 20 ms under
-- the key `server`; a failover takes longer.
local function replication_id(server, now)
  local at, id = string.match(redis.call('GET', server) or '', '^(%d+) (%x*)$')
  if at and math.abs(now - at) <= 20 then return id end
  local info = redis.pcall('INFO', 'replication')
  id = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
  redis.call('SET', server, string.format('%.0f ', now) .. id, 'PX', 1000)
  return id
end
