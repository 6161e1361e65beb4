-- SPDX-License-Identifier: Apache-2.0

--- The run store: one SQLite file that every run writes to, and that sweeps, comparisons, reports
-- and notebooks read.
--
--   local s = store.open('runs.db', true)             -- true: make it if there is none
--   local run = s:begin { kind = 'run', command = 'neap run x.lua' }    -- and more columns
--   local recorder = s:result(run, { policy = 'laer', seed = 1 })       -- recorder.lua
--   s:finish(run, 0)
--   for _, row in ipairs(s:rows('SELECT id, kind FROM runs WHERE seed = ?', 1)) do … end
--
-- Only rank 0 of a run writes. The tables are in core/data/store.c, the columns of steps in
-- metrics.lua.

local lib = require 'neap.base.lib'
local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local kept = require 'neap.runs.kept'
local metrics = require 'neap.runs.metrics'
local moments = require 'neap.runs.moments'
local pending = require 'neap.runs.pending'
local provenance = require 'neap.runs.provenance'
local recorder = require 'neap.runs.recorder'
local sources = require 'neap.base.sources'

local ffi, C = lib.ffi, lib.C

local store = { DEFAULT = 'runs.db' }

local Store = {}
Store.__index = Store
for name, method in pairs(pending) do Store[name] = method end

-- Seconds without a sign of life after which a run on another host counts as interrupted.
local SILENCE = 600

--- Opens a store; create: makes the file if there is none. Raises SYSTEM and FORMAT.
-- : string, boolean? -> Store
function store.open(path, create)
  local out, columns = ffi.new 'neap_store *[1]', metrics.columns()
  local names = ffi.new('const char *[?]', #columns, columns)
  lib.check(C.neap_store_open(path, create and 1 or 0, names, #columns, out), 2)
  local self = lib.handle(Store, out[0], C.neap_store_close)
  self.path, self.statements = path, {}
  self.waiting, self.next_try, self.results = {}, 0, {}
  return self
end

--- Closes the file; what waits to be written is written first.
function Store:close()
  for _, statement in pairs(self.statements) do
    ffi.gc(statement, nil)
    C.neap_statement_close(statement)
  end
  lib.close(self)
end

--- ---- options of commands -----------------------------------------------------------------------

--- Adds --store and --no-store to a command that writes runs.
-- : Command
function store.options(command)
  command:option('--store', ('file that the run is recorded in (default: NEAP_STORE of the '
    .. 'environment, else %s here)'):format(store.DEFAULT)):argname('<file>')
  command:flag('--no-store', 'record nothing')
end

--- The file that a reading command's --store means.
-- : table -> string
function store.path(args)
  local environment = os.getenv 'NEAP_STORE'
  return args.store or (environment ~= '' and environment) or store.DEFAULT
end

--- The store that a command's options ask for, or nil. One that nobody asked for by name and that
-- cannot be opened is no reason to fail.
-- : table -> Store?
function store.of(args)
  if args.no_store or (not args.store and os.getenv 'NEAP_STORE' == '') then return nil end
  local path = store.path(args)
  if args.store then return store.open(path, true) end
  local ok, result = pcall(store.open, path, true)
  if ok then return result end
  io.stderr:write(('neap: this run is not recorded: %s\n'):format(errors.text(result)))
end

--- The store of a command that reads; a missing one is the user's mistake.
-- : table -> Store
function store.existing(args)
  local path = store.path(args)
  local file = io.open(path)
  if not file then
    errors.usage('%s: no such run store; neap run and neap replay make one (--store FILE)', path)
  end
  file:close()
  return store.open(path)
end

--- ---- SQL ---------------------------------------------------------------------------------------

local function prepared(self, sql)
  local found = self.statements[sql]
  if found then return found end
  local out = ffi.new 'neap_statement *[1]'
  lib.check(C.neap_store_prepare(self.ptr, sql, out), 4)
  self.statements[sql] = ffi.gc(out[0], C.neap_statement_close)
  return self.statements[sql]
end

local function bind(statement, ...)
  for i = 1, select('#', ...) do
    local value = select(i, ...)
    if type(value) == 'boolean' then value = value and 1 or 0 end
    if type(value) == 'number' then
      lib.check(C.neap_statement_bind_number(statement, i, value), 4)
    else
      lib.check(C.neap_statement_bind_text(statement, i, value, value and #value or 0), 4)
    end
  end
end

local function names_of(statement)
  local names = {}
  for column = 0, C.neap_statement_columns(statement) - 1 do
    names[column + 1] = ffi.string(C.neap_statement_name(statement, column))
  end
  return names
end

local function read_row(statement, names)
  local row, bytes = {}, ffi.new 'int64_t[1]'
  for column = 0, #names - 1 do
    local kind = C.neap_statement_type(statement, column)
    if kind == 110 then -- 'n'
      row[names[column + 1]] = C.neap_statement_number(statement, column)
    elseif kind == 116 then -- 't'
      local text = C.neap_statement_text(statement, column, bytes)
      row[names[column + 1]] = ffi.string(text, bytes[0])
    end
  end
  return row
end

--- Runs a query with values for its question marks (nil: NULL). A list of tables, column = value.
-- : string, any… -> list of table
function Store:rows(sql, ...)
  local statement, more, list = prepared(self, sql), ffi.new 'int[1]', {}
  local names
  bind(statement, ...)
  while true do
    lib.check(C.neap_statement_step(statement, more), 2)
    if more[0] == 0 then return list end
    names = names or names_of(statement) -- another program may have added columns until now
    list[#list + 1] = read_row(statement, names)
  end
end

--- Runs a statement that changes something; the id of the row that it inserted.
-- : string, any… -> integer
function Store:write(sql, ...)
  local statement, more = prepared(self, sql), ffi.new 'int[1]'
  bind(statement, ...)
  repeat lib.check(C.neap_statement_step(statement, more), 2) until more[0] == 0
  return tonumber(C.neap_store_last_id(self.ptr))
end

--- Inserts a row; row: column = value.
-- : string, table -> integer
function Store:insert(table_name, row)
  local names, marks, values = lib.sorted_keys(row), {}, {}
  for i, name in ipairs(names) do marks[i], values[i] = '?', row[name] end
  return self:write(('INSERT INTO %s(%s) VALUES(%s)'):format(table_name, table.concat(names, ', '),
    table.concat(marks, ', ')), unpack(values, 1, #names))
end

--- Keeps a text by its SHA-256, which is returned.
-- : string -> string
function Store:text(body)
  local hash = provenance.sha256(body)
  self:later('INSERT OR IGNORE INTO texts(sha256, body) VALUES(?, ?)', hash, body)
  return hash
end

--- ---- runs --------------------------------------------------------------------------------------

--- Fills in a row that a sweep has claimed for a run with this key; its id, or nil if there is no
-- such claim.
local function take_over(self, id, row)
  local found = id and self:rows("SELECT sweep FROM runs WHERE id = ? AND key = ? "
    .. "AND state = 'running'", id, row.key)[1]
  if not found then return nil end
  row.sweep = row.sweep or found.sweep
  local names, marks, values = lib.sorted_keys(row), {}, {}
  for i, name in ipairs(names) do marks[i], values[i] = name .. ' = ?', row[name] end
  values[#names + 1] = id
  self:write(('UPDATE runs SET %s WHERE id = ?'):format(table.concat(marks, ', ')),
    unpack(values, 1, #names + 1))
  return id
end

--- Begins a run: row has columns of the table (kind and command at least; script: a file whose text
-- is kept, with the modules that it requires); what is known of machine, engine, process and sweep
-- is added. A sweep tells its children their key, and the row that it has claimed for them
-- (sweep/claims.lua). Returns the id.
-- : table -> integer
function Store:begin(row)
  local full = provenance.circumstances()
  for name, value in pairs(row) do full[name] = value end
  full.key = os.getenv 'NEAP_KEY' or full.key
  local script = row.script and sources.text(row.script)
  if script then full.script_sha256 = self:text(script) end
  full.started = C.neap_time()
  full.heartbeat, full.state = full.started, 'running'
  return take_over(self, tonumber(os.getenv 'NEAP_RUN'), full) or self:insert('runs', full)
end

--- Ends a run; message: of its error; done: it came to its end, whatever the status.
-- : integer, integer, string?, boolean?
function Store:finish(run, status, message, done)
  local now = C.neap_time()
  local state = (done or status == 0) and 'done' or status == 130 and 'interrupted' or 'failed'
  self:later('UPDATE runs SET state = ?, exit_status = ?, error = ?, ended = ?, heartbeat = ? '
    .. 'WHERE id = ?', state, status, message, now, now, run)
  self:flush()
end

--- Takes back a run if nothing of it has finished; whether it did.
local function forget(self, run)
  if #self:rows('SELECT 1 FROM results WHERE run = ? AND summary IS NOT NULL', run) > 0 then
    return false
  end
  moments.remove(self, run)
  self:write('DELETE FROM results WHERE run = ?', run)
  self:write('DELETE FROM runs WHERE id = ?', run)
  return true
end

-- Results of a run that have ids of their own; a run has far fewer.
local RESULTS = 4096

--- An id for the next result of a run that no other run's can have, so that its steps can be told
-- before the store has seen it.
local function next_result(self, run)
  local count = self.results[run]
  if not count then
    local found = self:rows('SELECT count(*) AS n FROM results WHERE run = ?', run)[1]
    count = found.n
  end
  self.results[run] = count + 1
  return run * RESULTS + count % RESULTS
end

local function insert_later(self, table_name, row)
  local names, marks, values = lib.sorted_keys(row), {}, {}
  for i, name in ipairs(names) do marks[i], values[i] = '?', row[name] end
  self:later(('INSERT INTO %s(%s) VALUES(%s)'):format(table_name, table.concat(names, ', '),
    table.concat(marks, ', ')), unpack(values, 1, #names))
end

--- Begins the result of one policy of a run. row: policy (text as policy.resolve takes it), seed,
-- trace, context. Returns what its steps are handed to (recorder.lua).
-- : integer, table -> Recorder
function Store:result(run, row)
  local full = { run = run, started = C.neap_time() }
  for name, value in pairs(row) do full[name] = value end
  full.policy_file = provenance.policy_file(row.policy)
  local body = full.policy_file and sources.text(full.policy_file)
  if body then full.policy_sha256 = self:text(body) end
  full.id = next_result(self, run)
  insert_later(self, 'results', full)
  return recorder.open(self, full.id)
end

--- Calls f(begin) as a run that is recorded if the options args say so; begin(row) begins a
-- result and returns its recorder, or nil where nothing is recorded. row, context: as for begin and
-- result. A mistake in how the command was called is no run. Returns the exit status, which f
-- returns (nil: 0).
-- : table, table, string, function -> integer
function store.recorded(args, row, context, f)
  local runs = store.of(args)
  if not runs then return f(function() end) or 0 end
  local id = runs:begin(row)
  local ok, result = xpcall(f, errors.handler, function(about)
    about.context = context
    return runs:result(id, about)
  end)
  local mistake = not ok and type(result) == 'table' and result.code == 'USAGE'
  local done, gone = false, false
  if mistake then done, gone = pcall(forget, runs, id) end
  if not (done and gone) then
    runs:finish(id, ok and (result or 0) or errors.status(result),
      not ok and errors.text(result) or nil, ok)
  end
  runs:close()
  if not ok then error(result, 0) end
  return result or 0
end

--- Adds to a run's corpora what a text schedule reads: tokens (of a corpus, bytes) and SHA-256.
-- : integer, Schedule
function Store:corpora(run, schedule)
  local row = self:rows('SELECT corpora FROM runs WHERE id = ?', run)[1]
  local found = row.corpora and kept.facts(row.corpora, ('run %d: corpora'):format(run)) or {}
  for _, name in ipairs(lib.sorted_keys(schedule.texts or {})) do
    local open_text, version = schedule.texts[name], found[name]
    if type(version) ~= 'table' then
      local unit = open_text.width == 1 and 'bytes' or 'tokens'
      found[name] = { version = version, [unit] = open_text.size,
        sha256 = provenance.text_hash(open_text) }
    end
  end
  self:later('UPDATE runs SET corpora = ? WHERE id = ?', json.encode(found), run)
end

--- 'done', 'failed', 'running' or 'interrupted': what a run's row says, unless its process is gone.
-- : table -> string
function store.state(row)
  if row.state ~= 'running' then return row.state end
  local boot, host = provenance.boot()
  if row.boot == boot then
    return provenance.process_start(row.pid) == row.pid_start and 'running' or 'interrupted'
  end
  local silent = C.neap_time() - row.heartbeat > SILENCE
  return (row.host == host or silent) and 'interrupted' or 'running'
end

--- Runs with their states, oldest first. where: an SQL condition over runs, with values for it.
-- : string?, any… -> list of table
function Store:runs(where, ...)
  local list = self:rows('SELECT * FROM runs WHERE ' .. (where or '1') .. ' ORDER BY id', ...)
  for _, row in ipairs(list) do row.state = store.state(row) end
  return list
end

return store
