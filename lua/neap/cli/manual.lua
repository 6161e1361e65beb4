-- SPDX-License-Identifier: Apache-2.0

--- neap manual: the program's page for man, made of the help of all commands.

local lib = require 'neap.base.lib'

local command = { doc = "Print the manual's page." }

command.examples = [[
Examples:
  neap manual >~/.local/share/man/man1/neap.1
In the shell at hand: man <(neap manual)]]

local HEAD = [[
.TH NEAP 1 "" "Neap %s" "User commands"
.SH NAME
neap \- load\-adaptive expert layouts for Mixture\-of\-Experts training
.SH SYNOPSIS
.B neap
.I COMMAND
[\fIARGUMENT\fR ...]
.SH DESCRIPTION
One policy, unchanged, replays recorded routing, is simulated on a cluster that is only described,
trains on this machine, and trains on a cluster under mpirun.
]]

local TAIL = [[
.SH EXIT STATUS
0 done, 1 failed, 2 wrong usage, 3 a policy failed under \-\-strict or was never in force,
5 corrupt input, 6 a rank hung, 130 interrupted.
.SH ENVIRONMENT
.TP
.B NEAP_HOME
where lua/ and experiments/ are, instead of the folder that the program belongs to
.TP
.B NEAP_STORE
the run store's file; empty: runs are not recorded
.TP
.B NEAP_TEXT_ROOT
folder that stands for / where texts for training are looked for
]]

--- Lines as they are: nothing in them is a request of troff's.
local function literal(text)
  text = text:gsub('\\', '\\e'):gsub('%-', '\\-'):gsub("\n([.'])", '\n\\&%1')
  return '.nf\n' .. text:gsub("^([.'])", '\\&%1') .. '\n.fi\n'
end

--- A section for each command, and for those that a command consists of.
local function write_commands(parser)
  for _, inner in ipairs(parser._commands) do
    local help = inner:get_help()
    io.write(('.SS "%s"\n'):format(help:match '^Usage: ([%l ]*%l)'), literal(help))
    write_commands(inner)
  end
end

function command.options() end

--- full: makes the parser that has the options of all commands.
function command.run(_, full)
  io.write(HEAD:format(lib.version:match '^%S+'), '.SH COMMANDS\n')
  write_commands(full())
  io.write(TAIL)
end

return command
