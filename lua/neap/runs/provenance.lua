-- SPDX-License-Identifier: Apache-2.0

--- Where a run comes from: what the store keeps so that it can be understood and done again.

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local json = require 'neap.base.json'
local machine = require 'neap.base.machine'
local policies = require 'neap.policy'
local sources = require 'neap.base.sources'
local subprocess = require 'neap.engine.subprocess'
local text = require 'neap.engine.text'

local ffi, C = lib.ffi, lib.C

local provenance = {}

--- SHA-256 of a string, or of bytes at a pointer.
function provenance.sha256(data, bytes)
  local hex = ffi.new 'char[65]'
  C.neap_sha256(data, bytes or #data, hex)
  return ffi.string(hex)
end

--- SHA-256 of a Lua file and of the modules that it requires (sources.text): what recipes and
-- policies are known by, in keys, checkpoints and the store. nil where it cannot be read.
function provenance.source_hash(path)
  local body = sources.text(path)
  return body and provenance.sha256(body)
end

local function first_line(path)
  local body = sources.read(path)
  return body and body:match '^[^\n]*'
end

--- The command as it was typed; arguments are main/cli.lua's.
function provenance.command()
  local words = { 'neap' }
  for i, word in ipairs(provenance.arguments or {}) do
    local plain = word:match '^[%w_./=:,+@%%-]+$'
    words[i + 1] = plain and word or "'" .. word:gsub("'", "'\\''") .. "'"
  end
  return table.concat(words, ' ')
end

--- ---- processes ---------------------------------------------------------------------------------

--- Id of this boot of the machine, and the host's name: together with its start a process can be
-- told from another one that got the same number later.
function provenance.boot()
  return first_line '/proc/sys/kernel/random/boot_id' or '',
    first_line '/proc/sys/kernel/hostname' or ''
end

--- This process's number.
function provenance.process()
  return tonumber((first_line '/proc/self/stat' or ''):match '^%d+')
end

--- Start of a process in clock ticks since boot, or nil if there is none or it has ended.
function provenance.process_start(pid)
  local stat = first_line(('/proc/%d/stat'):format(pid))
  local after = stat and stat:match '^.*%) (.*)$'
  if not after or after:match '^[ZX]' then return nil end
  local field = 2
  for word in after:gmatch '%S+' do
    field = field + 1
    if field == 22 then return tonumber(word) end
  end
end

--- ---- the machine -------------------------------------------------------------------------------

local function gpus()
  local list = {}
  for _, entry in ipairs(launcher.list '/proc/driver/nvidia/gpus') do
    local about = sources.read('/proc/driver/nvidia/gpus/' .. entry .. '/information')
    list[#list + 1] = about and about:match 'Model:%s*([^\n]*)'
  end
  return table.concat(list, ', ')
end

--- Facts of neap_machine, GPUs and driver: two JSON texts, of the machine and of libraries.
local function describe_machine()
  local found = {}
  for _, fact in ipairs(machine.facts()) do found[fact[1]] = fact[2] end
  local libraries = { blas = found.blas, mpi = found.mpi, lua = jit.version }
  found.blas, found.mpi = nil, nil
  found.system = first_line '/proc/sys/kernel/osrelease'
  local driver = first_line '/proc/driver/nvidia/version'
  found.gpu, found.driver = gpus(), driver and driver:match 'Module%s+([%d.]+)' or driver
  return json.encode(found), json.encode(libraries)
end

--- First line of what git says of Neap's own files; nil: nothing, or there is no git or repository.
local function git(...)
  local said = subprocess.read { 'git', '-C', launcher.home, ... }
  return said and said:match '^[^\n]+'
end

--- Columns of a run that do not depend on what is run. sweep comes from the sweep that
-- started this process, if one did.
function provenance.circumstances()
  local boot, host = provenance.boot()
  local pid = provenance.process()
  local about, libraries = describe_machine()
  local commit = git('rev-parse', 'HEAD')
  return {
    engine = lib.version, git_commit = commit,
    git_dirty = commit and git('status', '--porcelain', '--untracked-files=no') ~= nil,
    host = host, machine = about, libraries = libraries, boot = boot, pid = pid,
    pid_start = pid and provenance.process_start(pid), sweep = os.getenv 'NEAP_SWEEP',
  }
end

local text_hashes = {}

-- Tokens of a text that is hashed as a whole, at most; of a longer one pieces are. ANY: vocabulary.
local WHOLE, AT_ONCE, PIECES, PIECE, ANY = 2 ^ 24, 2 ^ 16, 256, 2 ^ 12, 2 ^ 31 - 1

--- Calls each(first, count) for the parts of a text that are hashed.
local function hashed_parts(size, each)
  if size > WHOLE then
    for i = 0, PIECES - 1 do each(math.floor((size - PIECE) * i / (PIECES - 1)), PIECE) end
    return
  end
  for first = 0, size - 1, AT_ONCE do each(first, math.min(AT_ONCE, size - first)) end
end

--- SHA-256 of an open text: of its bytes, or its tokens as int32_t; of one with more than 16 M
-- tokens, of pieces from all over it. Of a corpus it is computed once in a Lua state.
function provenance.text_hash(open_text)
  local name, size = open_text.name, open_text.size
  if text_hashes[name] then return text_hashes[name] end
  local count = size > WHOLE and PIECES * PIECE or size
  local kept = ffi.new(open_text.width == 1 and 'uint8_t[?]' or 'int32_t[?]', count)
  local ids, at = ffi.new('int32_t[?]', AT_ONCE), 0
  hashed_parts(size, function(first, length)
    open_text:ids(first, length, ids, ANY)
    for i = 0, length - 1 do kept[at + i] = ids[i] end
    at = at + length
  end)
  local hex, packages = provenance.sha256(kept, ffi.sizeof(kept)), select(2, text.names())
  text_hashes[name] = packages[name] and hex or nil
  return hex
end

-- Names of parameters that hold texts.
local TEXT_PARAMETERS = { text = true, texts = true, eval_text = true }

--- Of the user's own files that parameters name as texts: size and SHA-256, a list; what cannot be
-- read is left out.
local function own_texts(values)
  local list = {}
  for _, name in ipairs(lib.sorted_keys(values)) do
    local value = TEXT_PARAMETERS[name] and values[name] or {}
    for _, spec in ipairs(type(value) == 'table' and value or { value }) do
      local ok, names = pcall(text.own_names, spec)
      for _, own in ipairs(ok and names or {}) do
        local there, open_text = pcall(text.open, own)
        if there then
          list[#list + 1] = ('%d %s'):format(open_text.size, provenance.text_hash(open_text))
          open_text:close()
        end
      end
    end
  end
  return list
end

--- Installed versions of the packages that training texts come from: { english = '0.54-1' }; none
-- where there is no dpkg.
function provenance.corpora()
  local names, packages = text.names()
  local command, versions = { 'dpkg-query', '-W', '-f=${Package} ${Version}\\n' }, {}
  for _, name in ipairs(names) do command[#command + 1] = packages[name] end
  local _, found = subprocess.read(command) -- it fails where one of them is not installed
  for _, name in ipairs(names) do
    local package = packages[name]:gsub('%p', '%%%0')
    versions[name] = ('\n' .. found):match('\n' .. package .. ' (%S+)')
  end
  return versions
end

--- ---- what is run -------------------------------------------------------------------------------

--- File of a policy's text, or nil for a text that names none.
function provenance.policy_file(selection)
  local ok, found = pcall(policies.resolve, selection)
  return ok and found.file or nil
end

--- Names of parameters that hold policies.
local POLICY_PARAMETERS = { policy = true, policies = true }

--- Hashes of the policies that parameters name.
local function policy_hashes(values)
  local list = {}
  for _, name in ipairs(lib.sorted_keys(values)) do
    local value = POLICY_PARAMETERS[name] and values[name] or {}
    for _, selection in ipairs(type(value) == 'table' and value or { value }) do
      local file = provenance.policy_file(selection)
      list[#list + 1] = file and provenance.source_hash(file) or selection
    end
  end
  return list
end

local function hash(document)
  return provenance.sha256(json.encode(document)):sub(1, 32)
end

-- Folders of lua/neap whose code no result depends on: those that only show or time.
local SHOWN_ONLY = { report = true, notebook = true, bench = true }

--- Paths of the Lua files in a folder and below, sorted.
local function lua_files(folder, list)
  local names = launcher.list(folder)
  table.sort(names)
  for _, name in ipairs(names) do
    local path = folder .. '/' .. name
    if name:match '%.lua$' then
      list[#list + 1] = path
    elseif not name:find('.', 1, true) and not SHOWN_ONLY[name] then
      lua_files(path, list)
    end
  end
  return list
end

local engine

--- SHA-256 of the engine's code: what has been compiled, and the Lua that results depend on. A
-- version alone does not tell two builds apart.
function provenance.engine_hash()
  if engine then return engine end
  local parts = { sources.read(launcher.library) or '' }
  for _, path in ipairs(lua_files(launcher.home .. '/lua/neap', {})) do
    parts[#parts + 1] = sources.read(path) or ''
  end
  for i, body in ipairs(parts) do parts[i] = provenance.sha256(body) end
  engine = provenance.sha256(table.concat(parts, ' '))
  return engine
end

--- What a run computes, as two hashes. settings: kind, files (paths that decide it: recipe, trace)
-- and parameters (name = value, all of them). key: equal for runs that compute the same with the
-- same engine; context: equal for results that may be compared as pairs, whatever their policy and
-- seed.
function provenance.keys(settings)
  local files, rest = {}, {}
  for i, path in ipairs(settings.files) do
    files[i] = provenance.source_hash(path) or path
  end
  for _, own in ipairs(own_texts(settings.parameters)) do files[#files + 1] = own end
  for name, value in pairs(settings.parameters) do
    if name ~= 'seed' and not POLICY_PARAMETERS[name] then rest[name] = value end
  end
  return hash { settings.kind, lib.version, provenance.engine_hash(), files, settings.parameters,
    policy_hashes(settings.parameters) }, hash { settings.kind, files, rest }
end

return provenance
