-- SPDX-License-Identifier: Apache-2.0

--- Machines that Neap knows by name. A user's own is a Lua file that returns such a table; neap
-- calibrate writes one of the machine at hand. All ranks are alike unless speed says otherwise.
--   ranks, node_size   how many, and how many of them have fast links to each other
--   flops              operations per second of a rank at most, in the type it trains in
--   gemm, attention    share of them that large products, and the attention itself, reach
--   tile               a product's size n costs as much as n + tile: small ones are slow
--   memory             bytes per second of a rank's memory that elementwise work reaches
--   launch             seconds that any piece of work takes at least
--   host               seconds per layer and pass in which the rank waits for its host: it has to
--                      read the counts of tokens before it can receive them
--   port               B/s of a rank's link to all others, each way
--   uplink             B/s of a node's link to the others, each way, for all its ranks together
--   latency, far_latency  seconds of an exchange within a node, and between nodes
--   queued             exchanges of a rank run one at a time, in the order in which they are issued
--   capacity           bytes of a rank's memory
--   elementwise        passes of elementwise code through memory, compared with op_cost.lua's (1)
--   shared             ranks share processors: what one does not use, the others get
--   copied             exchanges are copied by what computes, so they hide under nothing
--   speed              list of the ranks' relative speeds (default: all 1)
-- May be left out, and cost nothing then:
--   peer, far_peer     seconds of a rank for each message to a rank of its node, and to one of
--                      another node (default: as peer), before the bytes of an exchange move; of
--                      exchanges of tokens, parameters and their gradients, not of collectives
--   rates              list of { bytes of a message, B/s of a port that such messages reach }
--   collective         B/s of a port in the exchanges of dense parameters (default: as others)
--   interference       { compute = { unshard = 0.5 }, … }: work takes so much longer (half as long
--                      again) while the second stream moves; streams: compute, tokens, unshard,
--                      reduce, late; either may be compute
--   spans              { attention = 1.1, ['expert backward'] = 0.9, … }: how many times the
--                      seconds of op_cost.lua a span takes, as calibration has measured it
--   deduplicated       a token goes to another node once, and is passed on there to its experts
--   plan, split        seconds of the host for a layer's plan, and for the split of its counts;
--                      plans that take longer than a micro-batch are late, and on older counts;
--                      those on the current counts are waited for
-- Where the figures come from is said beside them.

local A100 = {
  flops = 312e12,                    -- data sheet, bf16
  gemm = 0.835, tile = 64,           -- 9.02 and 11.74 s of experts per step (published break-down)
  attention = 0.36,                  -- chosen, with host: the published step times of LAER
  memory = 1.6e12,                   -- of 2.04e12, data sheet
  launch = 5e-6, host = 5e-3, capacity = 80e9,
  port = 216.27e9,                   -- constant of the published planner
  latency = 30e-6, far_latency = 60e-6,
}

local H100 = {
  flops = 989e12,                    -- data sheet, bf16
  gemm = 0.75, tile = 64,            -- 700 to 785e12 measured
  attention = 0.45, memory = 2.6e12, -- 3.0e12 measured for copies
  launch = 5e-6, host = 0.5e-3, capacity = 80e9,
  port = 370e9,                      -- of 450e9, data sheet
  latency = 25e-6, far_latency = 50e-6,
}

-- Two cards over NVLink by NCCL, as neap calibrate describes a machine that was measured. spans,
-- rates, interference and collective come from steps of 12 layers (hidden 1024, 16 experts of 2048,
-- top 2, 8192 tokens a rank, bf16): spans and rates under schedule none, where nothing overlaps,
-- the others from none and neap. An expert takes about half of what op_cost.lua says, since the
-- engine's kernels are fused. Rates measured alone: 49 GB/s at 4 MB, 119 to 240 at 16 to 64, 220 to
-- 272 at 256 to 512, differing by 3 x from run to run.
local H200 = {
  flops = 989e12, gemm = 0.8, tile = 64, -- 790e12 for large products
  attention = 0.257,                     -- 0.27 ms for 8 sequences of 2048, 16 heads of 64
  memory = 4.2e12,                       -- of 4.8e12, data sheet
  launch = 4e-6, host = 0, capacity = 141e9, port = 450e9, latency = 20e-6, far_latency = 20e-6,
  rates = { { 4e6, 49e9 }, { 16.8e6, 108e9 }, { 50e6, 217e9 }, { 100e6, 235e9 },
    { 512e6, 272e9 } },
  collective = 87e9,
  spans = { attention = 0.595, ['attention backward'] = 0.715, dispatch = 2.25, expert = 0.551,
    ['expert backward'] = 0.678, optimizer = 1.04, unshard = 2.75, reduce = 3.7 },
  interference = { compute = { unshard = 2, reduce = 0.25 } },
}

--- A machine with the fields of another one and its own.
local function machine(base, fields)
  local all = {}
  for name, value in pairs(base) do all[name] = value end
  for name, value in pairs(fields) do all[name] = value end
  return all
end

return {
  a100x8 = machine(A100, {
    doc = 'one node of 8 A100', ranks = 8, node_size = 8, uplink = 88.95e9, queued = true,
  }),
  a100x32 = machine(A100, {
    doc = "4 nodes of 8 A100, the LAER-MoE paper's cluster", ranks = 32, node_size = 8,
    uplink = 88.95e9,                -- constant of the published planner
    queued = true,                   -- frameworks of its kind run with one connection a device
  }),
  h100x8 = machine(H100, {
    doc = 'one node of 8 H100', ranks = 8, node_size = 8, uplink = 360e9, queued = false,
  }),
  h100x256 = machine(H100, {
    doc = '32 nodes of 8 H100, 400 Gb/s per rank', ranks = 256, node_size = 8, uplink = 360e9,
    queued = false,
  }),
  h200x2 = machine(H200, {
    doc = '2 H200 of one host, as measured', ranks = 2, node_size = 2, uplink = 450e9,
    queued = true,
  }),
  ethernet8 = machine(A100, {
    doc = '2 nodes of 4 A100 on PCIe, 25 Gb/s Ethernet between them', ranks = 8, node_size = 4,
    port = 20e9, uplink = 2.8e9, latency = 50e-6, far_latency = 200e-6, queued = false,
  }),
  laptop = {
    doc = '4 ranks that are threads of a laptop', ranks = 4, node_size = 2,
    flops = 60e9, gemm = 0.85, tile = 16, attention = 0.3, memory = 6e9, launch = 3e-6,
    host = 50e-6, capacity = 4e9, port = 3e9, uplink = 3e9, latency = 30e-6, far_latency = 30e-6,
    queued = false,
  },
}
