# SPDX-License-Identifier: Apache-2.0
"""Jupyter kernel for Lua: hands cells to a Lua process (main/notebook.lua) with the engine loaded.

A cell that crashes the process, or that cannot be interrupted, costs the variables: a new process
is started and says so. `neap kernel install` tells Jupyter where this file is.
"""

import codecs
import json
import os
import selectors
import signal
import subprocess
import time

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.environ.get("NEAP_PROGRAM", os.path.join(HERE, "..", "..", "build", "neap"))
LINGER = 0.05  # seconds after a cell in which its policies' output still arrives
PATIENCE = 3.0  # seconds that a cell has to notice an interrupt


class Ended(Exception):
    """The Lua process is gone; the text says how."""


class Lua:
    """One Lua process. Messages and output arrive in the order in which the cell made them."""

    def __init__(self):
        request_read, self.requests = os.pipe()
        self.answers, answer_write = os.pipe()
        self.process = subprocess.Popen(
            [PROGRAM, "lua", os.path.join(HERE, "..", "main", "notebook.lua"), str(request_read),
             str(answer_write)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=(request_read, answer_write), start_new_session=True)
        os.close(request_read)
        os.close(answer_write)
        self.streams = {
            self.process.stdout.fileno(): "stdout", self.process.stderr.fileno(): "stderr"}
        self.selector = selectors.DefaultSelector()
        for fd in (self.answers, *self.streams):
            os.set_blocking(fd, False)
            self.selector.register(fd, selectors.EVENT_READ)
        self.buffer = b""
        self.id = 0  # of the last request
        decoder = codecs.getincrementaldecoder("utf-8")
        self.decoders = {fd: decoder(errors="replace") for fd in self.streams}

    def send(self, message):
        self.id += 1
        data = json.dumps({**message, "id": self.id}).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self.requests, data):]
        except BrokenPipeError:
            pass  # receive tells

    def _read(self, fd):
        try:
            return os.read(fd, 1 << 16)
        except BlockingIOError:
            return b""

    def _drain(self, on_output):
        for fd, name in self.streams.items():
            while data := self._read(fd):
                text = self.decoders[fd].decode(data)
                if text:
                    on_output(name, text)

    def receive(self, on_output):
        """The last request's next answer; what is printed before it goes to on_output(stream,
        text)."""
        while True:
            if b"\n" in self.buffer:
                self._drain(on_output)
                line, self.buffer = self.buffer.split(b"\n", 1)
                message = json.loads(line.decode(errors="replace"))
                if message["id"] == self.id:
                    return message
                continue
            self.selector.select(timeout=0.5)
            ended = self.process.poll() is not None
            self._drain(on_output)
            data = self._read(self.answers)
            self.buffer += data
            if ended and not data:
                status = self.process.returncode
                raise Ended(f"signal {-status}" if status < 0 else f"status {status}")

    def linger(self, on_output):
        """Waits a moment for what policies have printed: it comes from processes of their own."""
        end = time.monotonic() + LINGER
        while (left := end - time.monotonic()) > 0:
            self.selector.select(timeout=left)
            self._drain(on_output)
            if self.process.poll() is not None:
                break

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.selector.close()
        self.process.stdout.close()
        self.process.stderr.close()
        os.close(self.requests)
        os.close(self.answers)


class NeapKernel(Kernel):
    implementation = "neap"
    implementation_version = "1"
    banner = "Lua with Neap: neap.trace, neap.policy, neap.replay, …; show(value) displays"
    language_info = {
        "name": "lua", "version": "5.1", "mimetype": "text/x-lua", "file_extension": ".lua",
        "codemirror_mode": "lua", "pygments_lexer": "lua",
    }

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.lua = None
        self._start()

    def _start(self):
        if self.lua:
            self.lua.close()
        self.lua = Lua()
        printed = []
        try:
            self.lua.receive(lambda _, text: printed.append(text))
        except Ended as ended:
            raise RuntimeError(f"Neap does not start ({ended}): {''.join(printed)}") from None

    def _stream(self, name, text):
        self.send_response(self.iopub_socket, "stream", {"name": name, "text": text})

    def _show(self, message, silent):
        if silent:
            return
        content = {"data": message["display"], "metadata": message["metadata"]}
        if message["result"]:
            content["execution_count"] = self.execution_count
            self.send_response(self.iopub_socket, "execute_result", content)
        else:
            self.send_response(self.iopub_socket, "display_data", content)

    def _failed(self, name, text, trace):
        content = {"ename": name, "evalue": text, "traceback": trace}
        self.send_response(self.iopub_socket, "error", content)
        return {"status": "error", "execution_count": self.execution_count, **content}

    def _restart(self, why):
        self._start()
        text = f"the Lua process {why}; a new one has been started, without the variables"
        return self._failed("restarted", text, [text])

    def _follow(self, silent):
        """Passes on what a cell gives until it is done; returns its last message."""
        output = (lambda *_: None) if silent else self._stream
        while True:
            message = self.lua.receive(output)
            if "display" not in message:
                self.lua.linger(output)
                return message
            self._show(message, silent)

    def _interrupt(self):
        """Interrupts the cell; None if it does not notice."""
        self.lua.interrupt()
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            return self._follow(silent=False)
        except TimeoutError:
            return None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def do_execute(self, code, silent, store_history=True, user_expressions=None, allow_stdin=False):
        try:
            self.lua.send({"run": code, "number": self.execution_count})
            try:
                message = self._follow(silent)
            except KeyboardInterrupt:
                message = self._interrupt()
                if message is None:
                    return self._restart("did not notice the interrupt and was ended")
        except Ended as ended:
            return self._restart(f"ended ({ended})")
        if "error" in message:
            error = message["error"]
            return self._failed(error["name"], error["message"], error["trace"])
        return {"status": "ok", "execution_count": self.execution_count, "payload": [],
                "user_expressions": {}}

    def _ask(self, request, otherwise):
        try:
            self.lua.send(request)
            return self.lua.receive(self._stream)
        except Ended:
            self._start()
            return otherwise

    def do_inspect(self, code, cursor_pos, detail_level=0, omit_sections=()):
        end = cursor_pos
        while end < len(code) and (code[end].isalnum() or code[end] == "_"):
            end += 1
        text = self._ask({"inspect": code[:end]}, {}).get("text")
        return {"status": "ok", "found": text is not None, "metadata": {},
                "data": {} if text is None else {"text/plain": text}}

    def do_is_complete(self, code):
        status = self._ask({"is_complete": code}, {"status": "unknown"})["status"]
        return {"status": status, "indent": "  "} if status == "incomplete" else {"status": status}

    def do_complete(self, code, cursor_pos):
        message = self._ask({"complete": code[:cursor_pos]}, {"matches": [], "replaces": 0})
        return {"status": "ok", "matches": message["matches"], "metadata": {},
                "cursor_start": cursor_pos - message["replaces"], "cursor_end": cursor_pos}

    def do_shutdown(self, restart):
        self.lua.close()
        return {"status": "ok", "restart": restart}


def _out_of_time(*_):
    raise TimeoutError


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _out_of_time)
    IPKernelApp.launch_instance(kernel_class=NeapKernel)
