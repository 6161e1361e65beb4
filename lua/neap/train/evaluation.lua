-- SPDX-License-Identifier: Apache-2.0

--- Validation loss: every so many steps a forward of the model on tokens that training never sees.
-- What it draws depends on the text alone, so that runs of any seed, policy and number of ranks are
-- measured on the same tokens; training goes on as if there had been none.
--
--   local e = evaluation.open(trainer)      -- nil without --eval-every
--   e:due(step)                             -- after so many steps
--   local loss = e:run(step)

local series = require 'neap.base.series'
local splits = require 'neap.engine.split'
local texts = require 'neap.engine.text'

local evaluation = {}

--- Parameters of a training (trainer.params).
evaluation.params = {
  eval_every = { default = 0, min = 0, integer = true,
    doc = 'steps from one validation loss to the next; 0: none' },
  eval_batches = { default = 4, min = 1, integer = true,
    doc = 'batches of a validation loss' },
  eval_text = { default = '',
    doc = "what to validate on, a text or a schedule; '': the last 5 % of what is trained on" },
}

local Evaluation = {}
Evaluation.__index = Evaluation

-- Of draws: the same in every run.
local SEED = 0

--- Who answers for the policy in a forward that it is to know nothing of: its layouts, with the
-- exact split.
local function quiet_session(trainer)
  local session, split_of = trainer.session, {}
  for layer = 0, trainer.params.layers - 1 do
    split_of[layer] = splits.open(trainer.topology, 'minimax')
  end
  return {
    split_of = split_of,
    layout = function(_, layer) return session:layout(layer) end,
    split = function(_, _, layer, load)
      return split_of[layer]:compute(session:layout(layer), load)
    end,
  }
end

--- trainer: open, with model and session. Raises USAGE for a text that is too short.
-- : Trainer -> Evaluation or nil
function evaluation.open(trainer)
  local p = trainer.params
  if (rawget(p, 'eval_every') or 0) == 0 then return nil end
  local other = rawget(p, 'eval_text') or ''
  local self = setmetatable({ trainer = trainer, every = p.eval_every, batches = p.eval_batches,
    text = other ~= '' and texts.schedule(other) or trainer.text,
    part = other ~= '' and 'whole' or 'held_out', session = quiet_session(trainer),
    steps = series.open(), losses = series.open() }, Evaluation)
  if self.text.check then
    self.text:check(p.sequence, rawget(p, 'vocabulary'), { self.part })
  end
  return self
end

--- Whether there is one after so many steps: every so many, and after the last.
-- : integer -> boolean
function Evaluation:due(done)
  return done % self.every == 0 or done == self.trainer.params.steps
end

--- The mean loss, of the texts that the step with this number was trained on, or of --eval-text.
-- Collective.
-- : integer -> number
function Evaluation:run(step)
  local trainer, sum = self.trainer, 0
  local model = trainer.model
  local session = model.session
  model.session = self.session
  for batch = 0, self.batches - 1 do
    trainer:fill(self.text, { seed = SEED, step = batch, part = self.part, at = step })
    sum = sum + model:forward(trainer.ids, trainer.targets, step)
  end
  model.session = session
  self.steps:add(step)
  self.losses:add(sum / self.batches)
  return self:last()
end

--- The last loss, or nil.
-- : -> number or nil
function Evaluation:last()
  return self.losses[self.losses.count]
end

--- The loss after the step with this number, or nil.
function Evaluation:of(step)
  return self.steps[self.steps.count] == step and self:last() or nil
end

--- Fields of a training's row (runs/metrics.lua): the last loss, and all, with their steps.
function Evaluation:row()
  local losses, steps = {}, {}
  for i = 1, self.losses.count do losses[i], steps[i] = self.losses[i], self.steps[i] end
  return { eval_loss = self:last(), eval_losses = losses, eval_steps = steps }
end

function Evaluation:close()
  for layer = 0, self.trainer.params.layers - 1 do self.session.split_of[layer]:close() end
end

return evaluation
