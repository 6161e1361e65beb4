# SPDX-License-Identifier: Apache-2.0
"""Makes ctypes' functions and structures of the engine's declarations.

The text is neap.h as the preprocessor leaves it: a function is declared there, and nowhere else.
What a pointer leads to is not checked, but for text and for structures: buffers are passed as
addresses.
"""

import ctypes
import re
from typing import Any, Dict, List, Tuple

_PLAIN: Dict[str, Any] = {
    "int": ctypes.c_int, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64,
    "uint8_t": ctypes.c_uint8, "uint32_t": ctypes.c_uint32, "uint64_t": ctypes.c_uint64,
    "double": ctypes.c_double, "char": ctypes.c_char, "void": None,
}

_STATEMENT = re.compile(r"(?:[^;{}]|\{[^{}]*\})+;")
_ENUM = re.compile(r"(?:typedef )?enum \{(.*)\}\s*(\w*)$")
_STRUCT = re.compile(r"typedef struct \{(.*)\}\s*(\w+)$")
_FUNCTION = re.compile(r"(.*?)(\w+)\((.*)\)$")
_NAME = re.compile(r"^(.*?)(\w+)((?:\[\w+\])*)$")


class Functions:
    """What is declared, and no other function: without its types it would be called wrongly."""

    def __getattr__(self, name: str) -> Any:
        raise ImportError(f"neap: {name} is not declared: the declarations (neap.cdef) are older "
                          "than this package; build again")


class Declarations:
    """constants: of enums, by name; structs: by name; functions: name to (result, arguments)."""

    def __init__(self, text: str):
        self.constants: Dict[str, int] = {}
        self.structs: Dict[str, Any] = {}
        self.functions: Dict[str, Tuple[Any, List[Any]]] = {}
        for statement in _STATEMENT.findall(re.sub(r"^#.*$", "", text, flags=re.M)):
            self._take(re.sub(r"\s+", " ", statement).strip().rstrip(";").strip())

    def bind(self, library: ctypes.CDLL) -> "Functions":
        """The library's functions with their types."""
        functions = Functions()
        for name, (result, arguments) in self.functions.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(functions, name, function)
        return functions

    def _take(self, statement: str) -> None:
        enum, struct = _ENUM.match(statement), _STRUCT.match(statement)
        if enum:
            self._enum(enum.group(1))
        elif struct:
            self._struct(struct.group(1), struct.group(2))
        elif statement.startswith("typedef "):
            return  # a struct whose inside is the engine's
        else:
            self._function(statement)

    def _enum(self, body: str) -> None:
        value = 0
        for item in filter(None, (part.strip() for part in body.split(","))):
            name, _, given = (part.strip() for part in item.partition("="))
            value = int(given, 0) if given else value
            self.constants[name] = value
            value += 1

    def _struct(self, body: str, name: str) -> None:
        fields = []
        for line in filter(None, (part.strip() for part in body.split(";"))):
            first, *others = (part.strip() for part in line.split(","))
            kind, field, dims = self._name(first)
            for text in [field + dims] + others:
                _, field, dims = self._name("int " + text.lstrip("* "))
                typed = self._type(kind)
                for count in reversed(re.findall(r"\w+", dims)):
                    typed = typed * (self.constants.get(count) or int(count))
                fields.append((field, typed))
        self.structs[name] = type(name, (ctypes.Structure,), {"_fields_": fields})

    def _function(self, statement: str) -> None:
        match = _FUNCTION.match(statement)
        if not match:
            raise ImportError(f"neap: a declaration that cannot be read: {statement}")
        result, name, arguments = match.groups()
        types = []
        for argument in filter(None, (part.strip() for part in arguments.split(","))):
            if argument != "void":
                types.append(self._type(self._name(argument)[0]))
        self.functions[name] = (self._type(result), types)

    @staticmethod
    def _name(text: str) -> Tuple[str, str, str]:
        match = _NAME.match(text)
        if not match:
            raise ImportError(f"neap: a declaration that cannot be read: {text}")
        kind, name, dims = match.groups()
        return kind.strip(), name, dims

    def _type(self, text: str) -> Any:
        words = re.sub(r"\b(const|struct)\b", " ", text)
        depth, base = words.count("*"), words.replace("*", " ").strip()
        if depth == 1 and base == "char":
            return ctypes.c_char_p
        if depth:
            return ctypes.c_void_p
        if base in _PLAIN:
            return _PLAIN[base]
        if base in self.structs:
            return self.structs[base]
        raise ImportError(f"neap: a declaration has the unknown type '{base}'")
