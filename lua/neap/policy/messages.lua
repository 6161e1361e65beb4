--- Kinds of requests and hooks, in the notes between a rank and its worker; known: what a request
-- to plan, and its answer, is about when its load has been handed over before.

--- Numbers by name, and names by number.
return {
  load = 1, plan = 2, split = 3, when = 4, known = 5,
  [1] = 'loading', [2] = 'plan', [3] = 'split', [4] = 'when', [5] = 'plan',
}
