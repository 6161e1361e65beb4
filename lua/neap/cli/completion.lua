-- SPDX-License-Identifier: Apache-2.0

--- neap completion: the script that makes a shell complete neap's commands and options.

local command = { doc = 'Print a completion script for a shell.' }

command.examples = [[
Examples:
  neap completion bash >~/.local/share/bash-completion/completions/neap
  neap completion zsh >~/.zfunc/_neap
  neap completion fish >~/.config/fish/completions/neap.fish
In the shell at hand: source <(./neap completion bash)]]

local SCRIPTS = { bash = 'get_bash_complete', zsh = 'get_zsh_complete', fish = 'get_fish_complete' }

function command.options(parser)
  parser:argument('shell', 'bash, zsh or fish'):choices { 'bash', 'zsh', 'fish' }
end

--- full: makes the parser that has the options of all commands.
function command.run(args, full)
  local parser = full()
  io.write(parser[SCRIPTS[args.shell]](parser))
end

return command
