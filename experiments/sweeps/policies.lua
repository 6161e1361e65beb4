-- SPDX-License-Identifier: Apache-2.0

--- Which policy balances best when the text changes? The quickstart's run, shorter, under six
-- policies and five seeds.
--
--   ./neap sweep experiments/sweeps/policies.lua
--   ./neap compare --sweep policies
--
-- Costs: 30 runs, about 15 minutes on 2 cores; Ctrl-C stops it, the same command goes on.
return {
  name = 'policies',
  doc = 'The quickstart under several policies and seeds.',
  kind = 'run',
  script = 'experiments/quickstart.lua',
  fixed = { steps = 60, text = 'english,go@20,french+russian@40', trace = '' },
  grid = {
    policies = { 'static', 'laer', 'laer+minimax', 'eplb', 'flexmoe', 'hot' },
    seed = '0..4',
  },
}
