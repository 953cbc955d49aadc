"""The one script by which processes share limits: it counts what all sent, and deals out what is left.

Times are the server's, in milliseconds. Per kind of unit (requests, tokens) it holds what was sent in slices of a 240th
of the period, and of each process what it used lately and what it may send now. All that was sent or may be sent
counts, from before it is sent until a period later, so a limit holds in any period.
"""

from __future__ import annotations

from tanuki_async.storage._redis_client import Script

__all__ = ["DEAL"]

DEAL = Script(
    "share limits",
    """
local me, period, lasting, asks = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), cjson.decode(ARGV[4])
local at_once = 8 * ARGV[5] / period  -- of a limit, in one round: whoever comes a moment later finds some left
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local grain, span = period / 240, period * (1 + 1 / 60)
local slot = math.floor(now / grain)

local function pairs_of(key)
  local flat, at = redis.call('HGETALL', key), -1
  return function()
    at = at + 2
    return flat[at], flat[at + 1]
  end
end

local members, count = {}, 1
for id, text in pairs_of(KEYS[1]) do
  local member = cjson.decode(text)
  if id ~= me and now - member.seen > member.lasting then  -- gone: what it may have sent counts, its share is free
    for kind = 1, 2 do
      if member.out[kind] > 0 then redis.call('HINCRBYFLOAT', KEYS[1 + kind], slot, member.out[kind]) end
    end
    redis.call('HDEL', KEYS[1], id)
  else
    for kind = 1, 2 do member.used[kind] = member.used[kind] * math.exp((member.seen - now) / period) end
    members[id] = member
    if id ~= me then count = count + 1 end
  end
end
local mine = members[me] or {used = {0, 0}}
members[me] = nil
mine.seen, mine.lasting, mine.out, mine.wanted, mine.least = now, lasting, {0, 0}, {0, 0}, {0, 0}

local function sent(kind, ask)  -- by all, within the period
  local slots, total = KEYS[1 + kind], 0
  if ask.spent ~= 0 then redis.call('HINCRBYFLOAT', slots, slot, ask.spent) end
  for at, units in pairs(ask.refunds) do
    if redis.call('HEXISTS', slots, at) == 1 then redis.call('HINCRBYFLOAT', slots, at, -units) end
    mine.used[kind] = mine.used[kind] - units
  end
  for at, units in pairs_of(slots) do
    if (at + 1) * grain <= now - span then redis.call('HDEL', slots, at) else total = total + units end
  end
  return total
end

local function level(demands, limit)  -- up to which all demands can be met
  table.sort(demands)
  for at, demand in ipairs(demands) do
    local each = limit / (#demands - at + 1)
    if demand > each then return each end
    limit = limit - demand
  end
  return math.huge
end

local function deal(kind, ask)
  local free = ask.limit - sent(kind, ask) - ask.kept
  mine.used[kind] = math.max(mine.used[kind] + ask.spent, 0)
  local held = mine.used[kind] + ask.kept
  local demands = {held + ask.wanted}
  for _, member in pairs(members) do
    free = free - member.out[kind]
    demands[#demands + 1] = member.used[kind] + member.out[kind] + member.wanted[kind]
  end
  mine.wanted[kind], mine.least[kind], mine.out[kind] = ask.wanted, ask.least, ask.kept
  if ask.wanted == 0 then return 0 end
  local up_to = level(demands, ask.limit)
  local short = math.max(math.min(up_to, held + ask.wanted) - held, 0)
  local shorts, wanting, saving = short, 1, false
  for _, member in pairs(members) do
    if member.wanted[kind] > 0 then
      local has = member.used[kind] + member.out[kind]
      local its = math.max(math.min(up_to, has + member.wanted[kind]) - has, 0)
      shorts, wanting = shorts + its, wanting + 1
      saving = saving or (its > short and member.least[kind] - member.out[kind] > free)
    end
  end
  if saving then return 0 end  -- for a request so large that it needs all that comes free
  local part = shorts > math.max(free, 0) and free * short / shorts or short + (free - shorts) / wanting
  local most = math.min(part, ask.wanted, free, math.max(ask.limit * at_once, ask.least))
  local grant = math.floor(math.max(most, 0) + 1e-6)
  if ask.kept + grant < ask.least then  -- too little to begin with: all for who lacks most, else nothing
    local rest = ask.least - ask.kept
    grant = (short >= shorts / wanting - 1e-9 and free >= rest) and rest or 0
  end
  mine.out[kind] = ask.kept + grant
  return grant
end

local grants = {}
for kind = 1, 2 do grants[kind] = asks[kind].limit > 0 and deal(kind, asks[kind]) or 0 end
redis.call('HSET', KEYS[1], me, cjson.encode(mine))
for at = 1, 3 do redis.call('PEXPIRE', KEYS[at], math.ceil(2 * span)) end
return cjson.encode({slot = slot, members = count, grants = grants})
""",
)
"""ARGV: this process; milliseconds of the period; how long it may be silent; for requests and for tokens, as JSON, the
limit, what was spent, is kept and wanted, the least that is of use, and what is refunded by slot; milliseconds between
two rounds. Returns as JSON the slot that `spent` went to, the number of processes, and what each kind was granted."""
