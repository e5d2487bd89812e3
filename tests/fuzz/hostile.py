"""Bytes that strangers write: random ones, broken ones, and well-formed ones with absurd values."""

from __future__ import annotations

import json
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

bounded = settings(
    max_examples=int(os.environ.get("TGSBENCH_FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""As many examples as make a few seconds; TGSBENCH_FUZZ_EXAMPLES=100000 makes a long search of it."""

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1, 10**9, 2**31, 2**53, 2**63 - 1, 10**400, -(10**400)]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=20),
    st.sampled_from(["../../etc/passwd", "/dev/zero", "$(touch evil)", "nan", "1e999"]),
    st.sampled_from(["\x1b[2J", "\ud800", "\x9b\u202e"]),
)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)


def mutated(template: dict, max_changes: int = 3) -> st.SearchStrategy[dict]:
    """A valid document with a few values replaced, dropped or added, at any depth."""

    def change(pair):
        document, changes = json.loads(json.dumps(template)), pair
        for path, value, drop in changes:
            _apply(document, path, value, drop)
        return document

    keys = st.lists(st.integers(0, 50), min_size=1, max_size=3)
    return st.lists(st.tuples(keys, documents, st.booleans()), max_size=max_changes).map(change)


def _apply(document: dict, path: list[int], value: object, drop: bool) -> None:
    at: object = document
    for number in path:
        if not isinstance(at, dict) or not at:
            return
        key = sorted(at)[number % len(at)]
        if isinstance(at[key], dict) and at[key]:
            at = at[key]
            continue
        if drop:
            del at[key]
        else:
            at[key] = value
        return


def dumped(document: object) -> bytes:
    """JSON as a careless writer makes it: NaN, Infinity and lone surrogates included."""
    return json.dumps(document).encode("utf-8", "surrogatepass")


def broken(data: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The same bytes, or cut off, doubled, or with some of them overwritten."""

    def damage(parts):
        raw, how, at, junk = parts
        at %= len(raw) + 1
        return {
            "whole": raw,
            "cut": raw[:at],
            "doubled": raw + raw,
            "overwritten": raw[:at] + junk + raw[at + len(junk) :],
            "junk": junk,
        }[how]

    kinds = st.sampled_from(["whole", "whole", "cut", "doubled", "overwritten", "junk"])
    return st.tuples(data, kinds, st.integers(0, 10_000), st.binary(max_size=40)).map(damage)
