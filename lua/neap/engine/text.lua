-- SPDX-License-Identifier: Apache-2.0

--- Training data: texts, and schedules that switch between them so that expert load drifts.
--
--   local english = text.open 'english'              -- bytes of a Debian package's files
--   local mine = text.open 'corpus/*.txt'            -- a file, a folder or a pattern of one's own
--   english:sample(seed, step, sequence, length, ids, targets)
--
--   local schedule = text.schedule 'english,mine.txt@40,french+russian*3@80'
--   schedule:sample(seed, step, sequence, length, ids, targets)
--
-- What a sequence holds depends on (seed, step, sequence) alone; sequence is its number in the
-- global batch, so that a batch is the same however many ranks share it.

local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'

local ffi, C = lib.ffi, lib.C

local text = {}

local LIMIT = 8 * 2 ^ 20
local BYTES = 256 -- vocabulary of texts that are no tokens
local PARTS -- by name: what sequences are drawn from

-- Random stream that picks a sequence's text from a mixture.
local MIX_STREAM = 0x6d6978

local Text = {}
Text.__index = Text

--- Names of the corpora, and the Debian package of each.
-- : -> list of string, list of string
function text.names()
  local names, packages = {}, {}
  for i = 0, C.neap_text_count() - 1 do
    names[i + 1] = ffi.string(C.neap_text_name(i))
    packages[names[i + 1]] = ffi.string(C.neap_text_package(i))
  end
  return names, packages
end

--- name: a corpus, or a file, folder or pattern (docs/howto-data.md). limit: bytes to take of a
-- corpus, 8 MiB unless told; ranks of a process share them. root: folder that stands for '/', if
-- not NEAP_TEXT_ROOT of the environment. size: tokens; width: bytes of an id, 1 where tokens are
-- bytes; files: how many.
-- Raises ABSENT (with the command that installs a package), SYSTEM and FORMAT.
-- : string, integer?, string? -> Text
function text.open(name, limit, root)
  local out = ffi.new 'neap_text *[1]'
  lib.check(C.neap_text_open(name, root, limit or LIMIT, out), 2)
  local self = lib.handle(Text, out[0], C.neap_text_close)
  self.name, self.size = name, tonumber(C.neap_text_size(out[0]))
  self.width, self.files = C.neap_text_width(out[0]), tonumber(C.neap_text_files(out[0]))
  return self
end

--- ids, targets: int32_t[length]. part: 'training' (unless told: the first 95 %), 'held_out' (the
-- rest, which training never sees) or 'whole'. vocabulary: no id is as large; 256 unless told.
-- Raises ARGUMENT and FORMAT.
-- : integer, integer, integer, integer, int32_t[], int32_t[], string?, integer?
function Text:sample(seed, step, sequence, length, ids, targets, part, vocabulary)
  PARTS = PARTS or { training = C.NEAP_TEXT_TRAINING, held_out = C.NEAP_TEXT_HELD_OUT,
    whole = C.NEAP_TEXT_WHOLE }
  lib.check(C.neap_text_sample(self.ptr, seed, step, sequence, length, PARTS[part or 'training'],
    vocabulary or BYTES, ids, targets), 2)
end

--- ids[count], int32_t: tokens from first on, as sample gives them.
-- : integer, integer, int32_t[], integer? -> int32_t[]
function Text:ids(first, count, ids, vocabulary)
  lib.check(C.neap_text_ids(self.ptr, first, count, vocabulary or BYTES, ids), 2)
  return ids
end

--- Bytes as a string: for tests and the curious.
-- : integer?, integer? -> string
function Text:string(first, count)
  first = first or 0
  count = math.min(count or self.size, self.size - first)
  local ids, bytes = ffi.new('int32_t[?]', count), ffi.new('uint8_t[?]', count)
  self:ids(first, count, ids)
  for i = 0, count - 1 do bytes[i] = ids[i] end
  return ffi.string(bytes, count)
end

--- Frees this handle; the bytes go with the last one.
function Text:close()
  lib.close(self)
end

--- ---- schedules --------------------------------------------------------------------------------

local Schedule = {}
Schedule.__index = Schedule

local function exists(path)
  local file = io.open(path) -- a folder, too
  if file then file:close() end
  return file ~= nil
end

--- Whether a name is a corpus', or else what only a path has in it.
local function is_known(name)
  for _, known in ipairs((text.names())) do
    if known == name then return true end
  end
  return name:find '[./*?%[:]' ~= nil or exists(name) or exists(name .. '.idx')
end

local function check_name(name)
  if is_known(name) then return end
  local names = text.names()
  errors.usage("unknown text '%s'%s; there are: %s, and files, folders and patterns", name,
    lib.hint(name, names), table.concat(names, ', '))
end

-- Characters that mean something in a schedule: in a name a backslash stands before them.
local SPECIAL = '[,+@*\\]'

--- Puts what a backslash stands before where no pattern looks for it, and back.
local function hide(spec)
  return (spec:gsub('\\(.)', function(c) return ('\1%d\2'):format(c:byte()) end))
end
local function show(name)
  return (name:gsub('\1(%d+)\2', function(code) return string.char(code) end))
end

--- A name in the form that schedules take. A star needs no backslash unless a number follows.
local function escaped(name)
  return (name:gsub('()(' .. SPECIAL .. ')', function(at, c)
    if c == '*' and not name:match('^[%d.]+$', at + 1) then return c end
    return '\\' .. c
  end))
end

--- 'english,go@40,french+russian*3@80' as a list of { step=, { name, weight }, … }. A file whose
-- name has a comma or the like may also stand alone, as it is.
local function parse(spec)
  if spec:find(SPECIAL) and exists(spec) then return { { step = 0, { spec, 1 } } } end
  local list = {}
  for part in hide(spec):gmatch '[^,]+' do
    local mix, step = part:match '^([^@]+)@(%d+)$'
    local entry = { step = tonumber(step or #list == 0 and 0 or nil) }
    if not entry.step then
      part = show(part)
      errors.usage("text '%s': needs the step from which it counts, as in %s@40", part, part)
    end
    for item in (mix or part):gmatch '[^+]+' do
      local name, weight = item:match '^(.-)%*([%d.]+)$'
      entry[#entry + 1] = { show(name or item), tonumber(weight) or 1 }
    end
    list[#list + 1] = entry
  end
  return list
end

--- Names of the files, folders and patterns in a schedule's text; those of corpora left out.
-- : string -> list of string
function text.own_names(spec)
  local list, packages = {}, select(2, text.names())
  for _, entry in ipairs(parse(spec)) do
    for _, item in ipairs(entry) do
      if not packages[item[1]] then list[#list + 1] = item[1] end
    end
  end
  return list
end

--- Shares of the texts of an entry, adding up to 1.
local function normalize(entry)
  local total = 0
  for i, item in ipairs(entry) do
    if type(item) == 'string' then
      item = { item, 1 }
      entry[i] = item
    end
    check_name(item[1])
    total = total + item[2]
  end
  if total <= 0 then
    errors.usage('text schedule: the weights from step %d on are not above 0', entry.step)
  end
  for _, item in ipairs(entry) do item[2] = item[2] / total end
end

--- text.open of what was asked for: a file that is not there is a mistake in the asking.
local function open_named(name, limit, root)
  local ok, result = pcall(text.open, name, limit, root)
  if ok then return result end
  local packages = select(2, text.names())
  if result.code == 'ABSENT' and not packages[name] then errors.usage('%s', result.message) end
  error(result, 0)
end

--- spec: a string as above (a number after '*' is a weight), or a list of
-- { step=, 'english' } and { step=, { 'french', 1 }, { 'russian', 3 } }. Raises USAGE.
-- : string or list, integer?, string? -> Schedule
function text.schedule(spec, limit, root)
  local list = type(spec) == 'string' and parse(spec) or spec
  local last, texts = -1, {}
  for i, entry in ipairs(list) do
    normalize(entry)
    if entry.step <= last or (i == 1 and entry.step ~= 0) then
      errors.usage('text schedule: steps must begin with 0 and rise; %d follows %d', entry.step,
        last)
    end
    last = entry.step
  end
  if #list == 0 then errors.usage('text schedule: it is empty') end
  for _, entry in ipairs(list) do
    for _, item in ipairs(entry) do
      texts[item[1]] = texts[item[1]] or open_named(item[1], limit, root)
    end
  end
  return setmetatable({ list = list, texts = texts }, Schedule)
end

--- The entry that is in force at a step.
-- : integer -> table
function Schedule:entry(step)
  local found = self.list[1]
  for _, entry in ipairs(self.list) do
    if entry.step > step then break end
    found = entry
  end
  return found
end

--- The whole schedule in the form that text.schedule takes.
-- : -> string
function Schedule:describe()
  local parts = {}
  for i, entry in ipairs(self.list) do
    local items = {}
    for j, item in ipairs(entry) do
      local name = escaped(item[1])
      items[j] = item[2] == 1 and name or ('%s*%g'):format(name, item[2])
    end
    parts[i] = table.concat(items, '+') .. (entry.step > 0 and '@' .. entry.step or '')
  end
  return table.concat(parts, ',')
end

--- What step trains on: 'go', or 'french+russian' for a mixture.
-- : integer -> string
function Schedule:domain(step)
  local names = {}
  for i, item in ipairs(self:entry(step)) do names[i] = item[1] end
  return table.concat(names, '+')
end

--- Name of the text that a sequence of a step comes from. at: the step whose texts these are, if it
-- is another one than what is drawn by.
-- : integer, integer, integer, integer? -> string
function Schedule:pick(seed, step, sequence, at)
  local entry = self:entry(at or step)
  if #entry == 1 then return entry[1][1] end
  local stream = C.neap_random_bits(MIX_STREAM, 0, step)
  local share = C.neap_random_uniform(seed, stream, sequence)
  for i = 1, #entry - 1 do
    share = share - entry[i][2]
    if share < 0 then return entry[i][1] end
  end
  return entry[#entry][1]
end

--- As Text:sample, from the text of the step, or of step at.
-- : integer, integer, integer, integer, int32_t[], int32_t[], string?, integer?, integer?
function Schedule:sample(seed, step, sequence, length, ids, targets, part, vocabulary, at)
  self.texts[self:pick(seed, step, sequence, at)]:sample(seed, step, sequence, length, ids, targets,
    part, vocabulary)
end

-- Tokens that check looks at, and in how many places of a text.
local LOOKED_AT, PLACES = 4096, 64

local SHARES = { training = 0.95, held_out = 0.05, whole = 1 }

local function check_length(one, length, part)
  if math.floor(one.size * SHARES[part]) > length then return end
  errors.usage('text %s: has %d tokens; sequences of %d and the token after them need %d or more%s',
    one.name, one.size, length, math.ceil((length + 1) / SHARES[part]),
    part == 'held_out' and ', since the last 5 % are held out' or '')
end

--- Looks at ids from all over a text; bytes are below 256.
local function check_ids(one, vocabulary)
  if one.width == 1 and vocabulary >= BYTES then return end
  local count = math.min(LOOKED_AT, one.size)
  local ids = ffi.new('int32_t[?]', count)
  for place = 0, PLACES - 1 do
    local ok, err = pcall(one.ids, one, math.floor((one.size - count) * place / (PLACES - 1)),
      count, ids, vocabulary)
    if not ok then errors.usage('%s', err.message) end
  end
end

--- Raises USAGE if sequences of a length cannot be drawn from parts of every text (a list, of names
-- as in sample), or if a look at its ids finds one that is not of the vocabulary.
-- : integer, integer?, list of string
function Schedule:check(length, vocabulary, parts)
  for _, name in ipairs(lib.sorted_keys(self.texts)) do
    for _, part in ipairs(parts) do check_length(self.texts[name], length, part) end
    check_ids(self.texts[name], vocabulary or BYTES)
  end
end

--- Whether tokens are bytes, so that a loss is one of bytes.
-- : -> boolean
function Schedule:has_bytes()
  for _, name in ipairs(lib.sorted_keys(self.texts)) do
    if self.texts[name].width > 1 then return false end
  end
  return true
end

--- Closes its texts.
function Schedule:close()
  for _, name in ipairs(lib.sorted_keys(self.texts)) do self.texts[name]:close() end
end

return text
