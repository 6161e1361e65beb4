# SPDX-License-Identifier: Apache-2.0
"""Where the engine is that this package speaks to: library, its declarations, program, home.

In this order: what the environment's NEAP_LIBRARY names; the tree that `pip install` has put inside
the package; the tree that `cmake --install` has put the package into; the build of the clone that
the package lies in.
"""

import os
from pathlib import Path
from typing import Iterator, NamedTuple


class Place(NamedTuple):
    """Files of one engine; home has lua/ and experiments/."""

    library: Path
    declarations: Path
    program: Path
    home: Path


def _installed(prefix: Path) -> Iterator[Place]:
    share = prefix / "share" / "neap"
    for folder in ("lib", "lib64", "lib/*"):
        for library in sorted(prefix.glob(f"{folder}/libneap.so*")):
            yield Place(library, share / "neap.cdef", prefix / "bin" / "neap", share)


def _built(folder: Path, home: Path) -> Place:
    return Place(folder / "libneap.so", folder / "neap.cdef", folder / "neap", home)


def _candidates() -> Iterator[Place]:
    package = Path(__file__).resolve().parent
    clone = package.parent.parent
    named = os.environ.get("NEAP_LIBRARY")
    if named:
        library = Path(named).resolve()
        yield _built(library.parent, library.parent.parent)
        for prefix in library.parents:
            yield from _installed(prefix)
        return
    yield from _installed(package / "_tree")
    if clone.name == "neap" and clone.parent.name == "share":
        yield from _installed(clone.parent.parent)
    yield _built(clone / "build", clone)


def find() -> Place:
    """The first place whose library and declarations are there. Raises ImportError."""
    looked = []
    for place in _candidates():
        if place.library.exists() and place.declarations.exists():
            return place
        looked.append(str(place.library))
    raise ImportError(
        "neap: no engine at " + ", ".join(looked or [os.environ.get("NEAP_LIBRARY", "")])
        + "; build it (./neap --help in the clone), install it (pip install . or cmake --install), "
        "or name its libneap.so in NEAP_LIBRARY"
    )
