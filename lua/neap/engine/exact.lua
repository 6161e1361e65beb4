-- SPDX-License-Identifier: Apache-2.0

--- Exact sums over the tokens of all ranks: the same bits however tokens are cut over ranks and
-- ordered (neap.h tells how). All are collective; comm nil: this rank is alone. total: tokens, or
-- elements, of all ranks together.

local lib = require 'neap.base.lib'

local ffi, C, check = lib.ffi, lib.C, lib.check

local exact = {}

local function pointer(comm)
  return comm and comm.ptr
end

--- sum (F64) += x^T dy.
-- : Comm, Tensor, Tensor, integer, Tensor -> Tensor
function exact.weight_grad(comm, x, dy, total, sum)
  check(C.neap_exact_weight_grad(pointer(comm), x.ptr, dy.ptr, total, sum.ptr), 2)
  return sum
end

--- sum (F64) += the rows of x.
-- : Comm, Tensor, integer, Tensor -> Tensor
function exact.column_sum(comm, x, total, sum)
  check(C.neap_exact_column_sum(pointer(comm), x.ptr, total, sum.ptr), 2)
  return sum
end

--- table (F64)[ids[t]] += dy[t].
-- : Comm, Tensor, Tensor, integer, Tensor -> Tensor
function exact.scatter_add(comm, ids, dy, total, table)
  check(C.neap_exact_scatter_add(pointer(comm), ids.ptr, dy.ptr, total, table.ptr), 2)
  return table
end

local result = ffi.new 'double[1]'

--- Sum of squares over all ranks.
-- : Comm, Tensor, integer -> number
function exact.sum_squares(comm, x, total)
  check(C.neap_exact_sum_squares(pointer(comm), x.ptr, total, result), 2)
  return result[0]
end

--- Sum over all ranks.
-- : Comm, Tensor, integer -> number
function exact.sum(comm, x, total)
  check(C.neap_exact_sum(pointer(comm), x.ptr, total, result), 2)
  return result[0]
end

return exact
