# SPDX-License-Identifier: Apache-2.0
"""Orders of Neap's benches: the arguments are a JSON object, and the path of a file whose lines are
appended as time goes on. Each is a word, and is answered on stdout with a line of JSON."""
import json
import sys
import time


def words(path):
    """The lines of a file that grows, as they come."""
    text = ""
    with open(path) as file:
        while True:
            text += file.readline()
            if text.endswith("\n"):
                yield text.strip()
                text = ""
            else:
                time.sleep(1e-3)


def serve(answer):
    """Answers words with answer(order, word) as they come."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a compiler prints is no answer
    order = json.loads(sys.argv[1])
    for word in words(sys.argv[2]):
        print(json.dumps(answer(order, word)), file=answers, flush=True)
