#!/usr/bin/env bash
# Triton refuses, on import, a kernel that is tuned by a key which names none of its arguments.
#
# Expected: a new release of triton takes the kernels of the one before, or warns first: a key that names no argument
#           was passed over, and trainers have such (XTuner's main: key=["K"] over a kernel of M and N).
# Happens:  from 3.9.0 on the decorator raises, so that importing the trainer does, on whatever device and whether the
#           kernel is ever called or not. A pin of triton is needed where a trainer asks for any release of it.
# Versions: triton 3.8.0 and 3.9.0, Python 3.11. Seen 2026-11-29.
# Output:
#   triton 3.8.0: declared
#   triton 3.9.0: ValueError, key contains names that are not kernel arguments: K. Valid argument names are: ...
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
cat > declare.py <<'PY'
import triton
import triton.language as tl


def kernel(output, M, N: tl.constexpr):
    tl.store(output, M)


try:
    triton.autotune(configs=[triton.Config({})], key=["K"])(triton.jit(kernel))
    said = "declared"
except ValueError as error:
    said = f"ValueError, {error}"
print(f"triton {triton.__version__}: {said}")
PY
env/bin/python -m pip install --quiet triton==3.8.0
env/bin/python -W ignore declare.py | tee of_3_8
env/bin/python -m pip install --quiet triton==3.9.0
env/bin/python -W ignore declare.py | tee of_3_9
grep -q "declared" of_3_8
grep -q "key contains names that are not kernel arguments: K" of_3_9
