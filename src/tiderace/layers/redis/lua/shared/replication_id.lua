-- Returns the id of the server's replication history, which changes with a failover or a
-- restart; '' when the user may not read it.
--
-- INFO takes a sixth of the time of a publication, so its reply is cached for 20 ms under
-- the key `server`; a failover takes longer.
local function replication_id(server, now)
  local cached = redis.call('GET', server)
  if cached then
    local at, id = struct.unpack('<ds', cached)
    if math.abs(now - at) <= 20 then return id end
  end
  local info = redis.pcall('INFO', 'replication')
  local id = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
  redis.call('SET', server, struct.pack('<ds', now, id), 'PX', 1000)
  return id
end
