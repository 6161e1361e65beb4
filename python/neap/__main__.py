# SPDX-License-Identifier: Apache-2.0
"""The program, for those who have it with the package: python3 -m neap, and the script neap."""

import os
import sys

from . import _where


def main() -> None:
    """Becomes the program."""
    place = _where.find()
    environment = {**os.environ, "NEAP_HOME": str(place.home)}
    os.execve(place.program, ["neap", *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
