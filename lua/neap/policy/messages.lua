--- Kinds of messages between a rank and its policy's worker.

local messages = {
  LOADING = 1, PLAN = 2, SPLIT = 3, WHEN = 4,
  KNOWN = 5, -- a request to plan, and its answer, whose load has been handed over before
}

--- What a worker does for a message, by kind, and the kinds of hooks, by name.
messages.doing = { 'loading', 'plan', 'split', 'when', 'plan' }
messages.of_hook = { plan = messages.PLAN, split = messages.SPLIT, when = messages.WHEN }

return messages
