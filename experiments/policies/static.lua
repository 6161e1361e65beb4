-- SPDX-License-Identifier: Apache-2.0

--- Static expert parallelism: the layout never changes, tokens stay in their node where they can.
-- Without a plan hook the first layout, the engine's 'static', stays.
return require('neap.policy').define {
  name = 'static',
  doc = 'never changes the layout',
  split = 'lite',
}
