-- SPDX-License-Identifier: Apache-2.0

--- The folders of core: each uses only those before it, and no files call or include each other in
-- a circle, those of kernels neither.
-- Includes are read from the sources, calls from the symbols of the objects of this build.

-- A folder uses only those before it.
local ORDER = {
  'kernels', 'include', 'base', 'device', 'comm', 'layout', 'split', 'plan', 'tensor', 'moe',
  'simulate', 'worker', 'data', 'main',
}

local function lines(command)
  local pipe, list = assert(io.popen(command)), {}
  for line in pipe:lines() do list[#list + 1] = line end
  pipe:close()
  return list
end

-- 'plan' of 'core/plan/neap/cell.c', 'main' of 'core/main.c', 'kernels' of 'kernels/cpu/rows.c'
local function folder_of(path)
  if path:match '^kernels/' then return 'kernels' end
  return path:match '^core/([%w_]+)/' or path:match '^core/([%w_]+)%.'
end

-- 'core/base/../comm/a.h' as 'core/comm/a.h'.
local function plain(path)
  local shorter, changed = path:gsub('[^/]+/%.%./', '', 1)
  return changed > 0 and plain(shorter) or path
end

-- files[path] = { includes = { path, … }, defines = { symbol = true }, needs = { symbol, … } }.
-- uses[path] = sorted paths that it includes or whose symbols it needs.
local function uses_of(files)
  local home, uses = {}, {}
  for path, file in pairs(files) do
    for symbol in pairs(file.defines) do home[symbol] = path end
  end
  for path, file in pairs(files) do
    local set, list = {}, {}
    for _, other in ipairs(file.includes) do set[other] = true end
    for _, symbol in ipairs(file.needs) do
      if home[symbol] then set[home[symbol]] = true end
    end
    set[path] = nil
    for other in pairs(set) do list[#list + 1] = other end
    table.sort(list)
    uses[path] = list
  end
  return uses
end

local function upward(uses, order)
  local level, faults = {}, {}
  for i, folder in ipairs(order) do level[folder] = i end
  for path, list in pairs(uses) do
    local own = level[folder_of(path)]
    if not own then
      faults[#faults + 1] = ('%s: its folder is not in the list of this test'):format(path)
    else
      for _, other in ipairs(list) do
        if (level[folder_of(other)] or 0) > own then
          faults[#faults + 1] = ('%s uses %s, whose folder comes later'):format(path, other)
        end
      end
    end
  end
  table.sort(faults)
  return faults
end

-- Circles, each as 'a -> b -> a', from a walk in depth.
local function circles(uses)
  local state, stack, found, paths = {}, {}, {}, {}
  local function walk(path)
    state[path], stack[#stack + 1] = 'open', path
    for _, other in ipairs(uses[path] or {}) do
      if state[other] == 'open' then
        local first = #stack
        while stack[first] ~= other do first = first - 1 end
        found[#found + 1] = table.concat(stack, ' -> ', first) .. ' -> ' .. other
      elseif not state[other] then
        walk(other)
      end
    end
    state[path], stack[#stack] = 'closed', nil
  end
  for path in pairs(uses) do paths[#paths + 1] = path end
  table.sort(paths)
  for _, path in ipairs(paths) do
    if not state[path] then walk(path) end
  end
  return found
end

local function includes_of(path)
  local list = {}
  for line in io.lines(path) do
    local name = line:match '^%s*#%s*include%s+"([^"]+)"' or
      line:match '^%s*#%s*include%s+<([%w_]+%.h)>'
    for _, root in ipairs { 'core/', 'core/include/', 'kernels/', path:match '.*/' } do
      local file = name and io.open(root .. name)
      if file then
        file:close()
        list[#list + 1] = plain(root .. name)
        break
      end
    end
  end
  return list
end

local TARGETS = {
  'libneap', 'neap', 'kernels_f32', 'kernels_f64', 'kernels_cuda', 'kernels_hopper',
}

-- This program's build folder.
local function build_folder()
  return (lines 'readlink /proc/$PPID/exe'[1]:match '^(.*)/')
end

-- Adds the symbols of the objects under a target's folder whose sources are there: a build folder
-- keeps objects of sources that were moved.
local function read_symbols(folder, files)
  for _, line in ipairs(lines(
    ("cd '%s' 2>/dev/null && find . -name '*.o' | xargs -r nm -P -g -A"):format(folder))) do
    local path, symbol, kind = line:match '^%./(.-)%.o: (%S+) (%a)'
    local file = path and files[path]
    if file and kind == 'U' then
      file.needs[#file.needs + 1] = symbol
    elseif file then
      file.defines[symbol], file.symbols = true, file.symbols + 1
    end
  end
end

local function read_files()
  local files = {}
  for _, path in ipairs(lines "find core kernels -name '*.c' -o -name '*.h' -o -name '*.cu*'") do
    files[path] = { includes = includes_of(path), defines = {}, needs = {}, symbols = 0 }
  end
  for _, target in ipairs(TARGETS) do
    read_symbols(('%s/CMakeFiles/%s.dir'):format(build_folder(), target), files)
  end
  return files
end

describe('core', function()
  local files = read_files()
  local uses = uses_of(files)

  -- What files use by calls alone, or by includes alone.
  local function only(kind)
    local part = {}
    for path, file in pairs(files) do
      part[path] = { includes = kind == 'includes' and file.includes or {},
        defines = file.defines, needs = kind == 'calls' and file.needs or {} }
    end
    return uses_of(part)
  end

  it('has an object for every source', function()
    for path, file in pairs(files) do
      if path:match '^core/.*%.c$' and path ~= 'core/main.c' and path ~= 'core/device/none.c' and
          path ~= 'core/base/nvtx.c' then
        assert.is_true(file.symbols > 0, path .. ' has no object in ' .. build_folder())
      end
    end
    assert.is_true(#uses['core/moe/moe.c'] > 10)
  end)

  it('has folders that use only those before them', function()
    assert.are.same({}, upward(uses, ORDER))
  end)

  it('has no files that call each other in a circle', function()
    assert.are.same({}, circles(only 'calls'))
  end)

  it('has no files that include each other in a circle', function()
    assert.are.same({}, circles(only 'includes'))
  end)

  it('would be told: of an include and a call of a later folder, and of a circle', function()
    local invented = {
      ['core/base/a.c'] = { includes = { 'core/comm/b.h' }, defines = { a = true }, needs = {} },
      ['core/comm/b.h'] = { includes = {}, defines = {}, needs = {} },
      ['core/comm/c.c'] = { includes = {}, defines = { c = true }, needs = { 'a', 'd', 'malloc' } },
      ['core/data/d.c'] = { includes = {}, defines = { d = true }, needs = { 'c' } },
      ['core/nowhere/e.c'] = { includes = {}, defines = {}, needs = {} },
    }
    assert.are.same({
      'core/base/a.c uses core/comm/b.h, whose folder comes later',
      'core/comm/c.c uses core/data/d.c, whose folder comes later',
      'core/nowhere/e.c: its folder is not in the list of this test',
    }, upward(uses_of(invented), ORDER))
    assert.are.same({ 'core/comm/c.c -> core/data/d.c -> core/comm/c.c' },
      circles(uses_of(invented)))
    assert.are.equal('core/comm/b.h', plain 'core/base/x/../../comm/b.h')
  end)
end)
