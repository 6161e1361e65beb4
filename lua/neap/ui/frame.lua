-- SPDX-License-Identifier: Apache-2.0

--- What the pages of neap ui have in common: their look, what keeps them up to date, states, links
-- and progress. Their part in the element 'live' is fetched again while something goes on.

local lib = require 'neap.base.lib'
local page = require 'neap.report.page'
local svg = require 'neap.draw.svg'
local text_table = require 'neap.base.text_table'

local frame = {}

local SOON, LATER = 1000, 5000 -- ms until a page is fetched again: while a run goes on, and else

local STYLE = [[
a{color:#0b5c8f}a:focus-visible,input:focus-visible,button:focus-visible{outline:3px solid #E69F00;
 outline-offset:2px}
.bar{display:flex;flex-wrap:wrap;gap:10px;align-items:center;margin:0 0 12px}
input[type=search]{flex:1 1 12rem;min-width:0;font:inherit;padding:8px 10px;border-radius:8px;
 border:1px solid #b9c0c8;background:#fff}
button{font:inherit;padding:8px 14px;border-radius:8px;border:1px solid #12324a;background:#12324a;
 color:#fff;cursor:pointer}
input[type=checkbox]{width:18px;height:18px;margin:0 8px 0 0;vertical-align:-4px}
progress{display:block;width:100%;min-width:8rem;height:10px;margin:4px 0;accent-color:#0072B2}
.state{white-space:nowrap}.state i{display:inline-block;width:10px;height:10px;border-radius:5px;
 margin-right:6px}
td .note{font-size:.84rem}
.keys{color:#57606a;font-size:.84rem}kbd{border:1px solid #b9c0c8;border-radius:4px;padding:0 5px;
 background:#fff;font:inherit}
.choice{display:flex;flex-wrap:wrap;gap:4px 12px;align-items:baseline;margin:0 0 8px}
.choice [aria-current]{font-weight:700;color:#1b1f24;text-decoration:none}
@media (max-width:900px){.keys{display:none}}
@media screen and (max-width:900px){.cards td:empty{display:none}}
@media screen and (max-width:1240px){.many td:empty{display:none}}
]]

--- What keeps a page up to date (boxes that are ticked stay so), and its keys: an element is
-- clicked by the key that its data-key names, the arrows go from row to row, / goes to the filter.
frame.SCRIPT = [[
(function () {
  'use strict';
  var live = document.getElementById('live'), last = '', shown = 0;
  function ticked() {
    return Array.prototype.map.call(live.querySelectorAll('input:checked'),
      function (box) { return box.value; });
  }
  function show(text) {
    if (text === last) { return; }
    var chosen = ticked();
    var focused = document.activeElement && document.activeElement.id;
    live.innerHTML = text;
    last = text;
    live.dataset.shown = ++shown;
    live.querySelectorAll('input[type=checkbox]').forEach(function (box) {
      box.checked = chosen.indexOf(box.value) >= 0;
    });
    if (focused && document.getElementById(focused)) { document.getElementById(focused).focus(); }
  }
  function wait() {
    var part = live.querySelector('[data-every]');
    setTimeout(look, part ? Number(part.dataset.every) : 5000);
  }
  function look() {
    if (document.hidden) { wait(); return; }
    var address = new URL(location.href);
    address.searchParams.set('part', '1');
    fetch(address, { cache: 'no-store' }).then(function (answer) {
      return answer.ok ? answer.text() : Promise.reject(answer.status);
    }).then(show).catch(function () {
      document.title = 'Neap: not running';
    }).then(wait);
  }
  function step(by) {
    var rows = Array.prototype.slice.call(live.querySelectorAll('a[data-row]'));
    var row = document.activeElement.closest('tr');
    var at = rows.indexOf(row ? row.querySelector('a[data-row]') : document.activeElement);
    var to = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by];
    if (to) { to.focus(); }
    return rows.length > 0;
  }
  document.addEventListener('keydown', function (event) {
    var q = document.getElementById('q'), key = event.key, done = false;
    if (event.ctrlKey || event.altKey || event.metaKey) { return; }
    if (document.activeElement === q && q) {
      if (key === 'Escape') { q.blur(); }
      if (key !== 'ArrowDown') { return; }
    }
    var link = document.querySelector('[data-key="' + CSS.escape(key) + '"]');
    if (link) { link.click(); done = true; }
    else if (key === '/' && q) { q.focus(); q.select(); done = true; }
    else if (key === 'ArrowDown') { done = step(1); }
    else if (key === 'ArrowUp') { done = step(-1); }
    if (done) { event.preventDefault(); }
  });
  if (live) { wait(); }
}());
]]

local COLOURS = { running = '#0072B2', done = '#009E73', failed = '#D55E00',
  interrupted = '#E69F00' }

--- A state as HTML.
-- : string -> string
function frame.state(state)
  return page.fill('<span class="state"><i style="background:%s"></i>%s</span>',
    COLOURS[state] or '#57606a', state)
end

--- How much of something is done, as HTML. left: seconds, or nil.
-- : number, number, string, number? -> string
function frame.progress(done, total, unit, left)
  return page.fill('<progress value="%s" max="%s" aria-label="progress"></progress>', done, total)
    .. page.fill('%s of %s %s', done, total, unit)
    .. (left and page.fill(', %s left', text_table.duration(left)) or '')
end

--- How long a run took, or has taken so far.
-- : table -> string
function frame.took(run)
  local ended = run.ended or run.state == 'running' and lib.C.neap_time()
  return ended and text_table.duration(ended - run.started) or '–'
end

--- A text as part of an address.
-- : string -> string
function frame.address(text)
  return (text:gsub('[^%w]', function(c) return ('%%%02x'):format(c:byte()) end))
end

--- A list of links to choose one of: { text, address, current }; HTML. what: read out before them.
-- : string, list of table -> string
function frame.choice(what, list)
  local parts = {}
  for i, one in ipairs(list) do
    parts[i] = page.fill(one.current and '<a href="%s" aria-current="true">%s</a>'
      or '<a href="%s">%s</a>', one.address, one.text)
  end
  return page.fill('<div class="choice"><span class="note">%s</span>', what)
    .. table.concat(parts, ' ') .. '</div>'
end

--- Links back, of a page below a run's.
-- : table -> string
function frame.back(run)
  return page.fill('<p><a href="../../">all runs</a> · <a href="../%s" data-key="Escape">run %s</a>'
    .. '</p>', run.id, run.id)
end

--- What is fetched again, with when: going_on: soon.
-- : boolean, string -> string
function frame.live(going_on, body)
  return ('<div data-every="%d">%s</div>'):format(going_on and SOON or LATER, body)
end

--- A page, or only what is fetched again of it (part). above: HTML before that. root: the address
-- of the first page, from this one.
-- : table { part, title, subtitle, above, body, root } -> string
function frame.render(options)
  if options.part then return options.body end
  return page.render(options.title, options.subtitle, { { body = (options.above or '')
      .. '<div id="live">' .. options.body .. '</div>' } },
    ('neap %s, for this machine only; it changes nothing.'):format(lib.version),
    '<style>' .. STYLE .. '</style><script defer src="' .. svg.escape(options.root)
      .. 'live.js"></script>')
end

return frame
