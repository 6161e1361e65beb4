/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzers whose code under test is Lua: tests/fuzz/lua/TARGET.lua returns a function of the input,
 * and an error that it raises is a find. libFuzzer sees which lines follow which. */
#include "fuzz.h"

#include <dlfcn.h>
#include <lauxlib.h>
#include <luajit.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>

static lua_State *L;

static void on_line(lua_State *state, lua_Debug *where)
{
  lua_getinfo(state, "S", where); /* a function that is made anew is the same place */
  uint32_t source = (uint32_t)((uintptr_t)where->source >> 3);
  fuzz_visit(source * 31 + (uint32_t)where->currentline * 7919);
}

extern void *__libc_realloc(void *memory, size_t bytes);
extern void __libc_free(void *memory);

/* Memory of Lua's, which is counted. Not AddressSanitizer's: compiled code is not what is
 * tested. */
static void *reallocate(void *owner, void *memory, size_t from, size_t to)
{
  (void)owner;
  fuzz_count((int64_t)to - (int64_t)from);
  if (to)
    return __libc_realloc(memory, to);
  __libc_free(memory);
  return NULL;
}

static int on_error(lua_State *state)
{
  luaL_traceback(state, state, lua_tostring(state, 1) ? lua_tostring(state, 1) : "no text", 1);
  return 1;
}

/* Of a folder: no names. */
static int list_none(lua_State *state)
{
  lua_newtable(state);
  return 1;
}

static int open_launcher(lua_State *state)
{
  lua_newtable(state);
  lua_pushliteral(state, FUZZ_HOME);
  lua_setfield(state, -2, "home");
  lua_pushliteral(state, FUZZ_HOME "/build");
  lua_setfield(state, -2, "folder");
  lua_pushliteral(state, FUZZ_HOME "/build/neap.cdef");
  lua_setfield(state, -2, "cdef");
  lua_pushcfunction(state, list_none);
  lua_setfield(state, -2, "list");
  return 1;
}

static void open_state(void)
{
  if (!dlopen(FUZZ_HOME "/build/libneap.so", RTLD_NOW | RTLD_GLOBAL))
    fuzz_fail("%s", dlerror());
  L = lua_newstate(reallocate, NULL);
  if (!L)
    fuzz_fail("no memory for a Lua state");
  luaL_openlibs(L);
  luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, open_launcher);
  lua_setfield(L, -2, "neap.launcher");
  lua_pushliteral(L, FUZZ_HOME "/lua/?.lua;" FUZZ_HOME "/lua/?/init.lua;" FUZZ_HOME
                               "/experiments/?.lua;" FUZZ_HOME "/tests/fuzz/lua/?.lua;"
                               "/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua");
  lua_setfield(L, -3, "path");
  lua_settop(L, 0);
  lua_pushcfunction(L, on_error);
  if (luaL_loadfile(L, FUZZ_HOME "/tests/fuzz/lua/" FUZZ_TARGET ".lua") || lua_pcall(L, 0, 1, 1))
    fuzz_fail("%s", lua_tostring(L, -1));
  lua_sethook(L, on_line, LUA_MASKLINE, 0);
}

void fuzz_one(const uint8_t *data, size_t bytes)
{
  lua_pushvalue(L, 2);
  lua_pushlstring(L, (const char *)data, bytes);
  if (lua_pcall(L, 1, 0, 1))
    fuzz_fail("%s", lua_tostring(L, -1));
}

void fuzz_prepare(void)
{
  open_state();
}
