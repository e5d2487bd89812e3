"""Presets that strangers wrote: refused with a reason or resolved to something that holds together."""

from __future__ import annotations

import tomllib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.hostile import bounded, broken, documents, mutated
from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.launch.rehearse import rehearsal
from tgsbench.presets.resolve import check
from tgsbench.presets.validate import mesh_problems

TINY = presets.resolve("tiny_cpu").preset
DOCUMENT = msgspec.to_builtins(TINY)


@bounded
@given(mutated(DOCUMENT))
def test_a_document_with_absurd_values_is_refused_or_sound(document):
    try:
        preset = presets.from_document(document)
    except TgsError as error:
        assert error.msg
        return
    assert mesh_problems(preset) == []
    assert presets.from_document(tomllib.loads(presets.to_toml(preset))) == preset
    assert mesh_problems(rehearsal(preset, 2)) == []


@bounded
@given(broken(st.just(presets.to_toml(TINY).encode())))
def test_a_file_with_damage_is_refused_or_sound(tmp_path, data):
    path = tmp_path / "x.toml"
    path.write_bytes(data)
    for problem in check(path):
        assert isinstance(problem, str)
    try:
        presets.resolve(path)
    except TgsError:
        return


@bounded
@given(
    st.lists(
        st.one_of(
            st.text(max_size=30),
            documents.map(lambda d: f"workload.seq_len={d}"),
            st.integers(0, 50_000).map(lambda n: "a." * n + "b=1"),
            st.integers(0, 50_000).map(lambda n: "notes=" + "[" * n + "]" * n),
            st.integers(0, 6_000).map(lambda n: "measure.steps=" + "9" * n),
        ),
        max_size=4,
    )
)
def test_any_assignment_is_refused_or_taken(sets):
    try:
        presets.resolve("tiny_cpu", [text.encode("utf-8", "replace").decode() for text in sets])
    except TgsError:
        return


@bounded
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(tmp_path, data):
    path = tmp_path / "x.toml"
    path.write_bytes(data)
    try:
        presets.resolve(path)
    except TgsError as error:
        assert str(path) in error.msg or error.msg


TOML_PARTS = st.one_of(
    st.integers(1, 50_000).map(lambda n: ".".join("a" * n) + " = 1"),
    st.integers(1, 50_000).map(lambda n: "[" + '."a b"' * n + "]"),
    st.integers(1, 50_000).map(lambda n: "x = " + "[" * n + "]" * n),
    st.integers(1, 50_000).map(lambda n: "x = " + "{a=" * n),
    st.integers(1, 6_000).map(lambda n: "measure.steps = " + "9" * n),
    st.sampled_from(['extends = "tiny_cpu"', "name = 1", "[model]", "num_layers = 1"]),
)


@bounded
@given(st.lists(TOML_PARTS, max_size=4))
@pytest.mark.timeout(300)  # long keys took minutes each
def test_shapes_made_to_hurt_a_reader_are_refused_soon(tmp_path, parts):
    path = tmp_path / "x.toml"
    path.write_text("\n".join(parts))
    try:
        presets.resolve(path)
    except TgsError as error:
        assert error.msg


def test_deep_nesting_and_endless_extension_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "a.toml").write_text('extends = "b"\n')
    (tmp_path / "presets" / "b.toml").write_text('extends = "a"\n')
    (tmp_path / "presets" / "deep.toml").write_text("a = " + "[" * 50_000 + "]" * 50_000 + "\n")
    (tmp_path / "presets" / "out.toml").write_text('extends = "../../etc/passwd"\n')
    for name in ("a", "deep", "out"):
        try:
            presets.resolve(name)
        except TgsError as error:
            assert error.msg
        else:
            raise AssertionError(name)


@pytest.mark.parametrize("key", ["engine.kernel", "description", "workload.file"])
def test_bytes_of_the_command_line_that_are_no_text_are_refused(key):
    with pytest.raises(TgsError, match="no UTF-8 text"):
        presets.resolve("tiny_cpu", [f"{key}=\udcff"])
