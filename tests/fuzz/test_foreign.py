"""Logs and tables of other tools, damaged or made to hurt: rows or a refusal, in bounded time and memory."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.hostile import bounded, broken, documents, dumped, mutated
from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.results import imported
from tgsbench.results.imported import Context

LOGS = Path(__file__).resolve().parents[1] / "data" / "logs"
CONTEXT = Context(
    name="x", model=presets.load_model("llama2_7b"), seq_len=32768, gpu="A100-SXM4-80GB", num_gpus=8
)
LLAMAFACTORY = {
    "current_steps": 3,
    "loss": 1.5,
    "throughput": 900.0,
    "total_tokens": 4096,
    "elapsed_time": "0:01",
}
XTUNER = {
    "lr": 1e-5,
    "time": 2.0,
    "tokens_per_sec": 3000.0,
    "tflops": 180.0,
    "loss": 1.0,
    "iter": 3,
    "step": 3,
}
HEADER = b"tgs,tflops,mfu,model,seq_len,gpu,num_gpus,sp,mem_gib\n"
CSV = HEADER + b"3000,180,0.5,llama2_7b,32k,A100-SXM4-80GB,8,1,60\n"

samples = st.sampled_from(
    [path.read_bytes()[:6000] for path in sorted(LOGS.rglob("*")) if path.is_file()] or [b"x"]
)
json_lines = st.lists(
    st.one_of(mutated(LLAMAFACTORY, 2), mutated(XTUNER, 2), documents).map(dumped), max_size=8
).map(b"\n".join)


def check(row) -> None:
    """Figures that a comparison can work with."""
    assert row.row.tgs is None or math.isfinite(row.row.tgs)
    json.dumps(row.note)


@bounded
@given(st.one_of(broken(samples), json_lines, broken(json_lines), st.binary(max_size=300)))
def test_a_log_is_read_or_refused(data):
    try:
        check(imported.from_log(data.decode("utf-8", "replace"), CONTEXT))
    except TgsError as error:
        assert error.msg


@bounded
@given(st.one_of(broken(st.just(CSV)), st.binary(max_size=300), json_lines))
def test_a_table_is_read_or_refused(data):
    models = {"llama2_7b": CONTEXT.model}
    try:
        for row in imported.from_csv(data.decode("utf-8", "replace"), CONTEXT, models):
            check(row)
    except TgsError as error:
        assert error.msg


@bounded
@given(broken(documents.map(dumped)))
def test_a_stored_row_is_loaded_or_refused(tmp_path, data):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    try:
        imported.load(path)
    except TgsError as error:
        assert error.msg


@pytest.mark.parametrize(
    "line",
    [
        "Iter(train) [1/2] time: 1 " * 2400,
        "step: 1 " * 8000,
        "iteration 1/2 " * 4500,
        "memory: " + "1," * 30000,
        "Iter(train) [1/2] time: " + "1" * 60000,
    ],
    ids=["xtuner", "torchtitan", "megatron", "memory", "digits"],
)
@pytest.mark.timeout(60)  # quadratic patterns took minutes
def test_a_line_made_to_hurt_a_pattern_ends_soon(line):
    with pytest.raises(TgsError):
        imported.from_log("\n".join([line[:64000]] * 3), CONTEXT)


def test_rows_that_are_links_or_fifos_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.json")
    (tmp_path / "link.json").symlink_to("/dev/zero")
    for name in ("fifo", "link"):
        with pytest.raises(TgsError):
            imported.load(tmp_path / f"{name}.json")


def test_an_endless_log_is_refused():
    with pytest.raises(TgsError, match="not a regular file"):
        imported.read_text(Path("/dev/zero"))
