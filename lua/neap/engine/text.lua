--- Real text as training data, and schedules that switch between texts so that expert load drifts.
--
--   local english = text.open 'english'              -- bytes of a Debian package's files
--   english:sample(seed, step, sequence, length, ids, targets)
--
--   local schedule = text.schedule 'english,go@40,french+russian@80'
--   schedule:sample(seed, step, sequence, length, ids, targets)
--
-- What a sequence holds depends on (seed, step, sequence) alone; sequence is its number in the
-- global batch, so that a batch is the same however many ranks share it.

local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'

local ffi, C = lib.ffi, lib.C

local text = {}

local LIMIT = 8 * 2 ^ 20

-- Random stream that picks a sequence's text from a mixture.
local MIX_STREAM = 0x6d6978

local Text = {}
Text.__index = Text

--- Names of the corpora, and the Debian package of each.
function text.names()
  local names, packages = {}, {}
  for i = 0, C.neap_text_count() - 1 do
    names[i + 1] = ffi.string(C.neap_text_name(i))
    packages[names[i + 1]] = ffi.string(C.neap_text_package(i))
  end
  return names, packages
end

--- limit: bytes to take, 8 MiB unless told; ranks of a process share them. root: folder that stands
-- for '/', if not NEAP_TEXT_ROOT of the environment.
-- Raises ABSENT with the command that installs the package.
function text.open(name, limit, root)
  local out = ffi.new 'neap_text *[1]'
  lib.check(C.neap_text_open(name, root, limit or LIMIT, out), 2)
  local self = lib.handle(Text, out[0], C.neap_text_close)
  self.name, self.size = name, tonumber(C.neap_text_size(out[0]))
  return self
end

--- ids, targets: int32_t[length]. held_out: from the last 5 %, which training never sees.
function Text:sample(seed, step, sequence, length, ids, targets, held_out)
  lib.check(C.neap_text_sample(self.ptr, seed, step, sequence, length, held_out and 1 or 0, ids,
    targets), 2)
end

--- The bytes as a string: for tests and the curious.
function Text:string(first, count)
  first = first or 0
  count = math.min(count or self.size, self.size - first)
  return ffi.string(C.neap_text_bytes(self.ptr) + first, count)
end

function Text:close()
  lib.close(self)
end

local Schedule = {}
Schedule.__index = Schedule

local function check_name(name)
  local names = text.names()
  for _, known in ipairs(names) do
    if known == name then return end
  end
  errors.usage("unknown text '%s'%s; there are: %s", name, lib.hint(name, names),
    table.concat(names, ', '))
end

--- 'english,go@40,french+russian*3@80' as a list of { step=, { name, weight }, … }.
local function parse(spec)
  local list = {}
  for part in spec:gmatch '[^,]+' do
    local mix, step = part:match '^([^@]+)@(%d+)$'
    local entry = { step = tonumber(step or #list == 0 and 0 or nil) }
    if not entry.step then
      errors.usage("text '%s': needs the step from which it counts, as in %s@40", part, part)
    end
    for item in (mix or part):gmatch '[^+]+' do
      local name, weight = item:match '^(.-)%*([%d.]+)$'
      entry[#entry + 1] = { name or item, tonumber(weight) or 1 }
    end
    list[#list + 1] = entry
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

--- spec: a string as above (a number after '*' is a weight), or a list of
-- { step=, 'english' } and { step=, { 'french', 1 }, { 'russian', 3 } }. Raises USAGE.
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
      texts[item[1]] = texts[item[1]] or text.open(item[1], limit, root)
    end
  end
  return setmetatable({ list = list, texts = texts }, Schedule)
end

function Schedule:entry(step)
  local found = self.list[1]
  for _, entry in ipairs(self.list) do
    if entry.step > step then break end
    found = entry
  end
  return found
end

--- The whole schedule in the form that text.schedule takes.
function Schedule:describe()
  local parts = {}
  for i, entry in ipairs(self.list) do
    local items = {}
    for j, item in ipairs(entry) do
      items[j] = item[2] == 1 and item[1] or ('%s*%g'):format(item[1], item[2])
    end
    parts[i] = table.concat(items, '+') .. (entry.step > 0 and '@' .. entry.step or '')
  end
  return table.concat(parts, ',')
end

--- What step trains on: 'go', or 'french+russian' for a mixture.
function Schedule:domain(step)
  local names = {}
  for i, item in ipairs(self:entry(step)) do names[i] = item[1] end
  return table.concat(names, '+')
end

--- Name of the text that a sequence of a step comes from.
function Schedule:pick(seed, step, sequence)
  local entry = self:entry(step)
  if #entry == 1 then return entry[1][1] end
  local stream = C.neap_random_bits(MIX_STREAM, 0, step)
  local at = C.neap_random_uniform(seed, stream, sequence)
  for i = 1, #entry - 1 do
    at = at - entry[i][2]
    if at < 0 then return entry[i][1] end
  end
  return entry[#entry][1]
end

--- As Text:sample, from the text of the step.
function Schedule:sample(seed, step, sequence, length, ids, targets, held_out)
  self.texts[self:pick(seed, step, sequence)]:sample(seed, step, sequence, length, ids, targets,
    held_out)
end

function Schedule:close()
  for _, name in ipairs(lib.sorted_keys(self.texts)) do self.texts[name]:close() end
end

return text
