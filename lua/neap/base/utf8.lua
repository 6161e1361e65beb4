-- SPDX-License-Identifier: Apache-2.0

--- Text from outside (names of files, what programs print) may be no UTF-8; JSON and HTML must be.

local utf8 = {}

local REPLACEMENT = '\239\191\189' -- U+FFFD

-- The forms that one or more characters have (RFC 3629, section 4).
local FORMS = { '^[%z\1-\127]+()', '^[\194-\223][\128-\191]()', '^\224[\160-\191][\128-\191]()',
  '^[\225-\236\238\239][\128-\191][\128-\191]()', '^\237[\128-\159][\128-\191]()',
  '^\240[\144-\191][\128-\191][\128-\191]()', '^[\241-\243][\128-\191][\128-\191][\128-\191]()',
  '^\244[\128-\143][\128-\191][\128-\191]()' }

--- Where the characters of a form that begin at a place end, or nil.
local function past(text, at)
  for _, form in ipairs(FORMS) do
    local after = text:match(form, at)
    if after then return after end
  end
end

--- The text with each byte that belongs to no character replaced by U+FFFD.
function utf8.clean(text)
  if not text:find '[\128-\255]' then return text end
  local parts, at = {}, 1
  while at <= #text do
    local after = past(text, at)
    parts[#parts + 1] = after and text:sub(at, after - 1) or REPLACEMENT
    at = after or at + 1
  end
  return table.concat(parts)
end

return utf8
