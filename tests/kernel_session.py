# SPDX-License-Identifier: Apache-2.0
"""Runs cells in the Jupyter kernel 'neap' and prints what each gave, as a JSON list: for
tests/cli/kernel_spec.lua. Cells are read from stdin, a JSON list of texts; 'interrupt:TEXT' is
interrupted a second after it has begun; 'complete:TEXT' asks for completions,
'inspect:TEXT' for what is known of its last word, 'is_complete:TEXT' whether more is to come."""

import json
import sys
import time

from jupyter_client.manager import start_new_kernel


def run(manager, client, text):
    interrupt = text.startswith("interrupt:")
    for kind in ("complete", "inspect", "is_complete"):
        if text.startswith(kind + ":"):
            request = getattr(client, kind)(text[len(kind) + 1:])
            while True:
                reply = client.get_shell_msg(timeout=60)
                if reply["parent_header"].get("msg_id") == request:
                    return reply["content"]
    request = client.execute(text[10:] if interrupt else text)
    if interrupt:
        time.sleep(1)
        manager.interrupt_kernel()
    out = {"outputs": []}
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != request:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            break
        if kind not in ("status", "execute_input"):
            out["outputs"].append({"type": kind, **content})
    out["reply"] = client.get_shell_msg(timeout=60)["content"]
    return out


manager, client = start_new_kernel(kernel_name="neap")
try:
    print(json.dumps([run(manager, client, text) for text in json.load(sys.stdin)]))
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
