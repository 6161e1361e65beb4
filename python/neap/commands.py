# SPDX-License-Identifier: Apache-2.0
"""Neap's commands from Python: replays, simulations, and any other that prints JSON.

They are run by the program, in a process of its own, as from a shell; policies run confined, and
nothing is recorded in a run store unless store= names one.
"""

import json
import os
import subprocess
from typing import Any, Iterable, List, Union

from ._engine import PLACE, NeapError
from .tables import Table
from .traces import Path, Trace

_CODES = {2: "USAGE", 3: "POLICY", 5: "FORMAT"}


def _option(name: str, value: Any) -> List[str]:
    flag = "--" + name.replace("_", "-")
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    if isinstance(value, (list, tuple)):
        return [f"{flag}=" + ",".join(str(item) for item in value)]
    return [f"{flag}={value}"]


def command(*words: Any, **options: Any) -> Table:
    """Runs `neap WORDS --OPTION=VALUE … --json`; the rows of its document, the rest as about.

    True is an option without a value, a list joins its values with commas. Raises NeapError with
    what the program said; code: USAGE, POLICY, FORMAT, or FAILED.
    """
    arguments = [str(PLACE.program), *(str(word) for word in words)]
    for name, value in options.items():
        arguments += _option(name, value)
    if not PLACE.program.exists():
        raise NeapError(f"{PLACE.program} is not there; it is installed with the library", "ABSENT")
    done = subprocess.run(arguments + ["--json"], stdin=subprocess.DEVNULL, capture_output=True,
                          env={**os.environ, "NEAP_HOME": str(PLACE.home)}, check=False)
    if done.returncode:
        raise NeapError(_said(done.stderr), _CODES.get(done.returncode, "FAILED"))
    document = json.loads(done.stdout)
    return Table(document.pop("rows"), document)


def _said(stderr: bytes) -> str:
    """The error among what a program wrote to stderr: its progress comes before."""
    lines = [line.rsplit("\r", 1)[-1].strip()
             for line in stderr.decode("utf-8", "replace").splitlines()]
    told = [line[len("neap: "):] for line in lines if line.startswith("neap: ")]
    return "\n".join(told) or "\n".join(filter(None, lines)) or "neap failed without a word"


def _record(options: Any) -> Any:
    if not options.get("store"):
        options.pop("store", None)
        options["no_store"] = True
    return options


def replay(trace: Union[Path, Trace], policies: Union[str, Iterable[str]] = ("static", "neap"),
           **options: Any) -> Table:
    """Replays a trace, a file or one in memory, under policies: names, or paths of Lua files, with
    +SPLIT and :parameter=value. A row a policy.

    options: those of `neap replay`: slots=4, node_size=8, window=5, seed=1, strict=True,
    deadline=10, store="runs.db", …
    """
    names = [policies] if isinstance(policies, str) else list(policies)
    if isinstance(trace, Trace):
        with _temporary(trace) as path:
            return replay(path, names, **options)
    words = [f"--policy={name}" for name in names]
    return command("replay", *words, trace=os.fspath(trace), **_record(options))


class _temporary:
    """A trace in memory as a file, while it is needed."""

    def __init__(self, trace: Trace):
        self.trace = trace

    def __enter__(self) -> str:
        import tempfile
        self.folder = tempfile.TemporaryDirectory(prefix="neap-")
        path = os.path.join(self.folder.name, "trace.safetensors")
        self.trace.write(path)
        return path

    def __exit__(self, *_: Any) -> None:
        self.folder.cleanup()


def simulate(policies: Union[str, Iterable[str]] = ("static", "neap"), **options: Any) -> Table:
    """Simulates training steps on a cluster that is only described. A row a policy.

    options: those of `neap simulate`: cluster="a100x32", model=…, trace=…, steps=…, store=…, …
    """
    names = [policies] if isinstance(policies, str) else list(policies)
    return command("simulate", *(f"--policy={name}" for name in names), **_record(options))
