-- Keep what a process says about itself, and let it hear that it has said so.
--
-- KEYS: the process's report (a string)
-- ARGV: pub/sub channel, report, time to live (ms), verb to publish with
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
tell(ARGV[4], ARGV[1], '')
