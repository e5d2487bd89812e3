"""`python -m tgsbench.training.dry_run < preset.toml`: one JSON document on stdout."""

from __future__ import annotations

import sys
import tomllib

import msgspec

from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.training.dry_run.step import dry_run


def main() -> None:
    """Read a resolved preset from stdin, run it dry, write the result."""
    preset = presets.from_document(tomllib.loads(sys.stdin.read()))
    try:
        result = dry_run(preset)
    except TgsError as error:
        sys.stderr.write(msgspec.json.encode({"msg": error.msg, "hint": error.hint}).decode() + "\n")
        sys.exit(error.exit_code)
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


if __name__ == "__main__":
    main()
