-- SPDX-License-Identifier: Apache-2.0

--- neap doctor: what this machine and build have, for people and for reports of trouble.

local device = require 'neap.engine.device'
local flight = require 'neap.profile.flight'
local json = require 'neap.base.json'
local machine = require 'neap.base.machine'
local lib = require 'neap.base.lib'
local text = require 'neap.engine.text'

local command = { doc = 'Show what this machine and build have; or read flight recorders.' }

command.examples = [[
Examples:
  neap doctor
  neap doctor --json
  neap doctor --flight /tmp/neap-flight-4711.json     which rank hung, and where?]]

function command.options(parser)
  parser:flag('--json', 'results as JSON')
  parser:option('--flight', 'flight recorders of a run that hung: say which rank is missing')
    :args '+':argname '<file>'
end

local function facts()
  local list = { { 'neap', lib.version } }
  for _, fact in ipairs(machine.facts()) do list[#list + 1] = fact end
  for _, fact in ipairs(device.facts()) do list[#list + 1] = fact end
  list[#list + 1] = { 'policies', lib.C.neap_policy_server_confines() == 1
    and 'confined: no writing, sockets or processes'
    or 'NOT confined (no seccomp filters here): they may do what you may' }
  list[#list + 1] = { 'lua', jit.version .. (jit.status() and '' or ', compiler off') }
  local names, packages = text.names()
  for _, name in ipairs(names) do
    local ok, found = pcall(text.open, name)
    local state = ok and ('%s, %.1f MB'):format(packages[name], found.size / 2 ^ 20)
      or found.message
    list[#list + 1] = { 'text ' .. name, state }
    if ok then found:close() end
  end
  return list
end

local function tell_flight(paths, as_json)
  local judgement = flight.judge(flight.read(paths))
  if as_json then
    print(json.results('doctor', { operation = judgement and judgement.operation,
      waiting = judgement and judgement.waiting, rows = judgement and judgement.missing or {} }))
  else
    print(flight.text(judgement))
  end
end

--- Prints what is known, one fact a line, or JSON.
function command.run(args)
  if args.flight then return tell_flight(args.flight, args.json) end
  local rows = {}
  for i, fact in ipairs(facts()) do
    rows[i] = { fact = fact[1], value = fact[2] }
    if not args.json then print(('%-14s %s'):format(fact[1], fact[2])) end
  end
  if args.json then print(json.results('doctor', { rows = rows }, { 'fact', 'value' })) end
end

return command
