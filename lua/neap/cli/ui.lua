-- SPDX-License-Identifier: Apache-2.0

--- neap ui: pages over the run store for a browser on this machine.

local arguments = require 'neap.base.arguments'
local live = require 'neap.runs.live'

local command = { doc = 'Show the runs of the run store in a browser, as they go on.' }

command.examples = [[
Examples:
  neap ui                      prints the address to open, and serves until Ctrl-C
  neap ui --port 8642          for ssh -L 8642:127.0.0.1:8642 HOST
  neap ui --store runs.db
The address has a random token; nothing but this machine reaches it, and nothing is changed.]]

local MOST_PORT = 65535

function command.options(parser)
  parser:option('--store', 'the run store (default: NEAP_STORE, else runs.db)'):argname('<file>')
  parser:option('--port', 'port on 127.0.0.1 (default: a free one)')
    :convert(arguments.whole('--port', 1, MOST_PORT)):argname('<number>')
end

--- Serves until the process is ended.
function command.run(args)
  local runs = live.open(args)
  local server = require('neap.ui.server').open(runs, args.port or 0)
  print(server.url)
  io.stdout:flush()
  io.stderr:write 'neap: open this address in a browser here; Ctrl-C ends it\n'
  server.loop()
end

return command
