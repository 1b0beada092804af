-- Returns the functions that change the presence of one group. The rules and the names are
-- those of presence/rules.py.
--
-- KEYS: rows (hash: connection to row), deadlines (sorted set: connection by when it
--       expires), users (hash: identity to user), claims (hash: identity to claim), turns
--       (sorted set: identity by when its claim or grace ends), pace (hash), due (sorted
--       set of the groups that share it, by when something is due in them)
-- ARGV: group, token (of the claims made now), lease_ms, pushes (in a second, 0 for no
--       limit), keys_ttl_ms, then those of the script
--
-- A row is {identity, per user, grace, info, token}, a user {id, info, per user,
-- connections, gone at, confirmed}, a claim {kind, id, info, per user, token, expires
-- at}; packed with msgpack.
local function presence_group()
  local rows, deadlines, users, claims, turns, pace, due = unpack(KEYS)
  local group, token, lease_ms, pushes, keys_ttl_ms = unpack(ARGV)
  lease_ms, pushes = tonumber(lease_ms), tonumber(pushes)
  local now = now_ms()
  local events = {}
  local self = {}

  local function load(key, field)
    local packed = redis.call('HGET', key, field)
    return packed and cmsgpack.unpack(packed)
  end

  local function save(key, field, value)
    redis.call('HSET', key, field, cmsgpack.pack(value))
  end

  -- Returns whether to push an event to all, else in how many ms to push "changed".
  local function count_push()
    if pushes == 0 then return 1, -1 end
    local cost = redis.call('HLEN', rows)
    local counted = redis.call('HMGET', pace, 'pushes', 'gathered')
    local caused = tonumber(counted[1])
    if not caused then
      caused = 0
      redis.call('HSET', pace, 'pushes', 0)
      redis.call('PEXPIRE', pace, math.max(1000, math.ceil(cost * 1000 / pushes)))
    end
    if caused + cost <= pushes then
      redis.call('HINCRBY', pace, 'pushes', cost)
      return 1, -1
    end
    if counted[2] then return 0, -1 end
    redis.call('HSET', pace, 'gathered', 1)
    return 0, redis.call('PTTL', pace)
  end

  local function add_event(kind, id, identity, info, is_announced, claim)
    local push, changed_in = 0, -1
    if is_announced == 1 then push, changed_in = count_push() end
    table.insert(events, {kind, id, identity, info, push, changed_in, claim})
  end

  local function next_claim(identity, user)
    if not user then return nil end
    local id, info, per_user, connections, gone_at, confirmed = unpack(user)
    if confirmed == 0 then return {'join', id, info, per_user} end
    if connections > 0 or gone_at > now then return nil end
    -- When the user returns from here on, they get a new presence id.
    redis.call('HDEL', users, identity)
    return {'leave', id, info, per_user}
  end

  -- Hands out the next event about a user, unless another one is claimed.
  local function claim_next(identity)
    local claim, user = load(claims, identity), load(users, identity)
    local is_retry = claim and claim[5] == token
    local due_at
    if claim and claim[6] > now and not is_retry then
      due_at = claim[6]
    else
      claim = claim or next_claim(identity, user)
      if claim then
        claim[5], claim[6] = token, now + lease_ms
        save(claims, identity, claim)
        add_event(claim[1], claim[2], identity, claim[3], claim[4], token)
        due_at = claim[6]
      elseif user and user[4] == 0 then
        due_at = user[5]
      end
    end
    if due_at then
      redis.call('ZADD', turns, due_at, identity)
    else
      redis.call('ZREM', turns, identity)
    end
  end

  function self.add(client, identity, info, per_user, grace_ms, ttl_ms, new_id, stayed)
    redis.call('ZADD', deadlines, now + ttl_ms, client)
    local row = load(rows, client)
    if row then
      -- With the same token it is a retry, whose first reply was lost.
      if row[5] == token and row[2] == 0 and stayed == 0 then
        add_event('join', client, identity, info, 1, '')
      end
      local claim = load(claims, row[1])
      if claim and claim[5] == token then claim_next(row[1]) end
      return
    end
    save(rows, client, {identity, per_user, grace_ms, info, token})
    local user = load(users, identity) or {new_id, info, per_user, 0, 0, stayed}
    user[4] = user[4] + 1
    save(users, identity, user)
    if per_user == 0 and stayed == 0 then
      add_event('join', client, identity, info, 1, '')
    end
    claim_next(identity)
  end

  function self.remove(client)
    local row = load(rows, client)
    redis.call('ZREM', deadlines, client)
    if not row then return end
    redis.call('HDEL', rows, client)
    local identity, per_user, grace_ms, info = unpack(row)
    local user = load(users, identity)
    if user then
      user[4] = user[4] - 1
      if user[4] <= 0 then user[4], user[5] = 0, now + grace_ms end
      save(users, identity, user)
    end
    if per_user == 0 then add_event('leave', client, identity, info, 1, '') end
    claim_next(identity)
  end

  function self.confirm(identity, confirmed)
    local claim = load(claims, identity)
    if not claim then return end
    if claim[5] == confirmed then
      redis.call('HDEL', claims, identity)
      local user = claim[1] == 'join' and load(users, identity)
      if user then
        user[6] = 1
        save(users, identity, user)
      end
      claim_next(identity)
    elseif claim[5] == token then
      -- A retry: the next event has been claimed already.
      claim_next(identity)
    end
  end

  function self.reap(limit)
    local expired =
      redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, limit)
    for _, client in ipairs(expired) do self.remove(client) end
    local ended = redis.call('ZRANGEBYSCORE', turns, '-inf', now, 'LIMIT', 0, limit)
    for _, identity in ipairs(ended) do claim_next(identity) end
  end

  -- Stores when the group is due next, extends its keys, and returns the events.
  function self.close()
    local next
    for _, key in ipairs({deadlines, turns}) do
      local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
      if first[2] then next = math.min(next or math.huge, tonumber(first[2])) end
    end
    if next then
      redis.call('ZADD', due, next, group)
      redis.call('PEXPIRE', due, keys_ttl_ms)
    else
      redis.call('ZREM', due, group)
    end
    for place = 1, 5 do redis.call('PEXPIRE', KEYS[place], keys_ttl_ms) end
    return events
  end

  return self
end
