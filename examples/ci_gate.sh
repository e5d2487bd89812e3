#!/bin/sh
# A gate for CI: fails with exit code 15 when a preset got slower than the machine's baseline.
#   sh examples/ci_gate.sh PRESET MARGIN [options of tgsbench run]
# Give it --repeats 5: each measurement is then five runs, and the spread between runs decides; one run against
# one knows only the spread of its own steps. Exit code 19: another load disturbed a run, nothing is decided.
# The first measurement on a machine becomes the baseline; `rm -r runs/PRESET-baseline*` makes the next one it.
set -eu
preset=${1:-tiny_cpu}
margin=${2:-5%}
shift $(($# < 2 ? $# : 2))

if ! tgsbench show "$preset-baseline" >/dev/null 2>&1; then
    exec tgsbench run --preset "$preset" --headless --name "$preset-baseline" "$@"
fi
candidate="$preset-$(date -u +%Y%m%dT%H%M%S)-$$"
tgsbench run --preset "$preset" --headless --name "$candidate" "$@"
exec tgsbench compare "$candidate" --baseline "$preset-baseline" --fail-on "worse:$margin"
