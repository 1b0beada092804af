-- Returns the server's time (ms), as a number and as text.
local function now_ms()
  local seconds, micros = unpack(redis.call('TIME'))
  local millis = math.floor(micros / 1000)
  return seconds * 1000 + millis, seconds .. string.format('%03d', millis)
end
