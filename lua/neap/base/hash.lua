-- SPDX-License-Identifier: Apache-2.0

--- FNV-1a over 64-bit words: digests of losses and layouts, streams of random numbers by name.

local ffi = require 'ffi'

local hash = { START = 0xcbf29ce484222325ULL }

local PRIME = 0x100000001b3ULL
local bits = ffi.new 'union { double value; uint64_t word; }'

--- Goes on from a state with a word (uint64_t).
function hash.word(state, word)
  return bit.bxor(state, word) * PRIME
end

--- Goes on with the bits of a number.
function hash.number(state, value)
  bits.value = value
  return hash.word(state, bits.word)
end

--- Of the bytes of a text.
function hash.text(text)
  local state = hash.START
  for i = 1, #text do state = hash.word(state, text:byte(i) + 0ULL) end
  return state
end

return hash
