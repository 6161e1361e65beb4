-- SPDX-License-Identifier: Apache-2.0

--- neap bench moe: forward and backward of one layer on one rank, on the CPU (moe/cpu.lua) or on a
-- GPU (moe/gpu.lua), or over ranks (ranks/moe.lua).

local errors = require 'neap.base.errors'
local json = require 'neap.base.json'
local launch = require 'neap.train.launch'
local launcher = require 'neap.launcher'
local lib = require 'neap.base.lib'
local plan = require 'neap.engine.plan'

local bench = {
  doc = 'Forward and backward of one MoE layer, against plain BLAS products; with --device=cuda on '
    .. 'four shapes, against dense products at the same heat, a copy and PyTorch; with --ranks '
    .. 'over ranks, with resident experts and under planners.',
  cuda = true,
}

bench.options = {
  hidden = { default = 512, min = 1, integer = true, doc = 'H' },
  ffn = { default = 1024, min = 1, integer = true, doc = 'F of every expert' },
  experts = { default = 16, min = 1, integer = true, doc = 'experts' },
  top_k = { default = 2, min = 1, integer = true, doc = 'experts per token' },
  tokens = { default = 4096, min = 1, integer = true, doc = 'tokens of a rank' },
  repeats = { default = 5, on_cuda = 8, min = 1, integer = true,
    doc = 'runs of each: the fastest counts, on a GPU the median, of more where they are short' },
  exact = { default = false, doc = 'exact weight gradients' },
  shape = { default = 'all', choices = { 'all', '8', '16', '64', '128', 'own' },
    doc = 'on a GPU: all four, the one with so many experts, or your own hidden, ffn, …' },
  load = { default = 'both', choices = { 'both', 'balanced', 'skewed' },
    doc = 'on a GPU: tokens of the experts, even or as 1 / rank^0.6' },
  torch = { default = 'best', choices = { 'best', 'eager', 'off' },
    doc = 'on a GPU: what of PyTorch is measured in turn with it' },
  peers = { default = false,
    doc = 'on a GPU: besides, SonicMoE and Liger where python3 has them; they tune for minutes' },
  ranks = { default = 1, min = 1, integer = true,
    doc = 'over so many, that share the GPUs there are, or, under mpirun, as many as it starts' },
  policies = { default = { 'resident', 'neap' },
    doc = 'over ranks: resident experts, or planners, on the counts as they are' },
  slots = { default = 0, min = 0, integer = true,
    doc = 'over ranks: of a rank under planners; 0: twice as many as resident experts take' },
}

local function check_policies(names)
  local known, is = { 'resident', unpack(plan.names()) }, {}
  for _, name in ipairs(known) do is[name] = true end
  for _, name in ipairs(names) do
    if not is[name] then
      errors.usage("--policies: no planner is called '%s'%s; there are %s", name,
        lib.hint(name, known), table.concat(known, ', '))
    end
  end
end

local function over_ranks(args)
  local p = args.params
  check_policies(p.policies)
  if args.device == 'cpu' then p.shape = 'own' end
  return launch.run(p.ranks, launcher.home .. '/lua/neap/bench/ranks/moe.lua',
    json.encode { params = p, device = args.device, json = args.json,
      dtype = args.device == 'cpu' and 'f32' or 'bf16' })
end

--- args: the options by name. Prints a table, or JSON. Returns the exit status, if not 0.
function bench.run(args)
  local p = args.params
  if p.top_k > p.experts then
    errors.usage('--top-k is %d; there are %d experts', p.top_k, p.experts)
  end
  local _, size = launch.rank_and_size()
  if size or p.ranks > 1 then return over_ranks(args) end
  require('neap.bench.moe.' .. (args.device == 'cuda' and 'gpu' or 'cpu')).run(p, args.json)
end

return bench
