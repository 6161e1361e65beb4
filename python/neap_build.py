# SPDX-License-Identifier: Apache-2.0
"""What pip calls to make a wheel (PEP 517): the package and, in neap/_tree, the tree that
`cmake --install` makes. Needs cmake, ninja and what the build does; no other Python package.

A build/ of the clone that is there is brought up to date and used; else build/ is configured for
this machine's processor and, where nvcc is, for GPUs. NEAP_CMAKE has more arguments for cmake:
NEAP_CMAKE="-DNEAP_NATIVE=off" for a wheel that other machines take.
"""

import base64
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = {"frames": "pandas", "torch": "torch"}


def _version():
    text = (ROOT / "CMakeLists.txt").read_text()
    return re.search(r"^project\(neap VERSION (\S+)", text, re.M).group(1)


def _tag():
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return f"py3-none-{platform}"


def _metadata():
    lines = ["Metadata-Version: 2.1", "Name: neap", f"Version: {_version()}",
             "Summary: Load-adaptive expert layouts for Mixture-of-Experts training",
             "License: Apache-2.0", "Requires-Python: >=3.9", "Requires-Dist: numpy>=1.22",
             "Description-Content-Type: text/markdown"]
    for name, need in EXTRAS.items():
        lines += [f"Provides-Extra: {name}", f'Requires-Dist: {need}; extra == "{name}"']
    return "\n".join(lines) + "\n\n" + (ROOT / "README.md").read_text()


def _info():
    """Files of the wheel's dist-info but the record."""
    return {
        "METADATA": _metadata(),
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: neap_build\nRoot-Is-Purelib: false\n"
                 f"Tag: {_tag()}\n",
        "entry_points.txt": "[console_scripts]\nneap = neap.__main__:main\n",
        "LICENSE": (ROOT / "LICENSE").read_text(),
    }


def _run(*command):
    """What it prints goes to stderr, so that pip shows it."""
    print("+", shlex.join(map(str, command)), file=sys.stderr, flush=True)
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise SystemExit(f"neap: {command[0]} failed; what a build needs is in README.md")


def _install_tree(prefix):
    build = ROOT / "build"
    for program in ("cmake", "ninja"):
        if not shutil.which(program):
            raise SystemExit(f"neap: {program} is not installed; ./neap --help in the clone "
                             "installs what a build needs")
    if not (build / "build.ninja").exists() or os.environ.get("NEAP_CMAKE"):
        _run("cmake", "-S", ROOT, "-B", build, "-G", "Ninja",
             *shlex.split(os.environ.get("NEAP_CMAKE", "")))
    _run("ninja", "-C", build, "neap", "libneap", "cdef")
    _run("cmake", "--install", build, "--prefix", prefix)


class _Wheel:
    def __init__(self, path):
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self.record = []

    def add(self, name, data, executable=False):
        entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = (0o100755 if executable else 0o100644) << 16
        self.zip.writestr(entry, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self.record.append(f"{name},sha256={digest},{len(data)}")

    def close(self, info):
        name = f"{info}/RECORD"
        self.zip.writestr(name, "\n".join(self.record + [f"{name},,"]) + "\n")
        self.zip.close()


def _tree_files(prefix):
    """Of the library under its soname alone, which the program is linked with: wheels have no
    links. The package itself is not in its tree again."""
    for path in sorted(prefix.rglob("*")):
        library = path.name.startswith("libneap.so") and not re.search(r"so\.\d+\.\d+$", path.name)
        package = path.relative_to(prefix).parts[:3] == ("share", "neap", "python")
        if path.is_file() and not library and not package:
            yield path


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """PEP 517."""
    del config_settings, metadata_directory
    name, info = f"neap-{_version()}-{_tag()}.whl", f"neap-{_version()}.dist-info"
    wheel = _Wheel(Path(wheel_directory) / name)
    for path in sorted((ROOT / "python" / "neap").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            wheel.add(str(path.relative_to(ROOT / "python")), path.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "tree"
        _install_tree(prefix)
        for path in _tree_files(prefix):
            inside = f"neap/_tree/{path.relative_to(prefix)}"
            wheel.add(inside, path.read_bytes(), os.access(path, os.X_OK))
    for file, text in _info().items():
        wheel.add(f"{info}/{file}", text.encode())
    wheel.close(info)
    return name


def build_sdist(sdist_directory, config_settings=None):
    """PEP 517: what git knows of."""
    del config_settings
    name = f"neap-{_version()}"
    _run("git", "-C", ROOT, "archive", "--format=tar.gz", f"--prefix={name}/",
         f"--output={Path(sdist_directory).resolve() / name}.tar.gz", "HEAD")
    return f"{name}.tar.gz"
