-- SPDX-License-Identifier: Apache-2.0

--- neap bench moe: forward and backward of one layer on one rank, on the CPU (moe/cpu.lua) or on a
-- GPU (moe/gpu.lua).

local bench = {
  doc = 'Forward and backward of one MoE layer, against plain BLAS products; with --device=cuda on '
    .. 'four shapes, against dense products at the same heat, a copy and PyTorch.',
  cuda = true,
}

bench.options = {
  hidden = { default = 512, min = 1, integer = true, doc = 'H' },
  ffn = { default = 1024, min = 1, integer = true, doc = 'F of every expert' },
  experts = { default = 16, min = 1, integer = true, doc = 'experts' },
  top_k = { default = 2, min = 1, integer = true, doc = 'experts per token' },
  tokens = { default = 4096, min = 1, integer = true, doc = 'tokens' },
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
}

--- args: the options by name. Prints a table, or JSON.
function bench.run(args)
  local p = args.params
  if p.top_k > p.experts then
    require('neap.base.errors').usage('--top-k is %d; there are %d experts', p.top_k, p.experts)
  end
  require('neap.bench.moe.' .. (args.device == 'cuda' and 'gpu' or 'cpu')).run(p, args.json)
end

return bench
