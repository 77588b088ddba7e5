"""What Redis does in one step, as Lua scripts. They run on Redis 6.2 and later.

A session's lease is a hash: ``holder``, ``token``, ``until`` (unix milliseconds; absent when released), ``seq``
(the number of the last change under this token). A change that comes late, from a connection that was given up,
has a lower number than one that was made since, and is refused like that of an older lease.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Script:
    """A script and the name that Redis has for it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function whole(number) return string.format('%.0f', number) end
"""

CHANGE = (
    CLOCK
    + """
local lease, token, seq, memory = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local held = redis.call('HMGET', lease, 'token', 'seq')
if held[1] and (held[1] ~= token or tonumber(held[2] or '0') > tonumber(seq)) then return {'lost'} end
"""
)
"""The beginning of what only the holder may do. What follows may free memory when Redis is full (``pcall``)."""

ACQUIRE = Script(
    CLOCK
    + """
-- KEYS lease, head; ARGV holder, ttl, memory, whether it is to free memory, dead holders ...
local held = redis.call('HMGET', KEYS[1], 'holder', 'token', 'until')
local taken = held[1] and held[1] ~= ARGV[1] and tonumber(held[3] or '0') > now
for i = 5, #ARGV do taken = taken and held[1] ~= ARGV[i] end
if taken then return false end
local token = time[1] * 1000000 + time[2]
if held[2] and tonumber(held[2]) >= token then token = tonumber(held[2]) + 1 end
if ARGV[4] == '1' then redis.call('PERSIST', KEYS[1]) end -- a script that has written goes on when Redis is full
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', whole(token), 'until', whole(now + ARGV[2]), 'seq', '0')
redis.call('PEXPIRE', KEYS[1], whole(ARGV[2] + ARGV[3]))
return {whole(token), redis.call('GET', KEYS[2])}
"""
)

RENEW = Script(
    CHANGE
    + """
-- KEYS lease; ARGV token, seq, memory, holder, ttl
redis.call('HSET', lease, 'holder', ARGV[4], 'token', token, 'until', whole(now + ARGV[5]), 'seq', seq)
redis.call('PEXPIRE', lease, whole(ARGV[5] + memory))
return {'done'}
"""
)

RELEASE = Script(
    CHANGE
    + """
-- KEYS lease; ARGV token, seq, memory
if held[1] then
    redis.call('HDEL', lease, 'until')
    redis.pcall('HSET', lease, 'seq', seq)
end
return {'done'}
"""
)

COMMIT = Script(
    CHANGE
    + """
-- KEYS lease, head, used, index, ends, new blobs ..., blobs to prolong ..., blobs to drop ...
-- ARGV token, seq, memory, holder, key, head, info, used_at, ttl, blob_ttl, index_ttl, how many new, to prolong
local key, ttl, blob_ttl, index_ttl = ARGV[5], ARGV[9], ARGV[10], ARGV[11]
local kept = 5 + ARGV[12]
local dropped = kept + ARGV[13]
local missing = {'missing'}
for i = 6, dropped do
    if redis.call('EXISTS', KEYS[i]) == 0 then table.insert(missing, whole(i - 6)) end
end
if #missing > 1 then return missing end
redis.call('HSET', lease, 'holder', ARGV[4], 'token', token, 'seq', seq)
if redis.call('PTTL', lease) < tonumber(memory) then redis.call('PEXPIRE', lease, memory) end
for i = kept + 1, dropped do redis.call('PEXPIRE', KEYS[i], blob_ttl) end
redis.call('SET', KEYS[2], ARGV[6], 'PX', ttl)
redis.call('ZADD', KEYS[3], ARGV[8], key)
redis.call('HSET', KEYS[4], key, ARGV[7])
redis.call('ZADD', KEYS[5], whole(now + index_ttl), key)
for i = 4, 5 do
    if redis.call('PTTL', KEYS[i]) < tonumber(index_ttl) then redis.call('PEXPIRE', KEYS[i], index_ttl) end
end
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', whole(now), 'LIMIT', 0, 100)) do
    redis.call('HDEL', KEYS[4], old)
    redis.call('ZREM', KEYS[5], old)
end
for i = dropped + 1, #KEYS do redis.call('UNLINK', KEYS[i]) end
return {'done'}
"""
)

DROP = Script(
    CHANGE
    + """
-- KEYS lease, head, used, index, ends, blobs to drop ...
-- ARGV token, seq, memory, key, 1 to forget the session (else the index keeps it)
redis.call('UNLINK', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[4])
if ARGV[5] == '1' then
    redis.call('HDEL', KEYS[4], ARGV[4])
    redis.call('ZREM', KEYS[5], ARGV[4])
end
for i = 6, #KEYS do redis.call('UNLINK', KEYS[i]) end
if held[1] then redis.pcall('HSET', lease, 'seq', seq) end
return {'done'}
"""
)

SESSIONS = Script(
    CLOCK
    + """
-- KEYS index, ends
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', whole(now))) do
    redis.call('HDEL', KEYS[1], old)
    redis.call('ZREM', KEYS[2], old)
end
return redis.call('HGETALL', KEYS[1])
"""
)

IDLE = Script(
    """
-- KEYS used; ARGV prefix of heads, before, limit, slice. Members without a head are removed on the way.
local found, limit = {}, tonumber(ARGV[3])
repeat
    local keys = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2], 'LIMIT', #found, ARGV[4])
    for _, key in ipairs(keys) do
        if redis.call('EXISTS', ARGV[1] .. key) == 0 then
            redis.call('ZREM', KEYS[1], key)
        elseif #found < limit then
            table.insert(found, key)
        end
    end
until #keys == 0 or #found >= limit
return found
"""
)

SWEEP = Script(
    """
-- KEYS used; ARGV prefix of heads, first, slice. Returns how many were looked at, and how many removed.
local keys = redis.call('ZRANGE', KEYS[1], ARGV[2], ARGV[2] + ARGV[3] - 1)
local removed = 0
for _, key in ipairs(keys) do
    if redis.call('EXISTS', ARGV[1] .. key) == 0 then
        removed = removed + redis.call('ZREM', KEYS[1], key)
    end
end
return {#keys, removed}
"""
)

LOCK = Script(
    """
-- KEYS lock; ARGV holder, ttl
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
)

UNLOCK = Script(
    """
-- KEYS lock; ARGV holder
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
)
