-- SPDX-License-Identifier: Apache-2.0

--- Pages as people see them: headless Chromium.

local assert = require 'luassert'
local json = require 'neap.base.json'
local program = require 'tests.cli.program'
local request = require 'http.request'
local svg = require 'neap.draw.svg'
local websocket = require 'http.websocket'

local browser = {}

-- Shows a page in frames of some widths; tells what sticks out of them, or of a picture.
local HARNESS = [[
<!DOCTYPE html><meta charset="utf-8"><body>%s<pre id="found"></pre><script>
function box_of(svg) { // of a picture in a picture: what it may show, not what it holds
  if (!svg.ownerSVGElement) return svg.getBoundingClientRect();
  const m = svg.ownerSVGElement.getScreenCTM(), at = (n) => svg[n].baseVal.value;
  return { left: m.e + m.a * at('x'), right: m.e + m.a * (at('x') + at('width')),
    bottom: m.f + m.d * (at('y') + at('height')) };
}
function look(frame) {
  const page = frame.contentDocument, width = page.documentElement.clientWidth, bad = [];
  if (page.documentElement.scrollWidth > width) bad.push('page is ' +
    page.documentElement.scrollWidth + ' wide');
  for (const text of page.querySelectorAll('svg text')) {
    const a = text.getBoundingClientRect(), b = box_of(text.ownerSVGElement);
    if (a.width && (a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1))
      bad.push('text sticks out: ' + text.textContent);
  }
  for (const box of page.querySelectorAll('p,h1,h2,h3,.card,figure,.tile')) {
    if (!box.closest('.scroll,pre') && box.scrollWidth > box.clientWidth + 1)
      bad.push('sticks out: ' + box.textContent.slice(0, 60));
  }
  for (const box of page.querySelectorAll('.scroll'))
    if (box.scrollWidth > box.clientWidth + 1) bad.push('is cut: ' + box.scrollWidth + ' in ' +
      box.clientWidth + ': ' + box.textContent.slice(0, 40));
  return frame.width + ': ' + (bad.length ? bad.join('; ') : 'fits') + ', ' +
    page.querySelectorAll('svg').length + ' pictures';
}
window.onload = () => { document.getElementById('found').textContent =
  [...document.querySelectorAll('iframe')].map(look).join('\n'); };
</script>]]

local function frames(html)
  local list = {}
  for i, width in ipairs { 360, 390, 768, 1300 } do
    list[i] = ('<iframe width="%d" height="900" srcdoc="%s"></iframe>'):format(width,
      svg.escape(html))
  end
  return table.concat(list)
end

--- Whether there is one to be had.
function browser.installed()
  return program.shell 'command -v chromium' == 0
end

--- Runs Chromium with a folder for its profile; returns stdout and what pages have written to the
-- console.
function browser.chromium(profile, arguments)
  local status, out, err = program.shell(("timeout 60 chromium --headless=new --no-sandbox "
    .. "--disable-gpu --hide-scrollbars --enable-logging=stderr --user-data-dir='%s' %s"):format(
    profile, arguments))
  assert.are.equal(0, status, err)
  local console = {}
  for line in err:gmatch '[^\n]+' do
    if line:find 'CONSOLE' then console[#console + 1] = line end
  end
  return out, table.concat(console, '\n')
end

--- Looks at a page on screens of 360 to 1300 pixels: a line for each, 'WIDTH: fits, N pictures',
-- and the console. profile: a folder; the page is written beside it.
function browser.look_at(profile, html)
  local harness = profile .. '-harness.html'
  local file = assert(io.open(harness, 'wb'))
  file:write((HARNESS:gsub('%%s', function() return frames(html) end)))
  file:close()
  local out, console = browser.chromium(profile, ("--dump-dom 'file://%s'"):format(harness))
  return out:match '<pre id="found">(.-)</pre>', console
end

-- What a key sends besides its name: its number, and the text that it types.
local KEYS = { Enter = { 13, '\r' }, Tab = { 9 }, Escape = { 27 }, ArrowLeft = { 37 },
  ArrowUp = { 38 }, ArrowRight = { 39 }, ArrowDown = { 40 }, [' '] = { 32, ' ' },
  ['/'] = { 191, '/' } }

--- Opens a page that stays open while f(evaluate, press) runs; evaluate(script) is the text that a
-- script in it gives, press(key) presses a key, as a person would. profile: a folder.
function browser.open(profile, url, f)
  local _, out = program.shell(("rm -f '%s/DevToolsActivePort'; timeout 60 chromium --headless=new "
    .. "--no-sandbox --disable-gpu --remote-debugging-port=0 --user-data-dir='%s' '%s' "
    .. '>/dev/null 2>&1 </dev/null & echo $!'):format(profile, profile, url))
  local ok, err = pcall(function()
    local port
    for _ = 1, 400 do
      local file = io.open(profile .. '/DevToolsActivePort')
      port = file and file:read '*l'
      if file then file:close() end
      if port then break end
      program.shell 'sleep 0.05'
    end
    local list = request.new_from_uri(('http://127.0.0.1:%s/json'):format(port))
    local _, stream = list:go(20)
    local target = stream:get_body_as_string(20):match '"(ws://[^"]*/page/[^"]*)"'
    local socket = websocket.new_from_uri(target)
    assert(socket:connect(20))
    local function call(method, params)
      socket:send(json.encode { id = 1, method = method, params = params }, 'text', 20)
      return json.decode(socket:receive(20)).result
    end
    f(function(script)
      return call('Runtime.evaluate', { expression = script }).result.value
    end, function(key)
      local number, text = unpack(KEYS[key])
      local about = { key = key, windowsVirtualKeyCode = number, text = text }
      about.type = text and 'keyDown' or 'rawKeyDown'
      call('Input.dispatchKeyEvent', about)
      about.type, about.text = 'keyUp', nil
      call('Input.dispatchKeyEvent', about)
    end)
    socket:close()
  end)
  program.shell('kill ' .. out:match '%d+')
  if not ok then error(err, 0) end
end

return browser
