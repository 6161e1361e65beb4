-- SPDX-License-Identifier: Apache-2.0

--- Links of the documents lead somewhere: files that are there, and headings. docs/index.md leads
-- to every page of docs/, and every page leads back. Pictures show all of their text.

local browser = require 'tests.cli.browser'
local launcher = require 'neap.launcher'
local program = require 'tests.cli.program'
local sources = require 'neap.base.sources'

local home = launcher.home

--- Documents of the repository, as paths from its root.
local function documents()
  local list = { 'README.md', 'CONTRIBUTING.md', 'experiments/README.md',
    'experiments/traces/README.md' }
  for _, name in ipairs(launcher.list(home .. '/docs')) do
    if name:match '%.md$' then list[#list + 1] = 'docs/' .. name end
  end
  table.sort(list)
  return list
end

--- Text of a document without what stands in code.
local function prose(path)
  local text = assert(sources.read(home .. '/' .. path), path)
  return (('\n' .. text):gsub('\n```.-\n```', '\n'):gsub('`[^`\n]*`', 'CODE'))
end

--- What a heading is called in a link: letters in small, no punctuation, dashes for spaces.
local function anchor(heading)
  return (heading:lower():gsub('[`%.,:;?!()\'"/]', ''):gsub('%s', '-'))
end

local function anchors(path)
  local found = {}
  for heading in ('\n' .. sources.read(home .. '/' .. path)):gmatch '\n#+ +([^\n]+)' do
    found[anchor(heading)] = true
  end
  return found
end

--- Path of a link's file, from the root: a/../b is b.
local function resolve(from, target)
  local path = (from:match '^(.*/)' or '') .. target
  local before
  repeat
    before = path
    path = path:gsub('[^/]+/%.%./', '', 1)
  until path == before
  return path
end

--- Calls visit(file, heading) for each link of a document into the repository.
local function each_link(path, visit)
  for target in prose(path):gmatch '%]%(([^)%s]+)%)' do
    if not target:match '^%a+:' then
      local file, heading = target:match '^([^#]*)#?(.*)$'
      visit(file == '' and path or resolve(path, file), heading ~= '' and heading or nil)
    end
  end
end

describe('documents', function()
  it('have links that lead somewhere', function()
    local wrong, count = {}, 0
    for _, path in ipairs(documents()) do
      each_link(path, function(file, heading)
        count = count + 1
        if not sources.read(home .. '/' .. file) and #launcher.list(home .. '/' .. file) == 0 then
          wrong[#wrong + 1] = ('%s: %s is not there'):format(path, file)
        elseif heading and not anchors(file)[heading] then
          wrong[#wrong + 1] = ('%s: %s has no heading %s'):format(path, file, heading)
        end
      end)
    end
    assert.are.same({}, wrong)
    assert.is_true(count > 50)
  end)

  it('of docs/ are reached from its index, and lead back', function()
    local reached, wrong = {}, {}
    each_link('docs/index.md', function(file) reached[file] = true end)
    for _, path in ipairs(documents()) do
      if path:match '^docs/' and path ~= 'docs/index.md' then
        local back = false
        each_link(path, function(file) back = back or file == 'docs/index.md' end)
        if not (reached[path] and back) then wrong[#wrong + 1] = path end
      end
    end
    assert.are.same({}, wrong)
  end)

  it('have pictures whose text is not cut', function()
    if not browser.installed() then return pending 'skipped: no chromium' end
    local folder, pictures = os.tmpname(), {}
    os.remove(folder)
    for _, name in ipairs(launcher.list(home .. '/docs')) do
      if name:match '%.svg$' then
        pictures[#pictures + 1] = sources.read(home .. '/docs/' .. name):gsub('^<%?.-%?>', '')
      end
    end
    local found = browser.look_at(folder, '<!DOCTYPE html><body>' .. table.concat(pictures))
    program.shell(("rm -r '%s'*"):format(folder))
    assert.is_true(#pictures > 5)
    assert.is_nil(found:find('text sticks out', 1, true), found)
  end)
end)
