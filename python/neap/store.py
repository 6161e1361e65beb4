# SPDX-License-Identifier: Apache-2.0
"""The run store: what neap run, replay and simulate have recorded, as rows or DataFrames."""

import json
import os
import sqlite3
from typing import Any, Dict, Optional, Union

from ._engine import NeapError
from .tables import Table
from .traces import Path

_JSON = ("parameters", "machine", "libraries", "corpora", "summary")


class Store:
    """A run store that is only read; runs may be written to it meanwhile (docs/store.md).

    path: None: what NEAP_STORE names, else runs.db here.
    """

    def __init__(self, path: Optional[Path] = None):
        found = os.fspath(path or os.environ.get("NEAP_STORE") or "runs.db")
        if not os.path.exists(found):
            raise NeapError(f"{found}: no such run store", "SYSTEM")
        self.path = found
        self._db = sqlite3.connect(f"file:{_quoted(found)}?mode=ro", uri=True)
        self._db.row_factory = sqlite3.Row
        try:
            self._rows("SELECT id FROM runs LIMIT 0")
        except NeapError:
            self.close()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def runs(self, kind: Optional[str] = None) -> Table:
        """Executions of commands, oldest first. kind: only "run", "replay" or "simulate"."""
        return self._rows("SELECT * FROM runs WHERE ?1 IS NULL OR kind = ?1 ORDER BY id", kind)

    def results(self, run: Optional[int] = None) -> Table:
        """What runs measured of each policy; summary's metrics are columns of their own."""
        rows = self._rows("SELECT * FROM results WHERE ?1 IS NULL OR run = ?1 ORDER BY id", run)
        for row in rows:
            for name, value in (row.pop("summary", None) or {}).items():
                row.setdefault(name, value)
        return rows

    def steps(self, result: Optional[int] = None) -> Table:
        """The metrics of every step. result: of this result alone."""
        return self._rows("SELECT * FROM steps WHERE ?1 IS NULL OR result = ?1 "
                          "ORDER BY result, step", result)

    def query(self, sql: str, *values: Union[int, float, str, None]) -> Table:
        """Rows of any statement that reads."""
        return self._rows(sql, *values)

    def _rows(self, sql: str, *values: Any) -> Table:
        try:
            return Table(_decoded(row) for row in self._db.execute(sql, values))
        except sqlite3.Error as error:
            raise NeapError(f"{self.path}: {error}", "FORMAT") from error


def _quoted(path: str) -> str:
    from urllib.parse import quote
    return quote(os.path.abspath(path))


def _decoded(row: sqlite3.Row) -> Dict[str, Any]:
    out = {name: row[name] for name in row.keys()}
    for name in _JSON:
        if isinstance(out.get(name), str):
            try:
                out[name] = json.loads(out[name])
            except ValueError:
                pass  # as it is: a store that others have written to
    return out
