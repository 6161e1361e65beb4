-- SPDX-License-Identifier: Apache-2.0

--- Kinds of messages between a rank and its policy's worker.

local messages = {
  LOADING = 1, PLAN = 2, SPLIT = 3, WHEN = 4,
  KNOWN = 5, -- a request to plan, and its answer, whose load has been handed over before
  HISTORY = 6,             -- a load of an earlier step, only to be remembered
  SAVE = 7, RESTORE = 8,   -- a layer's state, in pieces: step is where a piece begins
  PRECISION = 9,           -- how a layer travels, in text as precision.text has it, both ways
}

--- Text of a plan by a policy that keeps more in its fields than parameters.
messages.FIELDS = 'fields'

--- What a worker does for a message, by kind, and the kinds of hooks, by name.
messages.doing = { 'loading', 'plan', 'split', 'when', 'plan', 'history', 'save', 'restore',
  'precision' }
messages.of_hook = { plan = messages.PLAN, split = messages.SPLIT, when = messages.WHEN,
  save = messages.SAVE, restore = messages.RESTORE, precision = messages.PRECISION }

return messages
