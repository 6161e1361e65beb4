-- SPDX-License-Identifier: Apache-2.0

std = 'luajit'
max_line_length = 100
self = false
files['tests/spec'] = { std = 'luajit+busted' }
files['tests/cli'] = { std = 'luajit+busted' }
exclude_files = { 'build*' }
