-- SPDX-License-Identifier: Apache-2.0

--- The server of neap ui: pages over a run store for this machine's browsers alone. It listens on
-- 127.0.0.1; every address begins with a random token, and a request that names another host, or
-- comes from another host's page, is refused, so that no other site can read the store through the
-- browser (DNS rebinding). HTTP is lua-http's, Debian's package of that name.

local errors = require 'neap.base.errors'
local frame = require 'neap.ui.frame'
local layouts = require 'neap.ui.layouts'
local live = require 'neap.runs.live'
local log = require 'neap.ui.log'
local pages = require 'neap.ui.pages'
local report = require 'neap.report'
local sweep = require 'neap.ui.sweep'
local sweeps = require 'neap.runs.sweeps'

local server = {}

local TOKEN_BYTES = 16

-- Nothing from elsewhere is loaded, nothing is kept, and no other page may frame it.
local HEADERS = {
  ['content-security-policy'] = "default-src 'none'; style-src 'unsafe-inline'; "
    .. "script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; "
    .. "base-uri 'none'; frame-ancestors 'none'",
  ['referrer-policy'] = 'no-referrer',
  ['x-content-type-options'] = 'nosniff',
  ['cross-origin-resource-policy'] = 'same-origin',
  ['cache-control'] = 'no-store',
}

--- A library of Debian's, or the error that says how to get it.
local function library(name)
  local ok, found = pcall(require, name)
  if ok then return found end
  errors.plain("neap ui needs lua-http (module '%s'), which is not installed; "
    .. 'run: apt-get install lua-http', name)
end

local function random_token()
  local file = assert(io.open('/dev/urandom', 'rb'))
  local bytes = file:read(TOKEN_BYTES)
  file:close()
  return (bytes:gsub('.', function(c) return ('%02x'):format(c:byte()) end))
end

--- Whether two texts are the same, in a time that does not tell where they differ.
local function same(a, b)
  if #a ~= #b then return false end
  local differ = 0
  for i = 1, #a do differ = bit.bor(differ, bit.bxor(a:byte(i), b:byte(i))) end
  return differ == 0
end

local function unescape(text)
  return (text:gsub('+', ' '):gsub('%%(%x%x)', function(hex)
    return string.char(tonumber(hex, 16))
  end))
end

--- Names and lists of values of a query.
local function query_of(text)
  local fields = {}
  for name, value in (text or ''):gmatch '([^&=]+)=([^&]*)' do
    fields[name] = fields[name] or {}
    table.insert(fields[name], unescape(value))
  end
  return fields
end

--- ---- what is answered --------------------------------------------------------------------------

local function not_found(text)
  return 404, pages.message('Neap: not found', text)
end

local function report_of(self, fields)
  local ids = {}
  for i, text in ipairs(fields.run or {}) do
    ids[i] = tonumber(text:match '^%d+$')
    if not ids[i] or not live.find(self.runs, ids[i]) then
      return not_found(('the store has no run %s'):format(text))
    end
  end
  if #ids == 0 then return not_found 'Choose runs in the list first.' end
  local html = report.render(report.collect { results = {}, run = ids, store = self.runs.path })
  return 200, (html:gsub('<main>', '<main><p><a href="./">all runs</a></p>', 1))
end

local function sweep_of(self, fields, part)
  local name = fields.name and fields.name[1] or ''
  local found = sweeps.read(self.runs, name)
  if not found then return not_found(('the store has no sweep %s'):format(name)) end
  return 200, sweep.render(self.runs, found, { part = part })
end

--- Pages below a run's.
local function below_run(self, run, below, fields)
  if below == '/log' then return 200, log.render(self.runs, run) end
  if below == '/layouts' then
    local chosen = {}
    for name, values in pairs(fields) do chosen[name] = values[1] end
    return 200, layouts.render(self.runs, run, live.results(self.runs, run), chosen)
  end
  local text = below == '/timeline' and pages.timeline(run)
  if text then return 200, text end
  return not_found(below == '/timeline'
    and 'The file that --timeline named is not there (yet), seen from this folder.'
    or 'There is no such page.')
end

local function answer(self, path, fields)
  local part = fields.part ~= nil
  if path == '' then
    return 200, pages.list(self.runs, { query = fields.q and fields.q[1], all = fields.all ~= nil,
      part = part })
  elseif path == 'live.js' then
    return 200, frame.SCRIPT, 'text/javascript; charset=utf-8'
  elseif path == 'report' then
    return report_of(self, fields)
  elseif path == 'sweep' then
    return sweep_of(self, fields, part)
  end
  local id, below = path:match '^run/(%d+)(.*)$'
  local run = id and live.find(self.runs, tonumber(id))
  if not run then return not_found 'There is no such page.' end
  if below ~= '' then return below_run(self, run, below, fields) end
  return 200, pages.run(self.runs, run, { part = part })
end

--- Answers a request: status, text, type (nil: HTML). request: method, path, host, origin.
-- : table, table -> number, string, string?
function server.handle(self, request)
  if not self.hosts[request.host or ''] then return 403, 'neap: not this host\n', 'text/plain' end
  if request.origin and not self.hosts[request.origin:match '^http://(.*)$' or ''] then
    return 403, 'neap: not from this origin\n', 'text/plain'
  end
  local token, rest = request.path:match '^/([^/?]*)/?([^?]*)'
  if not token or not same(token, self.token) then
    return 403, 'neap: not this token; the address is what neap ui has printed\n', 'text/plain'
  end
  if request.method ~= 'GET' and request.method ~= 'HEAD' then
    return 405, 'neap: it only reads\n', 'text/plain'
  end
  local fields = query_of(request.path:match '%?(.*)$')
  local ok, status, text, kind = xpcall(answer, errors.handler, self, rest, fields)
  if ok then return status, text, kind end
  local code = errors.status(status) == 2 and 404 or 500
  return code, pages.message('Neap: this page cannot be shown', errors.text(status))
end

--- ---- the server --------------------------------------------------------------------------------

local function reply(self, stream, new_headers)
  local asked = stream:get_headers(10)
  if not asked then return end
  local status, text, kind = server.handle(self, { method = asked:get ':method',
    path = asked:get ':path' or '/', host = asked:get ':authority', origin = asked:get 'origin' })
  local headers = new_headers()
  headers:append(':status', tostring(status))
  headers:append('content-type', kind or 'text/html; charset=utf-8')
  headers:append('content-length', tostring(#text))
  for name, value in pairs(HEADERS) do headers:append(name, value) end
  local head = asked:get ':method' == 'HEAD'
  if stream:write_headers(headers, head, 10) and not head then
    stream:write_chunk(text, true, 10)
  end
end

--- Opens a server over a store (live.open) on a port of 127.0.0.1 (0: a free one): { url, loop }.
-- loop() serves until the process ends. Raises FAILED where lua-http or the port is not to be had.
-- : store, number -> table
function server.open(runs, port)
  local http, new_headers = library 'http.server', library('http.headers').new
  local self = { runs = runs, token = random_token() }
  local listening, why = http.listen { host = '127.0.0.1', port = port, tls = false, version = 1.1,
    onstream = function(_, stream) reply(self, stream, new_headers) end,
    onerror = function() end } -- a browser that has gone
  local ok, reason
  if listening then ok, reason = listening:listen(5) end
  if not ok then errors.plain('port %d of 127.0.0.1: %s', port, tostring(why or reason)) end
  local bound = select(3, listening:localname())
  self.hosts = { [('127.0.0.1:%d'):format(bound)] = true, [('localhost:%d'):format(bound)] = true }
  self.url = ('http://127.0.0.1:%d/%s/'):format(bound, self.token)
  function self.loop()
    local done, err = listening:loop()
    if not done then errors.plain('the server has ended: %s', tostring(err)) end
  end
  return self
end

return server
