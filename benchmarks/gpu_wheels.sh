#!/bin/sh
# gpu_wheels.sh PYTHON_VERSION PACKAGE…: wheels for x86-64 Linux into wheels/, one version each, and DeepSpeed,
# which has no wheel of its own: built here without any of its compiled ops (it compiles them at first use).
set -eu
version=$1
shift
mkdir -p wheels
platforms=""
for glibc in 39 35 34 31 28 27 24 17; do platforms="$platforms --platform manylinux_2_${glibc}_x86_64"; done
for package in "$@"; do
	# shellcheck disable=SC2086
	"${PYTHON:-python3}" -m pip download --quiet --pre --no-deps --only-binary=:all: --implementation cp \
		--python-version "$version" $platforms --platform manylinux2014_x86_64 -c constraints.txt \
		-d wheels "$package" || echo "no wheel of $package for Python $version" >&2
done
DS_BUILD_OPS=0 "${PYTHON:-python3}" -m pip wheel --quiet --no-deps -c constraints.txt -w wheels deepspeed ||
	echo "no wheel of deepspeed" >&2
# What carries files to a borrowed machine may refuse large ones: `make gpu-check` puts the parts together.
for wheel in wheels/*.whl; do
	[ "$(wc -c <"$wheel")" -le 60000000 ] || { split -b 60000000 "$wheel" "$wheel.part-" && rm "$wheel"; }
done
du -sh wheels
