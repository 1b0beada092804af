-- Goes before the scripts that begin an epoch or look whether its server is the same.
--
-- Returns: which life of which server this is. Not every user may ask; then we do
--          without.
local function run()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or ''
end

