-- SPDX-License-Identifier: Apache-2.0

--- All dense parameters of a model: views of one flat tensor, and their gradients of another.
--
-- Modules declare what they need; allocate then makes both tensors. Parameters that weight decay
-- applies to (matrices) come first, so that an optimizer needs no list. Initial values depend on
-- seed and name alone. This is also the one place where gradients are summed over tokens: plainly,
-- or exactly (neap.exact), then into F64. Parameters in bf16 are copies of masters in f32, which
-- belong to the optimizer; their gradients are f32. Some are kept in f32 all the same (full).

local hash = require 'neap.base.hash'
local lib = require 'neap.base.lib'
local options = require 'neap.base.options'
local tensor = require 'neap.engine.tensor'
local ops = require 'neap.engine.ops'
local exact = require 'neap.engine.exact'

local Parameters = {}
Parameters.__index = Parameters

local SPEC = { comm = {}, dtype = { default = 'f32' }, exact = { default = false },
  seed = { default = 0 } }
local ALIGNMENT = 16 -- elements; parameters start on cache lines

--- dtype: 'f32' (default), 'f64' or 'bf16'. seed: of initial values. exact: gradients are sums that
-- do not depend on the order of tokens and their cut over ranks. comm: the communicator of the
-- ranks (nil: alone). total, a field, must hold the tokens of all ranks before a loss or exact
-- gradients.
function Parameters.new(given)
  local o = options.check(given, SPEC, 'parameters')
  return setmetatable({
    dtype = o.dtype,
    seed = o.seed,
    exact = o.exact,
    comm = o.comm,
    list = {},
    named = {},
  }, Parameters)
end

--- Declares a parameter; the result gets its tensors, value and grad, in allocate.
-- dims: list. init: { scale = s } for normals of that standard deviation, { value = v } for a
-- constant; full = true, of a matrix: its value is of the accumulation type (f32 for bf16).
-- Matrices decay, vectors do not.
function Parameters:declare(name, dims, init)
  if self.values then
    lib.raise('ARGUMENT', ("parameters: '%s' is declared after allocate"):format(name), 2)
  end
  if self.named[name] then
    lib.raise('ARGUMENT', ("parameters: '%s' is declared twice"):format(name), 2)
  end
  local count = 1
  for _, dim in ipairs(dims) do count = count * dim end
  local param = { name = name, dims = dims, count = count, init = init, decay = #dims > 1 }
  self.named[name] = param
  self.list[#self.list + 1] = param
  return param
end

--- FNV-1a hash of a name, as the stream of its random numbers.
Parameters.stream_of = hash.text

--- Gives every parameter of a kind its offset; returns the end.
local function assign(list, decay, full, offset)
  for _, param in ipairs(list) do
    if param.decay == decay and (param.init.full or false) == full then
      param.offset = offset
      offset = offset + math.ceil(param.count / ALIGNMENT) * ALIGNMENT
    end
  end
  return offset
end

local function draw(param, value, seed)
  if param.init.value then
    value:fill(param.init.value)
  else
    value:normal(seed, hash.text(param.name), 0, param.init.scale)
  end
end

--- Makes values and gradients, the flat tensors, and initialises all parameters. decayed: how many
-- elements, from the start, weight decay applies to. full: the first of them that are not rounded.
-- masters: the values themselves, or in bf16 what they are rounded from.
function Parameters:allocate()
  local full = assign(self.list, true, true, 0)
  self.decayed = assign(self.list, true, false, full)
  local count = assign(self.list, false, false, self.decayed)
  local acc = tensor.acc_of(self.dtype)
  self.masters = tensor.zeros(acc, count)
  self.values = acc == self.dtype and self.masters or tensor.new(self.dtype, count)
  self.full = acc == self.dtype and self.values or tensor.new(acc, full)
  self.gradients = tensor.zeros(self.exact and 'f64' or acc, count)
  for _, param in ipairs(self.list) do
    local whole = param.init.full and self.full or self.values
    param.value = whole:view(param.offset, unpack(param.dims))
    param.grad = self.gradients:view(param.offset, unpack(param.dims))
    local master = self.masters:view(param.offset, unpack(param.dims))
    draw(param, master, self.seed)
    master:close()
  end
  if self.values ~= self.masters then
    self.values:copy(self.masters)
    self.full:copy(self.masters, full)
  end
  return self
end

function Parameters:get(name)
  local param = self.named[name]
  if not param then
    lib.raise('ARGUMENT', ("parameters: no '%s'%s"):format(name,
      lib.hint(name, lib.sorted_keys(self.named))), 2)
  end
  return param
end

--- The elements from first on of the masters, as a tensor of the taker's. In bf16 they can be taken
-- once: an optimizer has them from then on.
function Parameters:take_masters(first, count)
  if not self.masters then
    lib.raise('ARGUMENT', 'parameters: the masters of bf16 values have been taken before', 2)
  end
  local range = tensor.new(self.masters.dtype, count):copy(self.masters, count, 0, first)
  if self.masters ~= self.values then
    self.masters:close()
    self.masters = nil
  end
  return range
end

function Parameters:zero_grad()
  self.gradients:fill(0)
end

--- Adds x^T dy to the gradient of a matrix.
function Parameters:add_product(param, x, dy)
  if self.exact then
    exact.weight_grad(self.comm, x, dy, self.total, param.grad)
  else
    ops.linear_weight_grad(x, dy, param.grad, true)
  end
end

--- Adds the rows of dy to the rows that ids name of a table's gradient.
function Parameters:add_rows(param, ids, dy)
  if self.exact then
    exact.scatter_add(self.comm, ids, dy, self.total, param.grad)
  else
    ops.embedding_grad(ids, dy, param.grad)
  end
end

--- Adds the sum of all rows of terms to the gradient of a vector. Only for exact gradients.
function Parameters:add_columns(param, terms)
  exact.column_sum(self.comm, terms, self.total, param.grad)
end

return Parameters
