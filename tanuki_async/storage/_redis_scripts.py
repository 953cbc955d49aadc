"""What Redis does for us in one step each: append what is new, replace lines or a value, hold a lease.

Each call's keys share one hash tag, so they are of one slot. Types are looked at before anything is written: a script
that fails has done nothing.
"""

from __future__ import annotations

from tanuki_async._bloom import EXACT, layer
from tanuki_async.storage._redis_client import Script

__all__ = [
    "APPEND",
    "APPEND_LATEST",
    "BEGIN",
    "CLAIM",
    "DROP",
    "FOLLOW",
    "KEEP",
    "LAYERS",
    "LIST",
    "PUT",
    "RELEASE",
    "REMOVE",
    "SWAP",
]

LAYERS = 8
"""Of the filter, at most; 500 million examples of one name. The largest are 256 MiB, as a string holds 512."""
_BIGGEST = 3
_LAYERS = [layer(min(level, _BIGGEST)) for level in range(LAYERS)]

_CLOCK = """
local function milliseconds()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""

_KNOWN = f"""
{_CLOCK}
local lines, known, about, newest = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local words = {{{",".join(str(words) for words, _ in _LAYERS)}}}
local rooms = {{{",".join(str(room) for _, room in _LAYERS)}}}
local length, exact = redis.call('LLEN', lines), redis.call('SCARD', known)
local layers, left, held = unpack(redis.call('HMGET', about, 'layers', 'left', 'held'))
if held and milliseconds() < tonumber(held) then return {{-2, length}} end
layers, left = tonumber(layers or 0), tonumber(left or 0)
local fresh, written = {{}}, 0

local function word(level, index)
  local raw = redis.call('GETRANGE', KEYS[4 + level], index * 4, index * 4 + 3)
  return #raw < 4 and 0 or struct.unpack('<i4', raw)
end

local function covers(level, index, pattern)
  return bit.band(word(level, index), pattern) == pattern
end

local function set(level, index, pattern)
  local both = bit.bor(word(level, index), pattern)
  redis.call('SETRANGE', KEYS[4 + level], index * 4, struct.pack('<i4', both))
end

local function add(key, stamp)  -- true if it was not there
  if exact < {EXACT} then
    local new = redis.call('SADD', known, key)
    exact = exact + new
    return new == 1
  end
  if redis.call('SISMEMBER', known, key) == 1 then return false end
  local a, _, b, _, pattern = struct.unpack('<I4I4I4I4i4', stamp)
  for level = layers, 1, -1 do
    local top = words[level] - 1
    if covers(level, bit.band(a, top), pattern) and covers(level, bit.band(b, top), pattern) then return false end
  end
  if left == 0 and layers < #words then
    layers = layers + 1
    left = rooms[layers]
  end
  local top = words[layers] - 1
  set(layers, bit.band(a, top), pattern)
  set(layers, bit.band(b, top), pattern)
  left = math.max(left - 1, 0)
  return true
end

local function each_line(text)
  local from = 1
  return function()
    local to = string.find(text, '\\n', from, true)
    local line = string.sub(text, from, to and to - 1)
    from = (to or #text) + 1
    return line
  end
end

local function push()
  if #fresh > 0 then redis.call('RPUSH', lines, unpack(fresh)) end
  written, fresh = written + #fresh, {{}}
end

local function keep(line)
  fresh[#fresh + 1] = line
  if #fresh == 1000 then push() end
end

local function finish()
  push()
  if layers > 0 then redis.call('HSET', about, 'layers', layers, 'left', left) end
end
"""

APPEND = Script(
    "append lines",
    _KNOWN
    + """
local next_line = each_line(ARGV[2])
for at = 1, #ARGV[1], 20 do
  local line = next_line()
  if add(string.sub(ARGV[1], at, at + 15), string.sub(ARGV[1], at, at + 19)) then keep(line) end
end
finish()
return {written, length}
""",
)
"""ARGV: of each line its stamped key; the lines, with line breaks between. Returns counts: written, there before.

-2: a rewrite holds appends for the moment in which it takes in the last lines.
"""

APPEND_LATEST = Script(
    "append lines",
    _KNOWN
    + """
local followed = tonumber(redis.call('HGET', about, 'followed') or 0)
redis.call('HLEN', newest)
if followed ~= length then return {-1, followed} end
local next_line = each_line(ARGV[2])
for at = 1, #ARGV[1], 36 do
  local line, key = next_line(), string.sub(ARGV[1], at, at + 15)
  local question = string.sub(ARGV[1], at + 20, at + 35)
  if redis.call('HGET', newest, question) ~= key then
    redis.call('HSET', newest, question, key)
    add(key, string.sub(ARGV[1], at, at + 19))
    keep(line)
  end
end
finish()
redis.call('HSET', about, 'followed', length + written)
return {written, length}
""",
)
"""The same, with the key of its arguments behind each stamped key. -1: `newest` has not followed all lines."""

FOLLOW = Script(
    "follow lines",
    """
local about, newest = KEYS[3], KEYS[4]
local followed, generation = unpack(redis.call('HMGET', about, 'followed', 'generation'))
followed = tonumber(followed or 0)
if followed ~= tonumber(ARGV[1]) or tonumber(generation or 0) ~= tonumber(ARGV[3]) then return -1 end
for at = 1, #ARGV[2], 32 do
  redis.call('HSET', newest, string.sub(ARGV[2], at + 16, at + 31), string.sub(ARGV[2], at, at + 15))
  followed = followed + 1
end
redis.call('HSET', about, 'followed', followed)
return followed
""",
)
"""ARGV: how many lines were followed; of each behind these its key and that of its arguments; their generation."""

BEGIN = Script(
    "begin to rewrite lines",
    """
local about, draft = KEYS[3], KEYS[15]
local owner = redis.call('HGET', draft, 'owner')
if owner and owner ~= ARGV[1] then return -1 end
local generation = tonumber(redis.call('HGET', about, 'generation') or 0)
redis.call('UNLINK', unpack(KEYS, 13))
redis.call('HSET', draft, 'owner', ARGV[1])
redis.call('PEXPIRE', draft, ARGV[2])
return generation
""",
)
"""KEYS: those of the lines, those of the draft. ARGV: its owner; milliseconds that it lives. -1: another rewrites."""

KEEP = Script(
    "rewrite lines",
    _KNOWN
    + """
if redis.call('HGET', about, 'owner') ~= ARGV[4] or length ~= tonumber(ARGV[3]) then return -1 end
local next_line = each_line(ARGV[2])
for at = 1, #ARGV[1], 20 do
  add(string.sub(ARGV[1], at, at + 15), string.sub(ARGV[1], at, at + 19))
  keep(next_line())
end
finish()
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[5]) end
return length + written
""",
)
"""KEYS: those of the draft. ARGV: as for APPEND; how many lines it has; its owner; milliseconds that it lives on.

Returns how many it has then. -1: it is lost.
"""

SWAP = Script(
    "rewrite lines",
    _CLOCK
    + """
local lines, about, drafted, draft, old = KEYS[1], KEYS[3], KEYS[13], KEYS[15], KEYS[25]
local length, read = redis.call('LLEN', lines), tonumber(ARGV[2])
if redis.call('HGET', draft, 'owner') ~= ARGV[1] or redis.call('LLEN', drafted) ~= tonumber(ARGV[3]) then return -1 end
if length < read then return -1 end
if length > read then
  local hold = tonumber(ARGV[5])
  if hold > 0 then redis.call('HSET', about, 'held', string.format('%d', milliseconds() + hold)) end
  return length
end
local generation = tonumber(redis.call('HGET', about, 'generation') or 0)
redis.call('HDEL', draft, 'owner')
redis.call('HSET', draft, 'generation', generation + 1)
if length > 0 then
  redis.call('RENAME', lines, old)
  redis.call('PEXPIRE', old, ARGV[4])
end
for at = 1, 12 do
  redis.call('UNLINK', KEYS[at])
  if redis.call('EXISTS', KEYS[at + 12]) == 1 then
    redis.call('RENAME', KEYS[at + 12], KEYS[at])
    redis.call('PERSIST', KEYS[at])
  end
end
return length
""",
)
"""KEYS: those of the lines, those of the draft, that of the old lines. ARGV: the draft's owner; how many lines were
read, and how many of them are in the draft; milliseconds that the old lines stay; that appends wait if there are more.

Returns how many lines there were: if more than were read, nothing was done. -1: the draft is lost.
"""

DROP = Script(
    "rewrite lines",
    "if redis.call('HGET', KEYS[3], 'owner') == ARGV[1] then redis.call('UNLINK', unpack(KEYS)) end return 0",
)
"""KEYS: those of the draft. ARGV: its owner."""

LIST = Script("list a name", "return redis.call('SADD', KEYS[1], ARGV[1])")

PUT = Script(
    "write a value",
    """
local held = redis.call('HGET', KEYS[1], 'version') or ''
if held ~= ARGV[2] then return '' end
local time = redis.call('TIME')
local version = string.format('%d', (tonumber(held) or time[1] * 1000000 + time[2]) + 1)
redis.call('HSET', KEYS[1], 'value', ARGV[1], 'version', version)
return version
""",
)
"""ARGV: the value; the version that it replaces, or nothing. Returns the new version, or nothing.

The first is the time, so that a value that was removed and written anew has none that it had before.
"""

REMOVE = Script("remove a value", "return redis.call('DEL', KEYS[1])")

CLAIM = Script(
    "claim a lease",
    _CLOCK
    + """
local owner, token, ends = unpack(redis.call('HMGET', KEYS[1], 'owner', 'token', 'ends'))
local moment = tonumber(ARGV[3]) or milliseconds()
token = tonumber(token or 0)
if owner and tonumber(ends) > moment then
  if owner ~= ARGV[1] then return 0 end
else
  token = token + 1
end
local until_then = string.format('%d', moment + ARGV[2])
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'token', token, 'ends', until_then)
return token
""",
)
"""ARGV: the owner; milliseconds; the time, or nothing for the server's own. Returns the token, or 0."""

RELEASE = Script(
    "release a lease",
    """
local owner, token = unpack(redis.call('HMGET', KEYS[1], 'owner', 'token'))
if owner == ARGV[1] and token == ARGV[2] then redis.call('HSET', KEYS[1], 'ends', 0) end
return 0
""",
)
"""ARGV: the owner; the token. The lease stays, so that tokens go on growing."""
