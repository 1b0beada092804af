-- Goes before the scripts that change who is present in a group. The rules are those of
-- presence_memory.py, and so are the words.
--
-- KEYS: rows (hash: connection to row), deadlines (sorted set: connection by when it
--       expires), users (hash), claims (hash: user to what is being told of them), turns
--       (sorted set: user by when something is due for them), pace (hash), due (sorted
--       set of the groups that share it, by when something is due in them)
-- ARGV: group, token for claims made now, lease (ms), pushes in a second (0 for any
--       number), life of the keys (ms), then what the script needs
--
-- A row is {who, per user, grace, info}, a user {id, info, per user, connections, gone
-- at, told}, a claim {event, id, info, per user, token, until}; packed.
local function presence_room()
  local rows, deadlines, users, claims, turns, pace, due = unpack(KEYS)
  local group, token, lease, pushes, life =
    ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local room = {now = now, notices = {}}

  local function load(key, field)
    local packed = redis.call('HGET', key, field)
    return packed and cmsgpack.unpack(packed)
  end

  local function save(key, field, value)
    redis.call('HSET', key, field, cmsgpack.pack(value))
  end

  -- Whether to push one event to all, and else in how long to say that much changed.
  local function allowed()
    if pushes == 0 then return 1, -1 end
    local cost = redis.call('HLEN', rows)
    local was = redis.call('HMGET', pace, 'pushes', 'gathered')
    local caused = tonumber(was[1])
    if not caused then
      caused = 0
      redis.call('HSET', pace, 'pushes', 0)
      redis.call('PEXPIRE', pace, math.max(1000, math.ceil(cost * 1000 / pushes)))
    end
    if caused + cost <= pushes then
      redis.call('HINCRBY', pace, 'pushes', cost)
      return 1, -1
    end
    if was[2] then return 0, -1 end
    redis.call('HSET', pace, 'gathered', 1)
    return 0, redis.call('PTTL', pace)
  end

  local function notice(event, id, who, info, told_to_all, claim)
    local push, later = 0, -1
    if told_to_all == 1 then push, later = allowed() end
    table.insert(room.notices, {event, id, who, info, push, later, claim})
  end

  -- What is to be told about a user next. From a leave on they are somebody new when
  -- they come back.
  local function following(who, user)
    if not user then return nil end
    local id, info, per_user, connections, gone_at, told = unpack(user)
    if told == 0 then return {'join', id, info, per_user} end
    if connections > 0 or gone_at > now then return nil end
    redis.call('HDEL', users, who)
    return {'leave', id, info, per_user}
  end

  -- Hand out what is to be told about a user next, unless somebody is at it.
  local function settle(who)
    local claim, user = load(claims, who), load(users, who)
    local repeated = claim and claim[5] == token
    local turn
    if claim and claim[6] > now and not repeated then
      turn = claim[6]
    else
      claim = claim or following(who, user)
      if claim then
        claim[5], claim[6] = token, now + lease
        save(claims, who, claim)
        notice(claim[1], claim[2], who, claim[3], claim[4], token)
        turn = claim[6]
      elseif user and user[4] == 0 then
        turn = user[5]
      end
    end
    if turn then
      redis.call('ZADD', turns, turn, who)
    else
      redis.call('ZREM', turns, who)
    end
  end
  room.settle = settle

  function room.add(client, who, info, per_user, grace, ttl, fresh)
    redis.call('ZADD', deadlines, now + ttl, client)
    local row = load(rows, client)
    if row then
      -- It may be the same try again, whose answer was lost.
      if row[5] == token and row[2] == 0 then notice('join', client, who, info, 1, '') end
      local claim = load(claims, row[1])
      if claim and claim[5] == token then settle(row[1]) end
      return
    end
    save(rows, client, {who, per_user, grace, info, token})
    local user = load(users, who) or {fresh, info, per_user, 0, 0, 0}
    user[4] = user[4] + 1
    save(users, who, user)
    if per_user == 0 then notice('join', client, who, info, 1, '') end
    settle(who)
  end

  function room.remove(client)
    local row = load(rows, client)
    redis.call('ZREM', deadlines, client)
    if not row then return end
    redis.call('HDEL', rows, client)
    local who, per_user, grace, info = unpack(row)
    local user = load(users, who)
    if user then
      user[4] = user[4] - 1
      if user[4] <= 0 then user[4], user[5] = 0, now + grace end
      save(users, who, user)
    end
    if per_user == 0 then notice('leave', client, who, info, 1, '') end
    settle(who)
  end

  function room.confirm(who, confirmed)
    local claim = load(claims, who)
    if not claim then return end
    if claim[5] == confirmed then
      redis.call('HDEL', claims, who)
      local user = claim[1] == 'join' and load(users, who)
      if user then
        user[6] = 1
        save(users, who, user)
      end
      settle(who)
    elseif claim[5] == token then
      -- The same try again: what followed has been claimed already.
      settle(who)
    end
  end

  function room.reap(limit)
    local expired =
      redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, limit)
    for _, client in ipairs(expired) do room.remove(client) end
    local ready = redis.call('ZRANGEBYSCORE', turns, '-inf', now, 'LIMIT', 0, limit)
    for _, who in ipairs(ready) do settle(who) end
  end

  -- Note when something is due next, and let all of it live on; what is to be told.
  function room.close()
    local next
    for _, key in ipairs({deadlines, turns}) do
      local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
      if first[2] then next = math.min(next or math.huge, tonumber(first[2])) end
    end
    if next then
      redis.call('ZADD', due, next, group)
      redis.call('PEXPIRE', due, life)
    else
      redis.call('ZREM', due, group)
    end
    for place = 1, 5 do redis.call('PEXPIRE', KEYS[place], life) end
    return room.notices
  end

  return room
end
