# SPDX-License-Identifier: Apache-2.0
"""Rows of results, and as a pandas DataFrame where pandas is installed."""

from typing import Any, Dict, Iterable, List

from ._engine import NeapError


class Table(List[Dict[str, Any]]):
    """Rows as dictionaries, of one shape (docs/json.md). about: what is true of all of them."""

    def __init__(self, rows: Iterable[Dict[str, Any]] = (), about: Any = None):
        super().__init__(rows)
        self.about: Dict[str, Any] = dict(about or {})

    def frame(self) -> Any:
        """A pandas.DataFrame; what is nested has names with dots: imbalance.mean.

        Raises NeapError (ABSENT) where pandas, which Neap does not need otherwise, is missing.
        """
        try:
            import pandas
        except ImportError as error:
            raise NeapError(
                "DataFrames need pandas, which is not installed: pip install pandas, or "
                "apt-get install python3-pandas; the rows themselves are dictionaries, without it",
                "ABSENT") from error
        return pandas.json_normalize(list(self))
