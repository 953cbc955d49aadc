"""The one script by which processes share limits: it counts what all sent, and deals out what is left.

Times are the server's, in milliseconds; where its clock was set back, they go on from the latest that it knew. Per kind
of unit (requests, tokens) it holds what was sent in slices of a 240th of the period, and of each process what it used
lately (older use weighs less), had within the period, and may send now.
All that was sent or may be sent counts, from before it is sent until a period later, so a limit holds in any period.

Where nobody was heard for a while, or this table is new to processes that know each other, nothing is granted until all
of them were heard, or have been silent for so long that they are gone.
"""

from __future__ import annotations

from tanuki_async.storage._redis_client import Script

__all__ = ["DEAL"]

DEAL = Script(
    "share limits",
    """
local me, ask = ARGV[1], cjson.decode(ARGV[2])
local time = redis.call('TIME')
local clock = time[1] * 1000 + math.floor(time[2] / 1000)
local grain, span = ask.period / 240, ask.period * (1 + 1 / 60)
local at_once = 8 * ask.interval / ask.period  -- of a limit, in one round: whoever comes a moment later finds some left

local function pairs_of(key)
  local flat, at = redis.call('HGETALL', key), -1
  return function()
    at = at + 2
    return flat[at], flat[at + 1]
  end
end

if redis.call('EXISTS', unpack(KEYS)) < #KEYS then redis.call('DEL', unpack(KEYS)) end  -- some were evicted: ask again
local members, latest = {}, 0
for id, text in pairs_of(KEYS[1]) do
  members[id] = cjson.decode(text)
  latest = math.max(latest, members[id].seen or 0)
end
local whole = members.all or {born = clock, expected = 0, behind = 0}
local stored, expected, behind = members.all, whole.expected, whole.behind
members.all = nil
if clock + behind < latest - 1000 then whole.behind = latest - clock end  -- it was set back, or is another server's
local now = clock + whole.behind
local known = members[me]
local before = known and known.number or 0
if ask.number <= before or ask.since > before or (ask.at > 0 and now - ask.at > ask.patience) then
  return cjson.encode({now = now, number = before})  -- told already, or something is missing, or nobody waits for it
end

local function keep(id, what) redis.call('HSET', KEYS[1], id, cjson.encode(what)) end

local function count_as_sent(kind, units, at)
  if units == 0 then return end
  redis.call('HINCRBYFLOAT', KEYS[1 + kind], math.floor((at or now) / grain), units)
end

local stood_still = true  -- nobody was heard: whoever did not die went on alone, and has to tell
for _, member in pairs(members) do
  for kind = 1, 2 do member.used[kind] = member.used[kind] * math.exp((member.seen - now) / ask.period) end
  if now - member.seen < member.lasting * 0.75 then stood_still = false end
end
members[me] = nil
local count, died, settled = 1, 0, true
for id, member in pairs(members) do
  if stood_still and not member.gone then
    member.seen, member.unheard = now, true
    keep(id, member)
  end
  if not member.gone and now - member.seen > 1.5 * member.lasting then  -- what it may have sent counts
    for kind = 1, 2 do count_as_sent(kind, member.out[kind] + (member.unheard and member.had[kind] or 0)) end
    member.gone, member.died = true, member.out[1] + member.out[2] > 0
    keep(id, member)
  end
  if member.gone then
    members[id] = nil
    if member.died then died = died + 1 end
    if now - member.seen > span then redis.call('HDEL', KEYS[1], id) end
  else
    count = count + 1
    if member.unheard then settled = false end
  end
end
local young = now - whole.born < 1.5 * ask.lasting
local forgotten = young and before == 0 and ask.knew > 0  -- by a server that lost what it knew
if forgotten then whole.expected = math.max(whole.expected, ask.knew) end
if young and whole.expected > count then
  settled = false
elseif whole.expected > 0 then
  local missing = math.max(whole.expected - count, 0) / whole.expected
  for kind = 1, 2 do count_as_sent(kind, ask.kinds[kind].limit * missing) end
  whole.expected = 0
end
if not stored or expected ~= whole.expected or behind ~= whole.behind then keep('all', whole) end
local mine = {number = ask.number, seen = now, lasting = ask.lasting, used = known and known.used or {0, 0}}
for _, what in ipairs({'had', 'out', 'wanted', 'least', 'short'}) do mine[what] = {} end
local taken = {0, 0}  -- what one that was taken for gone still held: it was counted, and may be another's by now
if not forgotten and (before == 0 or known.gone) then
  for kind = 1, 2 do taken[kind], ask.kinds[kind].kept = ask.kinds[kind].kept, 0 end
end

local function sent(kind, ask)  -- by all, within the period
  local slots, total = KEYS[1 + kind], 0
  for _, told in ipairs(ask.sent) do
    if told[1] > before then
      count_as_sent(kind, told[3], now - told[2])
      mine.used[kind] = mine.used[kind] + told[3]
    end
  end
  for _, told in ipairs(ask.refunds) do
    if told[1] > before and redis.call('HEXISTS', slots, told[2]) == 1 then
      redis.call('HINCRBYFLOAT', slots, told[2], -told[3])
      mine.used[kind] = math.max(mine.used[kind] - told[3], 0)
    end
  end
  redis.call('HDEL', slots, 'there')
  for at, units in pairs_of(slots) do
    if (at + 1) * grain <= now - span then redis.call('HDEL', slots, at) else total = total + units end
  end
  redis.call('HSET', slots, 'there', 1)  -- so that one which is missing was lost
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

local function granted(kind, ask, free)  -- of what is wanted
  local held = mine.used[kind] + ask.kept
  local demands = {held + ask.wanted}
  for _, member in pairs(members) do
    demands[#demands + 1] = member.used[kind] + member.out[kind] + member.wanted[kind]
  end
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
  return grant
end

local function reserve(kind, ask, free)  -- what it may hold at all, so that its calls wait for no round
  -- Where processes die, what they held counts as sent. By the square, all of these together take a part of the limit,
  -- however many die in a period.
  for _, member in pairs(members) do
    if member.short[kind] then return 0 end
  end
  return math.floor(math.max(free + ask.kept, 0) / (count + 1) / (1 + died) ^ 2)
end

local function deal(kind, ask)
  local free = ask.limit - sent(kind, ask) - ask.kept
  for _, member in pairs(members) do free = free - member.out[kind] end
  local grant, hold = 0, ask.kept
  if settled then
    local most = math.max(ask.limit * at_once, ask.least)
    grant = granted(kind, ask, free)
    mine.short[kind] = grant < math.floor(math.min(ask.wanted, most))
    hold = mine.short[kind] and 0 or reserve(kind, ask, free)
    grant = math.max(grant, math.floor(math.min(hold - ask.kept, most)))
  else
    mine.short[kind] = false
  end
  mine.had[kind], mine.wanted[kind], mine.least[kind] = ask.used, ask.wanted, ask.least
  mine.out[kind] = ask.kept + grant
  return grant - taken[kind], hold
end

local grants, holds = {}, {}
for kind = 1, 2 do grants[kind], holds[kind] = deal(kind, ask.kinds[kind]) end
keep(me, mine)
for at = 1, 3 do redis.call('PEXPIRE', KEYS[at], math.ceil(2 * span)) end
local all = math.max(count, whole.expected)
return cjson.encode({now = now, members = all, settled = settled, grants = grants, holds = holds})
""",
)
"""ARGV: this process; as JSON what `SharedBudget` asks, with times in milliseconds. Returns as JSON the server's time,
and what each kind was granted and may hold at all; or the number of the last round it knows, and nothing was done."""
