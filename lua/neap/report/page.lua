-- SPDX-License-Identifier: Apache-2.0

--- The page of a report: one HTML file that needs no network and no scripts, for screens of any
-- width and for paper.

local svg = require 'neap.draw.svg'

local page = {}

local STYLE = [[
:root{color-scheme:light}
*{box-sizing:border-box}
body{margin:0;background:#f3f5f7;color:#1b1f24;
 font:16px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;
 -webkit-text-size-adjust:100%;overflow-wrap:anywhere}
main{max-width:1280px;margin:0 auto;padding:0 16px 48px}
header{background:#12324a;color:#fff;padding:28px 0 24px;margin-bottom:20px}
header div{max-width:1280px;margin:0 auto;padding:0 16px}
h1{font-size:1.65rem;line-height:1.2;margin:0 0 6px}
header p{margin:0;color:#c9dbe8}
h2{font-size:1.2rem;margin:34px 0 6px}
h3{font-size:1rem;margin:18px 0 6px}
p{margin:6px 0 12px;max-width:76ch}
.note{color:#57606a;font-size:.9rem}
.card{background:#fff;border:1px solid #dfe3e8;border-radius:10px;padding:14px 16px}
.verdict{border-left:6px solid #0072B2}
.verdict.open{border-left-color:#E69F00}
.verdict p:first-child{font-size:1.15rem;font-weight:600;margin-top:0}
.verdict p:last-child{margin-bottom:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:14px 0}
.tile b{display:block;font-size:1.5rem;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{color:#57606a;font-size:.85rem}
.card,figure{min-width:0}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:12px}
figure{margin:0;background:#fff;border:1px solid #dfe3e8;border-radius:10px;padding:8px}
svg{display:block;max-width:100%;height:auto;margin:0 auto}
figcaption{color:#57606a;font-size:.85rem;padding:2px 8px 4px}
.narrow{display:none}
.scroll{overflow-x:auto;background:#fff;border:1px solid #dfe3e8;border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:.84rem;font-variant-numeric:tabular-nums}
th,td{padding:7px 6px;text-align:right;white-space:nowrap;border-bottom:1px solid #e8ebef}
th{font-weight:600;color:#3b434c;vertical-align:bottom;background:#f8f9fb;white-space:normal;
 overflow-wrap:normal}
th:first-child,td:first-child{text-align:left;white-space:normal;padding-left:10px}
td:first-child{min-width:6.5rem}
th:last-child,td:last-child{padding-right:10px}
tr:last-child td{border-bottom:0}
tr.best td{background:#e9f3fa;font-weight:600}
tr.reference td{color:#57606a}
.facts{table-layout:fixed}
.facts td{text-align:left;white-space:normal;vertical-align:top}
.facts td:first-child{color:#57606a;width:10.5rem}
.key{display:inline-block;width:12px;height:12px;border-radius:2px;margin-right:7px;
 vertical-align:-1px}
.maps{margin:4px 0 10px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr));gap:12px}
ul.changes{columns:15rem;margin:6px 0;padding-left:1.1rem;font-size:.88rem}
details summary{cursor:pointer;color:#0b5c8f}
pre{overflow-x:auto;background:#f8f9fb;padding:10px;border-radius:6px;font-size:.82rem;
 line-height:1.4}
footer{color:#57606a;font-size:.85rem;margin-top:36px}
@media (max-width:700px){.wide{display:none}.narrow{display:block}
 body{font-size:15px}h1{font-size:1.35rem}main{padding:0 10px 32px}th,td{padding:6px 8px}
 .facts td:first-child{width:7.5rem}}
.many{font-size:.74rem}.many th,.many td{padding:7px 3px}.many td:first-child{min-width:5rem}
@media screen and (max-width:900px){CARDS}
@media screen and (max-width:1240px){MANY}
@media screen and (max-width:1600px){CROWD}
@media print{body{background:#fff;font-size:10.5pt}header{background:#fff;color:#000;padding:0}
 header p{color:#333}figure,.card,.tile,tr{break-inside:avoid}h2,h3{break-after:avoid}
 .scroll{overflow:visible}table{font-size:8pt}th,td{white-space:normal;padding:3px 5px}
 .grid{grid-template-columns:1fr 1fr}}
]]

-- How the rows of a table become cards, on screens that are too narrow for it: for any table, for
-- one with many columns, for one with a crowd of them.
local CARDS = [[TABLE thead{display:none}TABLE,TABLE tbody,TABLE tr,TABLE td{display:block}
 TABLE tr{padding:8px 0;border-bottom:1px solid #dfe3e8}TABLE tr:last-child{border-bottom:0}
 TABLE td{display:flex;justify-content:space-between;gap:14px;padding:2px 12px;border:0;
  white-space:normal;font-size:.84rem}
 TABLE td::before{content:attr(data-label);color:#57606a;text-align:left;font-weight:400}
 TABLE td:first-child{display:block;font-weight:600}TABLE td:first-child::before{content:none}]]
STYLE = STYLE:gsub('%u%u%u%u%u*', function(word)
  if word == 'CARDS' or word == 'MANY' or word == 'CROWD' then
    return (CARDS:gsub('TABLE', '.' .. word:lower()))
  end
end)

--- The classes of a table with so many columns.
local function class_of(columns)
  return columns > 20 and 'cards many crowd' or columns > 15 and 'cards many' or 'cards'
end

--- An element's text with what is in it escaped: page.fill('<b>%s</b>', text).
function page.fill(template, ...)
  local values = {}
  for i = 1, select('#', ...) do values[i] = svg.escape((select(i, ...))) end
  return (template:format(unpack(values)))
end

--- heading: titles; rows: lists of cells, with class = of the row; cells are HTML. On narrow
-- screens a row is a card, and its cells stand below each other with their titles.
function page.table(heading, rows)
  local lines, labels = {}, {}
  for i, title in ipairs(heading) do
    lines[i], labels[i] = '<th>' .. title .. '</th>', title:gsub('<[^>]*>', ' ')
  end
  local out = { ('<div class="scroll"><table class="%s"><thead><tr>'):format(class_of(#heading)),
    table.concat(lines), '</tr></thead><tbody>' }
  for _, row in ipairs(rows) do
    out[#out + 1] = row.class and ('<tr class="%s">'):format(row.class) or '<tr>'
    for i = 1, #heading do
      out[#out + 1] = ('<td data-label="%s">%s</td>'):format(labels[i], row[i] or '–')
    end
    out[#out + 1] = '</tr>'
  end
  out[#out + 1] = '</tbody></table></div>'
  return table.concat(out)
end

--- Facts as a table of names and values: list of { name, value }.
function page.facts(list)
  local rows = {}
  for i, fact in ipairs(list) do
    rows[i] = page.fill('<tr><td>%s</td><td>%s</td></tr>', fact[1], fact[2])
  end
  return '<div class="scroll"><table class="facts"><tbody>' .. table.concat(rows)
    .. '</tbody></table></div>'
end

function page.figure(drawing, caption)
  return ('<figure>%s%s</figure>'):format(tostring(drawing),
    caption and page.fill('<figcaption>%s</figcaption>', caption) or '')
end

--- A drawing for wide screens and paper, and one for phones.
function page.wide_or_narrow(wide, narrow)
  return ('<div class="wide">%s</div><div class="narrow">%s</div>'):format(page.figure(wide),
    page.figure(narrow))
end

function page.grid(figures)
  return '<div class="grid">' .. table.concat(figures) .. '</div>'
end

--- sections: list of { title =, body = } (title nil: no heading). head: HTML for the page's head.
function page.render(title, subtitle, sections, footer, head)
  local out = { '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width,initial-scale=1">',
    -- an icon of its own, so that no browser asks for one
    '<link rel="icon" href="data:,">', page.fill('<title>%s</title>', title), '<style>', STYLE,
    '</style>', head or '', '</head><body>',
    page.fill('<header><div><h1>%s</h1><p>%s</p></div></header><main>',
      title, subtitle) }
  for _, section in ipairs(sections) do
    out[#out + 1] = ('<section>%s%s</section>\n'):format(
      section.title and page.fill('<h2>%s</h2>', section.title) or '', section.body)
  end
  out[#out + 1] = page.fill('<footer>%s</footer></main></body></html>\n', footer)
  return table.concat(out)
end

return page
