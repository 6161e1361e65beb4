# SPDX-License-Identifier: Apache-2.0
"""Executes a notebook in the folder that it lies in, and checks it: no cell fails, and the cells
that have stored outputs give some again; sweeps have fewer steps than there. --write stores the
outputs in the file.

  JUPYTER_DATA_DIR=… python3 tests/execute_notebook.py FILE [--write]
"""

import os
import sys

import nbformat
from nbclient import NotebookClient

path = sys.argv[1]
notebook = nbformat.read(path, as_version=4)
stored = [cell.cell_type == "code" and bool(cell.outputs) for cell in notebook.cells]
if "--write" not in sys.argv:
    for cell in notebook.cells:  # sweeps are shorter than what is stored
        cell.source = cell.source.replace('"steps=20"', '"steps=6"').replace("go@10", "go@3")
client = NotebookClient(notebook, timeout=120, resources={
    "metadata": {"path": os.path.dirname(os.path.abspath(path))}})
client.execute()

if "--write" in sys.argv:
    for cell in notebook.cells:  # times and such: they would differ at every run
        cell.metadata = {}
    nbformat.write(notebook, path)
    sys.exit()

if not any(stored):
    sys.exit(f"{path} has no stored outputs: execute it with --write")
for number, (cell, had) in enumerate(zip(notebook.cells, stored)):
    if had and not cell.outputs:
        sys.exit(f"cell {number} gives nothing any more:\n{cell.source}")
