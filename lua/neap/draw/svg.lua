-- SPDX-License-Identifier: Apache-2.0

--- Drawings as SVG text that stands alone, in a page or in a notebook.
--
--   local d = svg.open { width = 360, height = 200, title = 'Loss' }
--   d:line(0, 0, 10, 10, { stroke = '#000' }):text(5, 5, 'here', { anchor = 'middle' })
--   print(d)
--
-- Colours can be told apart by the colour-blind (Okabe and Ito 2008) and in print.

local lib = require 'neap.base.lib'
local utf8 = require 'neap.base.utf8'

local svg = {}

local Drawing = {}
Drawing.__index = Drawing

--- Colours of series, in order; yellow, hard to see on white, comes last.
svg.colours = { '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000',
  '#F0E442' }

--- Dashes that go with them, for those who see no colours.
svg.dashes = { 'none', '6 3', '2 2', '8 2 2 2', '10 4', '4 1', '1 3', '12 2' }

-- From no load to the most, on paper too: white to dark blue.
local RAMP = { { 247, 250, 253 }, { 198, 219, 239 }, { 107, 174, 214 }, { 33, 113, 181 },
  { 8, 48, 107 } }

local FONT = 'system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif'

--- Colour of a share in [0, 1] on the ramp.
function svg.shade(share)
  local position = math.max(0, math.min(1, share)) * (#RAMP - 1)
  local low = math.min(math.floor(position), #RAMP - 2)
  local parts = {}
  for i = 1, 3 do
    local a, b = RAMP[low + 1][i], RAMP[low + 2][i]
    parts[i] = math.floor(a + (b - a) * (position - low) + 0.5)
  end
  return ('#%02x%02x%02x'):format(unpack(parts))
end

-- How much white is mixed into the colours of experts, round by round.
local TINTS = { 0.55, 0.15, 0.78 }

--- Fill and text colour of an expert, told apart by number where colours repeat.
function svg.expert(expert)
  local base = svg.colours[expert % 6 + 1]
  local tint, light, parts = TINTS[math.floor(expert / 6) % #TINTS + 1], 0, {}
  for i, weight in ipairs { 0.299, 0.587, 0.114 } do
    local value = tonumber(base:sub(2 * i, 2 * i + 1), 16)
    parts[i] = math.floor(value + (255 - value) * tint + 0.5)
    light = light + weight * parts[i]
  end
  return ('#%02x%02x%02x'):format(unpack(parts)), light > 130 and '#111' or '#fff'
end

local ENTITIES = { ['&'] = '&amp;', ['<'] = '&lt;', ['>'] = '&gt;', ['"'] = '&quot;',
  ["'"] = '&#39;' }

--- Text for HTML and SVG: UTF-8 without the control characters that XML forbids.
function svg.escape(text)
  text = utf8.clean(tostring(text)):gsub('[%z\1-\8\11\12\14-\31]', '\239\191\189')
  return (text:gsub('[&<>"\']', ENTITIES))
end

--- A name of most (40) bytes, as pictures show it: a long one loses its middle.
function svg.short(name, most)
  most = most or 40
  if #name <= most then return name end
  local half = math.floor(most / 2) - 2
  return name:sub(1, half):gsub('[\128-\255]*$', '') .. '…'
    .. name:sub(-half):gsub('^[\128-\191]*', '')
end

local function number(value)
  return (('%.2f'):format(value):gsub('%.?0+$', ''))
end

-- Short names of attributes.
local NAMES = { anchor = 'text-anchor', size = 'font-size', weight = 'font-weight',
  width = 'stroke-width', dash = 'stroke-dasharray' }

local function attributes(style)
  local list = {}
  for i, name in ipairs(lib.sorted_keys(style or {})) do
    local value = style[name]
    list[i] = (' %s="%s"'):format(NAMES[name] or name,
      type(value) == 'number' and number(value) or svg.escape(value))
  end
  return table.concat(list)
end

--- Options: width, height (units of the drawing: pixels at its natural size), title (what it shows,
-- for those who cannot see it).
function svg.open(options)
  return setmetatable({ width = options.width, height = options.height, title = options.title,
    parts = {} }, Drawing)
end

local function add(self, text)
  self.parts[#self.parts + 1] = text
  return self
end

function Drawing:line(x1, y1, x2, y2, style)
  return add(self, ('<line x1="%s" y1="%s" x2="%s" y2="%s"%s/>'):format(number(x1), number(y1),
    number(x2), number(y2), attributes(style)))
end

--- tip: what a pointer that rests on it is told.
function Drawing:rect(x, y, width, height, style, tip)
  local head = ('<rect x="%s" y="%s" width="%s" height="%s"%s'):format(number(x), number(y),
    number(width), number(height), attributes(style))
  return add(self, tip and ('%s><title>%s</title></rect>'):format(head, svg.escape(tip))
    or head .. '/>')
end

function Drawing:text(x, y, text, style)
  return add(self, ('<text x="%s" y="%s"%s>%s</text>'):format(number(x), number(y),
    attributes(style), svg.escape(text)))
end

--- points: flat list x, y, x, y, …
function Drawing:polyline(points, style)
  local list = {}
  for i = 1, #points, 2 do
    list[#list + 1] = number(points[i]) .. ',' .. number(points[i + 1])
  end
  style = style or {}
  style.fill = style.fill or 'none'
  return add(self, ('<polyline points="%s"%s/>'):format(table.concat(list, ' '),
    attributes(style)))
end

--- d: path data.
function Drawing:path(d, style)
  return add(self, ('<path d="%s"%s/>'):format(d, attributes(style)))
end

--- The whole element.
function Drawing:__tostring()
  return ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%s" height="%s" '
    .. 'role="img" font-family="%s" font-size="11" fill="#222"><title>%s</title>%s</svg>'):format(
    number(self.width), number(self.height), number(self.width), number(self.height),
    svg.escape(FONT), svg.escape(self.title or ''), table.concat(self.parts))
end

--- For notebooks.
function Drawing:__display()
  return { ['image/svg+xml'] = tostring(self), ['text/plain'] = self.title or 'a drawing' }
end

return svg
