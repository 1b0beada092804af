-- Returns the state of a stream, or nothing when there is none. The values in order:
--
-- - what each publication changes: last offset, when it was published (ms), bytes since the
--   last step;
-- - what decides whether a publication changes anything else (see publish.lua): until when
--   it does not (ms), and the largest number of bytes between two steps, provided that its
--   options are these, the next value; epoch; the server's replication id at the last
--   publication; the number of entries beyond which the oldest are deleted, as text;
-- - the rest: size of the history (-1 until a publication or a reader gives one), its ttl
--   (ms), ttl of the state (ms); the offsets of the last three steps; offset and time of the
--   last checkpoint, and of the last checkpoint of the history; when the stream ends at the
--   earliest (ms); leaps (see history_start).
local function load_state(meta)
  local packed = redis.call('GET', meta)
  if packed then return struct.unpack('<dddddc64c12ssddddddddddds', packed) end
end
