-- SPDX-License-Identifier: Apache-2.0

--- What `cmake --install` gives: a tree that works without the clone, from any folder.

local launcher = require 'neap.launcher'
local program = require 'tests.cli.program'

local POLICY = [[
local policy = require 'neap.policy'
local Mine = policy.define { name = 'mine', split = require 'mine_rule' }
function Mine:plan(ctx) return require('neap').plan.laer(ctx) end
return Mine
]]

describe('cmake --install', function()
  local root = os.tmpname()

  --- Runs a shell command in a folder that has nothing to do with Neap; @ is the installed tree.
  local function shell(command)
    return program.shell(("cd '%s/elsewhere' && env -i PATH=/usr/bin:/bin HOME='%s' sh -ec '%s'")
      :format(root, root, (command:gsub('@', root .. '/moved'))))
  end

  local function done(command)
    local status, out, err = shell(command)
    assert.are.equal(0, status, out .. err)
    return out, err
  end

  setup(function()
    os.remove(root)
    local status, out, err = program.shell(([[
      mkdir -p '%s/elsewhere' && cmake --install '%s' --prefix '%s/first' &&
      mv '%s/first' '%s/moved']])
      :format(root, launcher.folder, root, root, root))
    assert.are.equal(0, status, out .. err)
  end)
  teardown(function() program.shell(("rm -r '%s'"):format(root)) end)

  it('runs from any folder by its name alone', function()
    local out = done 'PATH="@/bin:$PATH"; neap --version; neap policy list; neap doctor'
    assert.matches('^neap 0%.2%.0 ', out)
    assert.matches('\nminimax +minimax ', out)
    local _, err = select(2, shell 'NEAP_HOME=/nowhere @/bin/neap --version')
    assert.matches('/nowhere', err)
  end)

  it('replays, simulates, trains and keeps runs', function()
    done [[@/bin/neap replay --trace=@/share/neap/experiments/traces/e8k2.safetensors \
      --policy=laer --store=runs.db]]
    done '@/bin/neap simulate --policy=static --steps=2 --distinct=1 --store=runs.db >/dev/null'
    done [[@/bin/neap run @/share/neap/experiments/quickstart.lua -n 4 --node-size 2 --steps=2 \
      --batch=8 --sequence=16 --layers=1 --hidden=32 --ffn=32 --store=runs.db]]
    local out = done '@/bin/neap runs --store=runs.db'
    for _, kind in ipairs { 'replay', 'simulate', 'run' } do assert.matches(kind, out) end
  end)

  it('knows its engine by its content', function()
    local script = root .. '/elsewhere/hash.lua'
    local file = assert(io.open(script, 'w'))
    file:write [[print(require('neap.runs.provenance').engine_hash(),
      require('neap.launcher').library)]]
    file:close()
    local hash, library = done('@/bin/neap lua hash.lua'):match '^(%x+)%s+(%S+)'
    assert.are.equal(64, #hash)
    assert.are.equal(root .. '/moved', library:match '^(.-)/bin/%.%./lib/'
      or library:match '^(.-)/lib/')
    assert.are.equal(0, (program.shell("echo x >>'" .. root .. "/moved/lib/libneap.so.0.2.0'")))
    assert.are_not.equal(hash, done('@/bin/neap lua hash.lua'):match '^%x+')
  end)

  it('takes a policy with a module beside it', function()
    assert.are.equal(0, (program.shell(("mkdir -p '%s/policies'"):format(root))))
    for name, text in pairs { ['mine.lua'] = POLICY, ['mine_rule.lua'] = "return 'lite'" } do
      local file = assert(io.open(root .. '/policies/' .. name, 'w'))
      file:write(text)
      file:close()
    end
    local out = done [[@/bin/neap replay --trace=@/share/neap/experiments/traces/e8k2.safetensors \
      --no-store --policy=../policies/mine.lua --strict]]
    assert.matches('mine', out)
  end)

  it('has a manual and completions', function()
    local page = done 'cat @/share/man/man1/neap.1'
    for _, name in ipairs { 'neap replay', 'neap trace synth', 'neap manual' } do
      assert.matches('\n.SS "' .. name .. '"\n', page, 1, true)
    end
    local _, complaints = done [[! command -v groff >/dev/null ||
      groff -K utf8 -man -ww -z @/share/man/man1/neap.1]]
    assert.are.equal('', complaints)
    assert.matches('complete .*neap', done 'cat @/share/bash-completion/completions/neap')
  end)

  it('is linked with by pkg-config, and by its soname', function()
    local out = done [[export PKG_CONFIG_PATH=@/lib/pkgconfig LD_LIBRARY_PATH=@/lib
      [ "$(pkg-config --modversion neap)" = 0.2.0 ]
      cc -Wall -Werror @/share/neap/experiments/c/plan_and_split.c -o plan_and_split \
        $(pkg-config --cflags --libs neap)
      ./plan_and_split; ldd ./plan_and_split]]
    local value = {}
    for name, number in out:gmatch '(%S+): imbalance ([%d.]+)' do value[name] = tonumber(number) end
    assert.is_true(value['static+lite'] > value['laer+lite'])
    assert.is_true(value['laer+lite'] > value['laer+minimax'])
    assert.is_true(value['laer+minimax'] >= value['neap+minimax'])
    assert.matches('libneap%.so%.0%.2 => ' .. root, out)
  end)

  it('has the Python package, which finds its engine', function()
    if shell '/usr/bin/python3 -c "import numpy"' ~= 0 then return pending 'skipped: no numpy' end
    local out = done [[PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=@/share/neap/python /usr/bin/python3 \
      -c "import neap; print(neap._engine.PLACE.library, neap.command(\"policy\", \"list\")[0])"]]
    assert.matches('/moved/lib/libneap%.so', out)
    assert.matches("'policy': 'eplb'", out)
  end)

  it('is found by CMake', function()
    local file = assert(io.open(root .. '/elsewhere/CMakeLists.txt', 'w'))
    file:write [[
      cmake_minimum_required(VERSION 3.25)
      project(user LANGUAGES C)
      find_package(Neap 0.2 REQUIRED)
      get_target_property(header Neap::neap INTERFACE_INCLUDE_DIRECTORIES)
      file(STRINGS ${header}/neap.h found REGEX neap_planner_open)
      if(NOT found)
        message(FATAL_ERROR "no header in ${header}")
      endif()]]
    file:close()
    done 'cmake -S . -B cmake-build -DCMAKE_PREFIX_PATH=@ >/dev/null'
  end)
end)

describe('Dockerfile', function()
  local function words(path)
    local file = assert(io.open(launcher.home .. '/' .. path))
    local text = file:read '*a'
    file:close()
    return text
  end

  it('installs what the launcher does to build', function()
    local docker = words 'Dockerfile'
    local packages = words('neap'):match 'run_packages=%((.-)%)'
    for name in packages:gmatch '%S+' do
      assert.is_truthy(docker:find(' ' .. name, 1, true), name)
    end
  end)

  it('has the version of the citation and of the build', function()
    local version = words('CMakeLists.txt'):match 'project%(neap VERSION (%S+)'
    assert.are.equal(version, words('CITATION.cff'):match '\nversion: (%S+)')
    assert.are.equal(version, require('neap.base.lib').version:match '^%S+')
  end)
end)
