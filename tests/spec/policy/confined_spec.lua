-- SPDX-License-Identifier: Apache-2.0

--- What policies cannot do to the rank, the machine and the user, whatever they try.

local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local session = require 'neap.policy.session'
local topology = require 'neap.engine.topology'

local RANKS, EXPERTS, LAYERS = 4, 6, 2

local function open(name, options)
  local given = {
    topology = topology.open { ranks = RANKS, node_size = 2, slots = 2, experts = EXPERTS },
    layers = LAYERS, policy = 'tests/policies/' .. (name or ''), seed = 3, wait = true,
    deadline = 5,
  }
  for key, value in pairs(options or {}) do given[key] = value end
  return session.open(given)
end

--- Runs steps; returns the report.
local function run(s, steps)
  local load = lib.ffi.new('int64_t[?]', RANKS * EXPERTS)
  for step = 0, steps - 1 do
    s:advance(step)
    for layer = 0, LAYERS - 1 do
      for i = 0, RANKS * EXPERTS - 1 do load[i] = lib.C.neap_random_bits(3, step, i) % 100 end
      s:plan_now(step, layer, load)
      local tokens = 0
      for i = 0, RANKS * EXPERTS - 1 do tokens = tokens + tonumber(load[i]) end
      assert.are.equal(tokens, s:split(step, layer, load):balance().tokens)
      s:record(step, layer, load)
    end
  end
  local report = s:report()
  s:close()
  return report
end

local function write(path, text)
  local file = assert(io.open(path, 'w'))
  file:write(text)
  file:close()
end

local function shell(command)
  local pipe = io.popen(command)
  local text = pipe:read '*a'
  pipe:close()
  return text
end

--- Runs a Lua text in a process of its own; returns what it writes to stderr.
local function apart(text)
  local path = os.tmpname()
  write(path, text)
  local errors = shell(("'%s/neap' lua %s 2>&1 >/dev/null"):format(launcher.folder, path))
  os.remove(path)
  return errors
end

local USES = ([[
  local topology = require('neap.engine.topology').open { ranks = 4, slots = 2, experts = 6 }
  local load = require('ffi').new('int64_t[24]', 5)
  local s = require('neap.policy.session').open { topology = topology, layers = 1, wait = true,
    policy = %q, deadline = %g }
  s:record(0, 0, load)
  s:advance(1)
  io.stderr:write(s:report().faults, ' faults\n')
  s:close()
]])

describe('a policy', function()
  local folder

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    os.execute('mkdir ' .. folder)
    write(folder .. '/there', 'as it was')
  end)
  after_each(function() os.execute('rm -r ' .. folder) end)

  it('that tries to escape does not get through', function()
    if lib.C.neap_policy_server_confines() == 0 then
      return pending 'this kernel has no filters for system calls; neap doctor says so'
    end
    local report = run(open('escapes.lua:folder=' .. folder), 2)
    assert.are.equal(0, report.faults, report.messages[1])
    assert.are.equal('there\n', shell('ls ' .. folder))
    assert.are.equal('as it was', io.open(folder .. '/there'):read '*a')
  end)

  it('is let through where it is trusted', function()
    local report = run(open('escapes.lua:folder=' .. folder, { trusted = true }), 2)
    assert.is_true(report.faults > 0)
    assert.matches('create a file; append to a file; change a file; remove a file',
      report.messages[1])
  end)

  it('can read files and require modules', function()
    local path = folder .. '/reads.lua'
    write(path, [[
      local P = require('neap.policy').define { name = 'reads' }
      local json = require 'neap.base.json'
      function P:plan(ctx)
        assert(io.open(']] .. folder .. [[/there'):read '*a' == 'as it was')
        assert(json.encode { 1 } == '[1]\n' or json.encode { 1 } == '[1]')
        return ctx.previous
      end
      return P]])
    local report = run(open(nil, { policy = path }), 2)
    assert.are.equal(0, report.faults, report.messages[1])
  end)

  it('that is trusted leaves no process behind', function()
    local report = run(open('daemon.lua', { trusted = true }), 2)
    assert.are.equal(0, report.faults, report.messages[1])
    local left
    for _ = 1, 50 do
      left = shell 'pgrep -f "sleep 98765[3]"'
      if left == '' then break end
      launcher.sleep(0.05)
    end
    assert.are.equal('', left)
  end)

  it('that is trusted and starts processes without end is ended with them', function()
    local errors = apart(USES:format('tests/policies/swarms.lua', 8):gsub('wait = true',
      'wait = true, trusted = true'))
    assert.matches('1 faults', errors)
    if not errors:find 'a policy has started more than 64 processes' then
      assert.matches('Resource temporarily unavailable', errors) -- the user's limit came first
    end
    assert.are.equal('', shell 'pgrep -f "sleep 98765[2]"')
  end)

  it('that prints without end fills nothing', function()
    local errors = apart(USES:format('tests/policies/floods.lua', 1.2))
    assert.is_true(#errors < 300e3, #errors .. ' bytes')
    errors = errors:gsub('noise ', '')
    assert.matches('a policy prints more than 64 kB per second: the rest', errors)
    assert.matches('1 faults', errors)
  end)

  it('that fails without a text is told in one line', function()
    for kind, pattern in pairs {
      fails = 'an error without a text %(a table value%)$',
      index = 'an error without a text %(a table value%)$',
      number = 'an error without a text %(a table value%)$',
      table = 'an error without a text %(a table value%)$',
      cdata = 'an error without a text %(a cdata value%)$', none = '%(a nil value%)$',
      code = 'an error without a text %(a table value%)$', own = 'nil$', huge = 'x x x x',
      text = 'a %[2Jb cyyyy',
    } do
      for _, in_process in ipairs { false, true } do
        local report = run(open('speechless.lua:kind=' .. kind, { in_process = in_process }), 2)
        assert.are.equal(2 * LAYERS, report.faults, kind)
        local message = report.messages[1]
        assert.matches('speechless.lua:%d+: plan at step 1, layer 0: ', message)
        assert.matches(pattern, message)
        assert.is_nil(message:find '%c', kind)
        assert.is_true(#message < 2500)
      end
    end
  end)

  it('that forges answers is named and replaced', function()
    local faults = 0
    for seed = 1, 40 do
      local hook = seed % 4 == 0 and 'split' or 'plan'
      local s = open(('forges.lua:seed=%d,hook=%s'):format(seed, hook), { deadline = 0.5 })
      local report = run(s, 3)
      faults = faults + report.faults
      for _, message in ipairs(report.messages) do assert.matches('^policy tests/', message) end
    end
    assert.is_true(faults > 10, faults .. ' faults')
  end)
end)
