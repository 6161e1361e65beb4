-- SPDX-License-Identifier: Apache-2.0

--- The Lua side of the Jupyter kernel; notebook/kernel.py is the other. Called as a file with the
-- numbers of two file descriptors: requests come in on the first, answers go out on the second, a
-- line of JSON each. What a cell prints goes to stdout.
--   { run = TEXT, number = N } -> any number of { display = { MIME = data }, result = bool,
--                                 metadata = { MIME = { alt = text } } }, then
--                                 { done = true } or { error = { name, message, trace = lines } }
--   { complete = TEXT }        -> { matches = names, replaces = length }
--   { inspect = TEXT }         -> { text = what the reference says of its last name, if anything }
--   { is_complete = TEXT }     -> { status = 'complete', 'incomplete' or 'invalid' }
-- A request has an id, and so have its answers: whoever has given one up does not take an answer of
-- it for the next one's.

local cell = require 'neap.notebook.cell'
local display = require 'neap.notebook.display'
local json = require 'neap.base.json'
local launcher = require 'neap.launcher'

local requests_fd, answers_fd = ...
local requests = assert(io.open('/dev/fd/' .. requests_fd, 'r'))
local answers = assert(io.open('/dev/fd/' .. answers_fd, 'w'))

local id = 0 -- of the request under way

--- What a cell has printed comes first.
local function answer(message)
  io.stdout:flush()
  message.id = id
  answers:write(json.encode(message), '\n')
  answers:flush()
end

--- A picture's text stands for it where it cannot be seen.
local function show(value, result)
  local data, metadata = display.bundle(value), {}
  for mime in pairs(data) do
    if mime:match '^image/' then metadata[mime] = { alt = data['text/plain'] } end
  end
  answer { display = setmetatable(data, { __jsontype = 'object' }), result = result,
    metadata = setmetatable(metadata, { __jsontype = 'object' }) }
end

local notebook = cell.open(function(values, count)
  for i = 1, count do show(values[i], i == count) end
end)

-- What cells have besides Lua's own.
notebook.values.neap = require 'neap'
notebook.values.display = display
notebook.values.show = function(...)
  for i = 1, select('#', ...) do show((select(i, ...)), false) end
end

-- The process is the kernel's: a cell that wants to leave ends itself only.
rawset(os, 'exit', function(status)
  error(('os.exit(%s) ends the cell only; the kernel goes on'):format(tostring(status or '')), 2)
end)

io.stdout:setvbuf 'line'
launcher.catch_interrupts(false)
answer { ready = true }
for line in requests:lines() do
  local request = json.decode(line)
  id = request.id
  if request.run then
    local failure = notebook:run(request.run, request.number)
    answer(failure and { error = failure } or { done = true })
  elseif request.inspect then
    answer { text = notebook:inspect(request.inspect) }
  elseif request.is_complete then
    answer { status = notebook:is_complete(request.is_complete) }
  else
    local matches, length = notebook:complete(request.complete)
    answer { matches = matches, replaces = length }
  end
end
