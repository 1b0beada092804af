-- Takes a token from a bucket that fills up evenly.
--
-- KEYS: bucket
-- ARGV: count (tokens in a full bucket), period_ms (to fill it)
-- Returns: 0 when a token was taken, else the time until there is one (ms)
local bucket = unpack(KEYS)
local count, period_ms = unpack(ARGV)
return take_token(bucket, tonumber(count), tonumber(period_ms), (now_ms()))
