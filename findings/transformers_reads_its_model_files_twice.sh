#!/usr/bin/env bash
# transformers reads the source of all its models twice when one of them is imported.
#
# Expected: the functions that list what each model's files define are under lru_cache, so the second of the
#           two who ask (the package, then its models folder) is answered from memory.
# Happens:  lru_cache without an argument keeps 128 answers, and there are over 500 model folders: each has been
#           dropped before it is asked for again. Every file is opened and searched twice, in every rank of every
#           run: a quarter of a second of processor time, where importing torch itself takes one.
# Versions: transformers 5.24.0, Python 3.11. Seen 2026-11-29.
# Output:   1698 files of 558 model folders were opened 3396 times; with room for all folders 1698 times
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet transformers==5.24.0
cat > count.py <<'PY'
import functools
import sys
from collections import Counter
from pathlib import Path

opened: Counter[str] = Counter()


def audit(event: str, args: tuple) -> None:
    if event == "open" and isinstance(args[0], str) and args[0].endswith(".py"):
        opened[args[0]] += 1


if sys.argv[1:] == ["room"]:
    limited = functools.lru_cache

    def roomy(maxsize=None, typed=False):
        return limited(None)(maxsize) if callable(maxsize) else limited(maxsize, typed)

    functools.lru_cache = roomy
sys.addaudithook(audit)
import transformers.models  # noqa: E402

sources = {path: times for path, times in opened.items() if "/transformers/models/" in path}
folders = {Path(path).parent for path in sources}
print(len(sources), sum(sources.values()), len(folders))
PY
read -r files times folders < <(env/bin/python count.py)
read -r same once _ < <(env/bin/python count.py room)
echo "$files files of $folders model folders were opened $times times; with room for all folders $once times"
test "$files" = "$same"
test "$once" = "$files"
test "$times" -ge $((2 * files - 10))
