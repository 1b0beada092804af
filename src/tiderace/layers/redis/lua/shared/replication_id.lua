-- Returns the id of the server's replication history, which changes with a failover or a
-- restart; '' when the user may not read it.
local function replication_id()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
end
