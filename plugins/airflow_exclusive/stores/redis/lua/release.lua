-- Give the lock back if it is still ours, and wake one waiter.
-- KEYS[1] lock   KEYS[2] wake-up list   ARGV[1] owner   ARGV[2] ms to keep it locked (0: free it now)
-- ARGV[3] ms a wake-up lasts (0: wake nobody)
-- returns 1 when it was ours, 0 otherwise
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if tonumber(ARGV[2]) > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
if tonumber(ARGV[3]) == 0 then
  redis.call('DEL', KEYS[1])
  return 1
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
