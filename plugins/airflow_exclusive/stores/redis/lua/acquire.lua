-- Take the job's lock, or find that it is already ours (an earlier request whose reply was lost).
-- KEYS[1] lock        ARGV[1] owner   ARGV[2] ttl in ms   ARGV[3] ticket: a lock reserved under it changes its owner
-- returns {1, owner, ms left} when it is ours, {0, holder, ms left} when it is somebody else's (ms left -1: no expiry)
-- A server whose memory is full refuses SET, and that alone: who has the lock keeps it.
local holder = redis.call('GET', KEYS[1])
if not holder then
  redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
  return {1, ARGV[1], tonumber(ARGV[2])}
end
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1, holder, tonumber(ARGV[2])}
end
if holder == ARGV[3] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return {1, ARGV[1], tonumber(ARGV[2])}
end
return {0, holder, redis.call('PTTL', KEYS[1])}
