"""Print constraints.txt with the hash of every package that pip would install here: `make lock`."""

from __future__ import annotations

import json
import subprocess
import sys

HEAD = """\
# The tested set with the hashes of its files for Linux x86-64 and Python 3.11; written by `make lock`.
# torch is the CPU build that PyTorch publishes: with GPUs, install torch yourself and leave this file out.
"""


def main() -> None:
    """Ask pip what it would fetch, without dependencies: constraints.txt names them all."""
    argv = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"]
    report = subprocess.run(
        [*argv, "--report", "-", "-r", "constraints.txt"], check=True, stdout=subprocess.PIPE
    ).stdout
    lines = []
    for item in json.loads(report)["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={version} --hash=sha256:{digest}")
    sys.stdout.write(HEAD + "\n".join(sorted(lines, key=str.lower)) + "\n")


if __name__ == "__main__":
    main()
