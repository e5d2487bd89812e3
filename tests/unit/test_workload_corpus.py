"""Corpora: real text, files with mistakes in them, and what happens without a hub or a package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.presets.resolve import resolve
from tgsbench.schema.preset import Preset
from tgsbench.workload import hub, lengths, prepare, pydoc, rows, tokenizer
from tgsbench.workload.documents import tokens_of
from tgsbench.workload.packs import IGNORE_INDEX
from tgsbench.workload.rows import CorpusRow


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def no_hub(monkeypatch):
    monkeypatch.setattr(hub, "_problem", lambda: "no such host")
    monkeypatch.setattr(hub, "_all_downloaded", lambda: False)


@dataclass
class Said:
    lines: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append(line)


def preset(*sets: str, name: str = "tiny_cpu") -> Preset:
    return resolve(name, sets).preset


def of_file(path, *sets: str) -> Preset:
    return preset("workload.corpus=file", f"workload.file={path}", "workload.seq_len=64", *sets)


def write_rows(path, num_rows: int = 40) -> None:
    made = [
        {"instruction": f"Count to {n}.", "input": "", "output": "one two three " * n}
        for n in range(1, num_rows)
    ]
    path.write_text("\n".join(json.dumps(row) for row in made))


def test_pydoc_packs_real_text_and_loads_it_again():
    said = Said()
    first = prepare(preset(), 28, said)
    assert first.data.corpus == "pydoc" and not first.data.cached
    assert said.lines[0].startswith("reading the docstrings")
    assert first.data.num_full == first.num_packs >= 28
    assert first.pack(0).tokens.max() < 2048
    again = prepare(preset(), 28, Said())
    assert again.data.cached
    assert np.array_equal(first.pack(5).tokens, again.pack(5).tokens)
    assert np.array_equal(first.pack(5).labels, again.pack(5).labels)


def test_another_seed_is_another_order_of_the_same_documents():
    one, two = (prepare(preset(f"workload.seed={seed}"), 28, Said()) for seed in (1, 2))
    assert one.data.num_tokens == two.data.num_tokens
    assert not np.array_equal(one.pack(0).tokens, two.pack(0).tokens)


def test_bpe_is_the_same_whatever_the_number_of_threads():
    code = (
        "import hashlib; from tgsbench.workload import pydoc, tokenizer;"
        "rows = pydoc.read_rows()[:800];"
        "print(hashlib.sha256(tokenizer.train(rows, 1024).to_str().encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"RAYON_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": threads},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(digests) == 1


def test_docstrings_are_read_and_never_run():
    source = '''"""A module that would do harm if it were imported, and says so at length."""
raise SystemExit("imported")

class Box:
    """Holds things, as many of them as anyone could ever wish to hold."""

    def put(self, thing: object) -> None:
        r"""Put a thing into the box; it stays there until it is taken out \\d."""

    def take(self):
        """Too short."""
'''
    made = pydoc.rows_of_source(source, "box")
    assert [row.instruction for row in made] == [
        "What is Python's module box for?",
        "Explain the class box.Box of Python's standard library.",
        "Explain the function box.Box.put of Python's standard library.",
    ]
    assert made[2].input == "def put(self, thing: object) -> None:"
    assert pydoc.rows_of_source("def broken(:", "broken") == []


def test_template_ignores_the_prompt_and_trains_the_output():
    texts = [CorpusRow("Say hi.", "now", "hi </s> there"), CorpusRow("Say ho.", "", "ho")]
    bpe = tokenizer.train(texts, 300)
    documents = tokenizer.encode(bpe, texts, Said())
    for row, begin, end in zip(texts, documents.starts[:-1], documents.starts[1:], strict=True):
        coded = documents.coded[begin:end]
        ids, is_label = tokens_of(coded), coded < 0
        assert ids[0] == tokenizer.BOS and (ids == tokenizer.BOS).sum() == 1
        assert ids[is_label][-1] == tokenizer.EOS and (ids == tokenizer.EOS).sum() == 1
        assert bpe.decode(ids[is_label][:-1].tolist()) == row.output
        assert bpe.decode(ids[: int(is_label.argmax())].tolist()) == tokenizer.prompt_of(row)
        assert bpe.decode(ids[-1:].tolist()) == "\n" and not is_label[-1]


def test_vocabulary_too_small_for_bytes():
    with pytest.raises(TgsError, match=r"vocab_size=100 .* \(259 tokens\)") as error:
        tokenizer.train([CorpusRow("a", "", "b")], 100)
    assert "corpus=lengths" in error.value.hint


def test_lengths_follow_alpaca():
    """Means of 5,000 real documents: 97.1 tokens, 68.6 % of them targets."""
    documents = lengths.draw_documents(20_000, 32_000, seed=1)
    assert documents.num_tokens / 20_000 == pytest.approx(97.1, rel=0.02)
    assert (documents.coded < 0).mean() == pytest.approx(0.686, rel=0.02)
    ids = tokens_of(documents.coded)
    assert ids.min() >= 3 and ids.max() < 32_000
    assert lengths.draw_documents(10, 2, seed=1).coded.max() < 2


@pytest.mark.parametrize("num_packs", [1, 3, 64, 500])
def test_lengths_draws_what_the_run_reads(num_packs):
    packs = prepare(preset("workload.corpus=lengths", "workload.concat=6"), num_packs, Said())
    assert packs.num_packs >= num_packs
    assert packs.data.num_short == 0


def test_lengths_draws_at_most_the_references_corpus_and_says_that_it_repeats(monkeypatch):
    monkeypatch.setattr(lengths, "MAX_DOCUMENTS", 600)
    packs = prepare(preset("workload.corpus=lengths"), 10_000, Said())
    assert packs.data.num_documents == 600
    assert f"{packs.num_packs} packs an epoch, repeated for the run's 10,000" in packs.data.note
    assert np.array_equal(packs.pack(packs.num_packs + 3).tokens, packs.pack(3).tokens)


def test_lengths_fills_one_pack_however_long():
    packs = prepare(preset("workload.corpus=lengths", "workload.seq_len=1M"), 1, Said())
    assert packs.num_packs >= 1 and packs.data.num_short == 0


def test_no_hub_means_random_tokens_and_a_warning(no_hub):
    packs = prepare(preset("workload.corpus=alpaca"), 28, Said())
    assert packs.data.corpus == "lengths"
    assert packs.data.note == "in place of alpaca: no such host"
    assert [warning.code for warning in packs.warnings] == ["corpus_fallback"]
    assert "no such host" in packs.warnings[0].msg


def test_alpaca_is_read_from_both_data_sets(monkeypatch):
    monkeypatch.setattr(hub, "_problem", lambda: "")

    class Table(dict):
        column_names = property(lambda self: list(self))

    def load(_datasets, name):
        columns = hub.DATASETS[name]
        texts = [
            [f"{name} question {n}" for n in range(300)],
            [None] * 300,
            ["an answer", "<nooutput>", ""] * 100,
        ]
        return Table(zip(columns, texts, strict=True))

    monkeypatch.setattr(hub, "_load", load)
    packs = prepare(preset("workload.corpus=alpaca", "workload.seq_len=256"), 4, Said())
    assert packs.data.corpus == "alpaca" and packs.warnings == []
    assert packs.data.num_documents == 200, "rows without an answer train nothing"
    monkeypatch.setattr(hub, "_load", None)
    monkeypatch.setattr(hub, "_problem", lambda: "unplugged")
    assert prepare(preset("workload.corpus=alpaca", "workload.seq_len=256"), 4, Said()).data.cached


def test_a_hub_that_breaks_off_falls_back_too(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(hub, "_problem", lambda: "")

    def broken(*_args, **_named):
        raise ConnectionError("reset by peer\nand more lines")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    packs = prepare(preset("workload.corpus=alpaca"), 28, Said())
    assert packs.data.corpus == "lengths"
    assert packs.data.note == "in place of alpaca: tatsu-lab/alpaca: reset by peer"


def test_a_hub_that_never_answers_is_given_up_on(monkeypatch):
    import threading

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "_PROBE_S", 0.05)
    monkeypatch.setattr(hub, "_ask", lambda _endpoint: threading.Event().wait(30) or "late")
    monkeypatch.setattr(hub, "_all_downloaded", lambda: False)
    with pytest.raises(hub.HubUnavailable, match="did not answer"):
        hub.require()


def test_hub_offline_is_respected(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "_ask", None)
    monkeypatch.setattr(hub, "_all_downloaded", lambda: False)
    with pytest.raises(hub.HubUnavailable, match="HF_HUB_OFFLINE is set"):
        hub.require()


@pytest.mark.parametrize(("corpus", "package"), [("pydoc", "tokenizers"), ("alpaca", "datasets")])
def test_missing_package_names_the_pip_command(monkeypatch, corpus, package):
    monkeypatch.setattr(hub, "_problem", lambda: "")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TgsError, match=f"needs? the package {package}") as error:
        prepare(preset(f"workload.corpus={corpus}"), 28, Said())
    assert error.value.exit_code == ExitCode.MISSING_DEPENDENCY
    assert pip_install("train") in error.value.hint


def test_file_is_packed(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path)
    packs = prepare(of_file(path), 4, Said())
    assert packs.data.corpus == "file" and packs.data.num_documents == 39
    path.write_text(path.read_text() + '\n{"instruction": "One more.", "output": "row"}')
    assert prepare(of_file(path), 4, Said()).data.num_documents == 40, (
        "changed content is not read from the cache"
    )


def test_array_and_lines_say_the_same(tmp_path):
    made = [
        {"instruction": "a", "input": None, "output": "b\u2028c"},
        {"instruction": "d", "output": "e", "x": [1]},
    ]
    array, lines = tmp_path / "a.json", tmp_path / "a.jsonl"
    array.write_text(json.dumps(made, indent=1))
    lines.write_text("\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in made), "utf-8")
    assert (
        rows.read_file(array)
        == rows.read_file(lines)
        == [CorpusRow("a", "", "b\u2028c"), CorpusRow("d", "", "e")]
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no row with an output"),
        ("[]", "holds no row with an output"),
        ('{"instruction": "a", "output": "<nooutput>"}', "holds no row with an output"),
        ('{"instruction": "a", "output": "b"}\n{"instruction": "a"', "rows:2: not valid JSON"),
        ('[\n{"instruction": "a", "output": "b"},\n{"instruction": }]', "rows:3: not valid JSON"),
        ('[\n{"instruction": "a", "output": "b"}\n', "rows:3: not valid JSON"),
        ('[\n{"instruction": "a", "output": "b"},\n\n {"instruction": "a"}]', 'rows:4: "output" is missing'),
        ('{"instruction": 1, "output": "b"}', 'rows:1: "instruction" is missing or no text'),
        ('{"instruction": "a", "output": "b", "input": 3}', 'rows:1: "input" is no text'),
        ('\n"text"', "rows:2: expected an object"),
        ('{"a": 1}\n' * 9, "… and 4 more"),
        pytest.param("[" * 100_000, "rows:1: not valid JSON", id="deep"),
        pytest.param('{"instruction": ' + "1" * 5000 + "}", "rows:1: not valid JSON", id="long number"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, text, words):
    path = tmp_path / "rows"
    path.write_text(text)
    with pytest.raises(TgsError) as error:
        rows.read_file(path)
    assert words in error.value.msg
    assert error.value.exit_code == ExitCode.BAD_DATA and error.value.hint


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b'{"instruction": "a", "output": "b"}\n\xff\xfe')
    with pytest.raises(TgsError, match="rows:2: not UTF-8"):
        rows.read_file(path)


def test_lone_surrogates_do_not_stop_the_tokenizer(tmp_path):
    path = tmp_path / "rows"
    path.write_text('{"instruction": "a", "output": "b \\ud83d c"}\n')
    made = rows.read_file(path)
    assert made == [CorpusRow("a", "", "b ? c")]
    tokenizer.train(made, 300)


@pytest.mark.parametrize("path", ["nowhere.jsonl", "."])
def test_file_that_cannot_be_opened(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TgsError) as error:
        prepare(of_file(path), 4, Said())
    assert error.value.exit_code == ExitCode.BAD_DATA
    assert "workload.file" in error.value.hint


def test_too_few_documents_say_how_many_tokens_there_are_and_what_would_do(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path, num_rows=12)
    with pytest.raises(TgsError) as error:
        prepare(of_file(path, "workload.seq_len=4k"), 4, Said())
    assert error.value.exit_code == ExitCode.BAD_DATA
    assert "tokens in 11 documents, too few for one sequence of 4k" in error.value.msg
    cures = dict(re.findall(r"--set (\S+)=(\d+)", error.value.hint))
    for key, value in cures.items():
        sets = [f"{key}={value}"] if key == "workload.seq_len" else ["workload.seq_len=4k", f"{key}={value}"]
        assert prepare(of_file(path, *sets), 4, Said()).num_packs >= 1, "each cure works"
    assert set(cures) == {"workload.seq_len", "workload.concat"}


def test_absurd_repetition_is_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_rows(path)
    with pytest.raises(TgsError, match=r"workload\.concat=10000000 makes") as error:
        prepare(of_file(path, "workload.concat=10000000"), 4, Said())
    assert error.value.exit_code == ExitCode.BAD_DATA


def test_importing_the_workload_imports_no_framework():
    code = "import sys, tgsbench.workload; print(sorted(sys.modules))"
    argv = [sys.executable, "-c", code]
    loaded = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert "'numpy'" in loaded
    for package in ("torch", "transformers", "datasets", "tokenizers", "pyarrow", "textual", "rich"):
        assert f"'{package}'" not in loaded


def test_stock_packing_runs_with_short_packs_and_says_so():
    packs = prepare(
        preset("workload.corpus=lengths", "workload.packing=xtuner_stock", "workload.seq_len=128k"), 4, Said()
    )
    assert packs.data.num_full == 0 < packs.data.num_short
    assert [warning.code for warning in packs.warnings] == ["short_packs"]
    pack = packs.pack(0)
    assert pack.num_tokens < 2**17 == len(pack.tokens)
    assert (pack.labels[pack.num_tokens - 1 :] == IGNORE_INDEX).all()
