"""Data of the user's own: containers, formats, policies, what is refused; never whole in memory."""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
from unittest.mock import ANY

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tgsbench.errors import ExitCode, TgsError
from tgsbench.presets.resolve import resolve
from tgsbench.schema.preset import Preset
from tgsbench.workload import blocks, corpus, first_look, histogram, hub, prepare, rows, workers
from tgsbench.workload.blocks import open_source, rows_of
from tgsbench.workload.documents import Documents, starts_of
from tgsbench.workload.rows import CorpusRow, Text

ROWS = [{"instruction": f"Count to {n}.", "input": "", "output": "one é 二 " * (n + 1)} for n in range(40)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def preset(*sets: str) -> Preset:
    return resolve("tiny_cpu", ["workload.seq_len=64", *sets]).preset


def packs_of(*sets: str):
    return prepare(preset(*sets), 4, lambda _line: None)


def write_jsonl(path, made=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in made))


def write_parquet(path, made=ROWS):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(made), path, row_group_size=7)


def write_csv(path, made=ROWS):
    import csv

    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(made[0]))
        writer.writeheader()
        writer.writerows(made)


def write_folder(path, made=ROWS):
    import datasets

    datasets.Dataset.from_list(made).save_to_disk(str(path))


WRITERS = {
    "rows.jsonl": write_jsonl,
    "rows.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "rows.csv": write_csv,
    "rows.parquet": write_parquet,
    "folder": write_folder,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_container_says_the_same_whatever_its_blocks(tmp_path, monkeypatch, name):
    WRITERS[name](tmp_path / name)
    wanted = [CorpusRow(**row) for row in ROWS]
    assert rows.read_file(tmp_path / name) == wanted
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    assert rows.read_file(tmp_path / name) == wanted


@given(st.lists(st.text(max_size=60), min_size=1, max_size=30), st.integers(1, 200), st.booleans())
@settings(max_examples=40, deadline=None)
def test_rows_and_their_lines_are_the_same_whatever_is_read_at_once(tmp_path_factory, texts, size, as_array):
    path = tmp_path_factory.getbasetemp() / f"any{os.getpid()}.json"
    made = [{"text": text} for text in texts]
    lines = [json.dumps(row, ensure_ascii=as_array) for row in made]
    body = "[\n" + ",\n".join(lines) + "\n]" if as_array else "\n".join(lines)
    path.write_bytes(body.encode("utf-8", "replace"))
    whole = [row for block in open_source(path).blocks() for row in rows_of(block, "x")]
    kept = blocks.BLOCK_BYTES
    try:
        blocks.BLOCK_BYTES = size
        assert [row for block in open_source(path).blocks() for row in rows_of(block, "x")] == whole
    finally:
        blocks.BLOCK_BYTES = kept
    first = 2 if as_array else 1
    assert [number for number, _ in whole] == list(range(first, first + len(texts)))


def test_workers_make_the_same_packs_as_one_process_whatever_the_blocks(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path)
    alone = packs_of(f"workload.corpus={path}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(workers, "_WORTH_BYTES", 0)
    monkeypatch.setattr(workers, "num_cores", lambda: 2)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 300)
    shared = packs_of(f"workload.corpus={path}")
    assert not shared.data.cached
    assert np.array_equal(alone.stream.coded, shared.stream.coded)
    assert np.array_equal(alone.stream.starts, shared.stream.starts)


def test_a_worker_tells_the_row_that_it_cannot_read_and_nothing_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"text": "other"}\n')
    monkeypatch.setattr(workers, "_WORTH_BYTES", 0)
    monkeypatch.setattr(workers, "num_cores", lambda: 2)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 300)
    # Read up to the bad row while the tokenizer is trained, were it not for a sample of the first rows.
    monkeypatch.setattr("tgsbench.workload.corpus.sample_rows", lambda *_: [CorpusRow("a", "", "b c d")] * 9)
    with pytest.raises(TgsError, match=r'rows\.jsonl:41: "instruction" is missing') as caught:
        packs_of(f"workload.corpus={path}")
    assert caught.value.exit_code == ExitCode.BAD_DATA
    kept = [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert kept == []


@pytest.mark.parametrize(
    ("text", "asked", "wanted"),
    [
        ("one\ntwo\n\n", "auto", ["one", "two"]),
        ("one\ntwo\n\n\nthree\n", "auto", ["one\ntwo", "three"]),
        ("one\r\n\r\ntwo\r\n", "auto", ["one", "two"]),
        ("one\ntwo\n\nthree", "lines", ["one", "two", "three"]),
        ("one\ntwo", "paragraphs", ["one\ntwo"]),
    ],
)
def test_plain_text_is_cut_at_lines_or_at_empty_ones(tmp_path, text, asked, wanted):
    path = tmp_path / "book.txt"
    path.write_bytes(text.encode())
    assert list(rows.read_rows(open_source(path, asked), asked)) == [Text(part) for part in wanted]


def test_text_is_trained_on_from_its_first_word_to_its_end(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n".join(f"the {n}th line of a book" for n in range(400)))
    packs = packs_of(f"workload.corpus={path}", "workload.document_mask=true")
    pack = packs.pack(0)
    assert "plain text, lines of format text" in packs.data.note and packs.data.corpus == "book.txt"
    assert (pack.labels != -100).sum() == packs.num_labels(0) == 64 - len(pack.doc_starts)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_a_line_of_two_gigabytes_is_refused_in_little_memory(tmp_path, name):
    path = tmp_path / name
    path.write_bytes({"rows.json": b'[{"a": "', "rows.csv": b"text\n"}.get(name, b'{"text": "'))
    os.truncate(path, 2 << 30)  # zeros that take no room on disk
    tracemalloc.start()
    with pytest.raises(TgsError, match=rf"{name}:\d: (a row of more than 16 MiB|not valid)") as caught:
        rows.read_file(path, "text")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.exit_code == ExitCode.BAD_DATA
    assert peak < 200 << 20


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("a.parquet", lambda p: p.write_bytes(b"PAR1 and no more"), "not a Parquet file that can be read"),
        ("a.parquet", lambda p: write_parquet(p, [{"a": 1, "b": 2}]), "its columns are a, b"),
        ("a.csv", lambda p: p.write_text("a,b\n1,2\n"), r"a\.csv:2: its keys are a, b; expected instruction"),
        ("a.json", lambda p: p.write_text('[{"q": 1}]'), r"a\.json:1: its keys are q; expected instruction"),
        ("a.txt", lambda p: p.write_text(" \n\n"), r"a\.txt: holds no row"),
        ("a.parquet", lambda p: write_parquet(p, [{"text": 3}]), r'a\.parquet: row 1: "text" is no text'),
        ("a", lambda p: p.mkdir(), r"no state\.json in it"),
    ],
)
def test_what_cannot_be_read_is_told_before_anything_is_started(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(TgsError, match=words) as caught:
        first_look.check(preset(f"workload.corpus={tmp_path / name}"))
    assert caught.value.exit_code == ExitCode.BAD_DATA and caught.value.hint


def test_data_that_fill_no_sequence_are_told_before_anything_is_started(tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text('{"text": "a few words"}\n' * 3)
    with pytest.raises(
        TgsError, match=r"corpus few.jsonl holds \d+ tokens in 3 documents, too few for one"
    ) as e:
        first_look.check(preset(f"workload.corpus={path}"))
    assert "sequence of 64, and the run takes 24" in e.value.msg
    assert "workload.concat=" in e.value.hint and e.value.exit_code == ExitCode.BAD_DATA


def test_a_policy_that_drops_all_documents_is_told_before_anything_is_started(tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(f'{{"text": "{"long words " * 500}"}}\n' * 3)
    assert first_look.check(preset(f"workload.corpus={path}")) is None
    with pytest.raises(TgsError, match="each of the 3 documents is longer than 64 tokens"):
        first_look.check(preset(f"workload.corpus={path}", "workload.long_documents=drop"))


def test_small_data_are_packed_at_first_sight_and_found_in_the_cache_later(tmp_path):
    path = tmp_path / "small.jsonl"
    path.write_text("".join(f'{{"text": "words {i}"}}\n' for i in range(20)))
    asked = f"workload.corpus={path}"
    seen = first_look.check(preset(asked))
    assert (seen.num_documents, seen.cached) == (20, False)
    assert packs_of(asked).data == replace(seen, cached=True, note=ANY)
    path.write_text(path.read_text() * 20)
    assert first_look.check(preset(asked)) is None


def test_a_saved_data_set_of_several_splits_is_read_from_train(tmp_path):
    import datasets

    made = {name: datasets.Dataset.from_list([{"text": name}]) for name in ("test", "train")}
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "both"))
    assert rows.read_file(tmp_path / "both") == [CorpusRow("", "", "train")]
    assert rows.read_file(tmp_path / "both" / "test") == [CorpusRow("", "", "test")]
    del made["train"]
    datasets.DatasetDict({**made, "dev": made["test"]}).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(TgsError, match="holds the splits test, dev, and none is called train"):
        open_source(tmp_path / "none")


def test_a_data_set_of_the_hub_is_named_with_its_split(monkeypatch):
    import datasets

    asked = []

    def load(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list(ROWS)

    hub.open_dataset.cache_clear()
    monkeypatch.setattr(hub, "_problem", lambda: "")
    monkeypatch.setattr(datasets, "load_dataset", load)
    packs = packs_of("workload.corpus=someone/things/small:train")
    assert asked == [("someone/things", "small", "train")]
    assert packs.data.corpus == "someone/things/small:train" and packs.data.num_documents == len(ROWS)
    hub.open_dataset.cache_clear()


def test_a_hub_that_cannot_be_reached_is_an_error_for_a_named_data_set(monkeypatch):
    import datasets

    def broken(*_args, **_named):
        raise ConnectionError("unplugged")

    monkeypatch.setattr(hub, "_problem", lambda: "")
    monkeypatch.setattr(datasets, "load_dataset", broken)
    with pytest.raises(TgsError, match="someone/else:train: unplugged") as caught:
        packs_of("workload.corpus=someone/else:train")
    assert caught.value.exit_code == ExitCode.BAD_DATA


@pytest.mark.parametrize(
    ("policy", "num_documents", "left_out"), [("split", 3, 0), ("cut", 3, 36), ("drop", 2, 100)]
)
def test_documents_longer_than_a_pack_are_split_cut_or_dropped_and_counted(
    tmp_path, policy, num_documents, left_out
):
    path = tmp_path / "lengths"
    path.write_text("40\n40\n100\n")
    sets = ["workload.corpus=lengths", f"workload.lengths={path}", f"workload.long_documents={policy}"]
    made = Documents(np.arange(180, dtype=np.int32), starts_of(np.array([40, 40, 100])))
    stub = corpus.Corpus("three", {"corpus": policy}, lambda: made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["tgsbench.workload.prepare"], "choose", lambda *_: stub)
        packs = packs_of(*sets)
        again = packs_of(*sets)
    for found in (packs, again):
        assert found.data.num_long == 1 and found.data.tokens_left_out == left_out
        assert found.data.num_documents == num_documents and found.data.num_tokens == 180 - left_out
    kept = set(packs.stream.coded.tolist())
    assert (
        kept
        == set(range(180))
        - {"split": set(), "cut": set(range(144, 180)), "drop": set(range(80, 180))}[policy]
    )


def test_dropping_all_documents_is_refused(tmp_path):
    path = tmp_path / "lengths"
    path.write_text("500\n")
    with pytest.raises(TgsError, match=r"workload\.long_documents=drop leaves none"):
        packs_of("workload.corpus=lengths", f"workload.lengths={path}", "workload.long_documents=drop")


@pytest.mark.parametrize("text", ["5\n5\n9\n", "length,count\n5,2\n9,1\n", "\ufeff5, 2\n\n9,1"])
def test_a_histogram_is_lengths_or_lengths_with_counts(tmp_path, text):
    path = tmp_path / "lengths.csv"
    path.write_text(text, "utf-8")
    found = histogram.read_histogram(path)
    assert (found.lengths.tolist(), found.counts.tolist()) == ([5, 9], [2, 1])
    histogram.write_histogram(found, path)
    assert histogram.read_histogram(path).counts.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no length"),
        ("5\n-1\n", ":2: '-1': expected a length"),
        ("5\n0\n", ":2: '0': expected"),
        ("5,1,2\n", ":1: "),
        ("5\nsix\n", ":2: 'six'"),
        ("9" * 500, ":1: too long"),
    ],
)
def test_a_histogram_that_is_none_is_told_by_its_line(tmp_path, text, words):
    path = tmp_path / "lengths.csv"
    path.write_text(text)
    with pytest.raises(TgsError, match=r"lengths\.csv") as caught:
        first_look.check(preset("workload.corpus=lengths", f"workload.lengths={path}"))
    assert words in caught.value.msg and caught.value.exit_code == ExitCode.BAD_DATA


def test_documents_are_drawn_from_a_histogram(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("10,3\n50,1\n")
    packs = packs_of("workload.corpus=lengths", f"workload.lengths={path}", "workload.seq_len=4k")
    lengths = np.diff(packs.stream.starts)
    assert set(lengths.tolist()) == {10, 50}
    assert (lengths == 10).mean() == pytest.approx(0.75, abs=0.05)
    assert packs.num_packs >= 4


def test_paths_in_a_preset_are_relative_to_its_file(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rows.jsonl").write_text('{"text": "a"}\n')
    written = tmp_path / "mine" / "my.toml"
    written.write_text('extends = "tiny_cpu"\n[workload]\ncorpus = "rows.jsonl"\n')
    monkeypatch.chdir(tmp_path)
    whole = str(tmp_path / "mine" / "rows.jsonl")
    assert resolve(written).preset.workload.corpus == whole
    assert resolve("tiny_cpu", ["workload.corpus=mine/rows.jsonl"]).preset.workload.corpus == whole
    assert resolve("tiny_cpu", ["workload.corpus=pydoc"]).preset.workload.corpus == "pydoc"


def test_a_corpus_that_is_nothing_is_refused_with_the_nearest():
    with pytest.raises(TgsError, match=r"workload.corpus: 'alpca' is none of .*; nearest: alpaca"):
        resolve("tiny_cpu", ["workload.corpus=alpca"])
