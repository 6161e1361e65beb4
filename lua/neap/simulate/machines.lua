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
--   interference       { compute = { unshard = 0.5 }, … }: work takes so much longer (half as long
--                      again) while the second stream moves; streams: compute, tokens, unshard,
--                      reduce, late; either may be compute
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
