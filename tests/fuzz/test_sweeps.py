"""Sweep specs with values that nobody means: each is read and planned, or refused with a word."""

import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.hostile import bounded, broken
from tgsbench.errors import TgsError
from tgsbench.launch import sweep

meant = st.sampled_from([1, 2, 4, 1024, "4k", "full", "none", "fsdp2", True, 1e-5])
numbers = st.one_of(
    st.sampled_from([0, -1, 2**31, 2**53, 2**63 - 1, 2**64, 10**30, 10**400, -(10**400)]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-(2**70), 2**70),
)
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["nan", "inf", "1e999", "9" * 150, "../x", "/dev/zero", "\x1b[2J", "1M", "0x" + "f" * 150]
    ),
)
values = st.recursive(
    st.one_of(meant, meant, numbers, texts, st.datetimes(), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)
keys = st.one_of(
    st.sampled_from(
        [*sweep.SHORT, *sweep.SHORT.values(), "measure.steps", "training.lr", "model.num_layers"]
    ),
    st.text(max_size=12),
)
tables = st.dictionaries(keys, values, max_size=2)
grids = st.dictionaries(keys, st.one_of(st.lists(values, min_size=1, max_size=2), values), max_size=2)
specs = st.fixed_dictionaries(
    {"preset": st.one_of(*[st.just("tiny_cpu")] * 4, values), "grid": st.one_of(*[grids] * 4, values)},
    optional={
        "name": st.one_of(st.just("s"), values), "rehearse": st.booleans(), "set": st.one_of(tables, values)
    },
)  # fmt: skip


def written(spec):
    try:
        return tomli_w.dumps(spec).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError):
        return b""


def read(path):
    """Points of a spec, or None where it is refused."""
    try:
        return sweep.points(sweep.read_spec(path))
    except TgsError as error:
        assert error.msg
        return None


@bounded
@given(st.one_of(specs.map(written), specs.map(written), broken(specs.map(written))))
def test_a_spec_is_planned_or_refused(tmp_path, data):
    path = tmp_path / "spec.toml"
    path.write_bytes(data)
    for point in read(path) or ():
        assert point.label
        assert point.skipped or point.preset is not None


def test_a_number_of_thousands_of_digits_is_refused(tmp_path):
    path = tmp_path / "spec.toml"
    for digits in ("9" * 5000, "0x" + "f" * 5000, "1e" + "9" * 500):
        path.write_text(f'preset = "tiny_cpu"\n[grid]\nsp = [{digits}]\n')
        assert not [point for point in read(path) or () if not point.skipped]
