"""A tokenizer of the user's own: found, checked, its chat template and targets, and the library's ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tgsbench.errors import ExitCode, TgsError
from tgsbench.models.registry import find_family
from tgsbench.presets.resolve import resolve
from tgsbench.workload import first_look, prepare, pydoc, tokenizer_files, word_bpe
from tgsbench.workload.chat_template import ChatTemplate
from tgsbench.workload.documents import tokens_of
from tgsbench.workload.rows import Turn

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim }}<|im_end|>{% endgeneration %}{% else %}"
    "{{ message['content'] | trim }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TURNS = [Turn("system", "Be brief."), Turn("user", "One? "), Turn("assistant", "1"), Turn("user", "Two?"),
         Turn("assistant", "2 and more")]  # fmt: skip
_END = {"__type": "AddedToken", "content": "<|endoftext|>", "lstrip": False, "normalized": False,
        "rstrip": False, "single_word": False}  # fmt: skip
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_bpe(pattern: str | None, nfc: bool = False, vocab_size: int = 600):
    bpe = tokenizers.Tokenizer(models.BPE())
    if nfc:
        bpe.normalizer = normalizers.NFC()
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is not None:
        cut = pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"), cut])
    bpe.pre_tokenizer, bpe.decoder = cut, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([row.output for row in pydoc.rows_of_source(_SOURCE, "x")] * 3, trainer)
    return bpe


_SOURCE = open(pydoc.__file__).read() + open(tokenizer_files.__file__).read()  # noqa: SIM115


def write_tokenizer(folder, template: str = "", vocab_size: int = 600):
    folder.mkdir(parents=True, exist_ok=True)
    byte_bpe(LLAMA3, vocab_size=vocab_size).save(str(folder / "tokenizer.json"))
    config = {"eos_token": _END, "tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {"chat_template": template} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def conversations(tmp_path):
    path = tmp_path / "talks.jsonl"
    path.write_text((json.dumps({"messages": [turn._asdict() for turn in TURNS]}) + "\n") * 60)
    return path


def preset(*sets: str):
    return resolve("tiny_cpu", ["workload.seq_len=128", *sets]).preset


def packs_of(*sets: str):
    return prepare(preset(*sets), 4, lambda _line: None)


ENCODERS = {
    name: (bpe, word_bpe.word_encoder(bpe, json.loads(bpe.to_str()), False))
    for name, bpe in {
        "gpt2": byte_bpe(None),
        "llama3": byte_bpe(LLAMA3),
        "qwen2": byte_bpe(QWEN2, nfc=True),
    }.items()
}
PIECES = st.one_of(
    st.text(max_size=8),
    st.text("aZ09 \n\r\t'.,-_é二ſK\u2028\u0085\u00a0\u1680e\u0301½²𝟘😀", max_size=12),
    st.sampled_from(["'s", "'LL", "'ſ", "   ", " \n\n ", "<|im_start|>", "12345", "ａ１", *SPECIALS]),
)


@pytest.mark.parametrize("name", ENCODERS)
@given(st.lists(PIECES, max_size=12).map("".join))
@settings(max_examples=300, deadline=None)
def test_words_have_the_librarys_ids(name, text):
    bpe, encoder = ENCODERS[name]
    assert encoder is not None
    text = text.encode("utf-8", "replace").decode()
    found = encoder.encode(text)
    if found is None:
        assert not text.isascii()
    else:
        assert np.frombuffer(found, np.int32).tolist() == bpe.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Metaspace"}},
        {"model": {"type": "Unigram", "vocab": []}},
        {"model": {"type": "BPE", "byte_fallback": True}},
        {"added_tokens": [{"content": "x", "id": 1, "lstrip": True}]},
    ],
)
def test_what_is_not_certain_to_be_cut_alike_is_left_to_the_library(change):
    bpe = ENCODERS["llama3"][0]
    assert word_bpe.word_encoder(bpe, json.loads(bpe.to_str()) | change, False) is None


@pytest.mark.parametrize("pattern", [r"[[:alpha:]]+", r"\P{L}", r"^a", r"a\b", r"(?<=a)b", r"[a&&b]", "."])
def test_a_pattern_that_may_be_read_otherwise_is_not_translated(pattern):
    assert word_bpe.translate(pattern, 0x80) is None


def test_the_chat_template_is_rendered_as_transformers_renders_it(tmp_path):
    from transformers import PreTrainedTokenizerFast

    folder = write_tokenizer(tmp_path / "own", CHATML)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    messages = [turn._asdict() for turn in TURNS]
    ours = ChatTemplate(CHATML, {"eos_token": "<|endoftext|>"}, "own")
    for asks in (False, True):
        wanted = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
        assert ours.text(TURNS, asks=asks) == wanted
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps({"messages": messages}) * 1 + "\n" + json.dumps({"messages": messages}) + "\n")
    packs = packs_of(f"workload.corpus={path}", f"workload.tokenizer={folder}", "workload.seq_len=64")
    wanted = theirs.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert packs.stream.coded.tolist() == np.array([id - 2**31 for id in wanted * 2]).tolist()


def test_answers_are_the_targets_where_they_are_asked_for(tmp_path, conversations):
    folder = write_tokenizer(tmp_path / "own", CHATML)
    bpe = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    sets = [f"workload.corpus={conversations}", f"workload.tokenizer={folder}"]
    packs = packs_of(*sets, "workload.labels=answers")
    coded = np.asarray(packs.stream.coded[: packs.stream.starts[1]])
    assert bpe.decode(tokens_of(coded)[coded < 0].tolist(), skip_special_tokens=False) == (
        "1<|im_end|>2 and more<|im_end|>"
    )
    whole = packs_of(*sets)
    assert np.array_equal(tokens_of(whole.stream.coded), tokens_of(packs.stream.coded))
    assert "tokenizer" in whole.data.note and "targets: all" in whole.data.note


def test_a_template_that_writes_turns_otherwise_later_cannot_tell_answers(tmp_path, conversations):
    template = "{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}"
    folder = write_tokenizer(tmp_path / "own", template)
    sets = [f"workload.corpus={conversations}", f"workload.tokenizer={folder}"]
    packs_of(*sets)
    with pytest.raises(TgsError, match=r"talks\.jsonl:1: .* does not tell where answer 3 begins") as caught:
        packs_of(*sets, "workload.labels=answers")
    assert caught.value.hint == "--set workload.labels=all"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no system turns') }}", r"talks\.jsonl:1: .* refuses it: no system turns"),
        ("{% for %}", "the chat template of .* cannot be read"),
        ("{{ messages.append(1) }}", r"talks\.jsonl:1: .* refuses it"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", r"talks\.jsonl:1: .* refuses it"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_told(tmp_path, conversations, template, words):
    folder = write_tokenizer(tmp_path / "own", template)
    with pytest.raises(TgsError, match=words) as caught:
        packs_of(f"workload.corpus={conversations}", f"workload.tokenizer={folder}")
    assert caught.value.exit_code == ExitCode.BAD_DATA


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: folder / "nowhere", "there is no such tokenizer"),
        (lambda folder: folder, "holds no tokenizer.json"),
        (lambda folder: write_tokenizer(folder / "t", CHATML), "has ids up to 599, .* is 512"),
        (
            lambda folder: write_tokenizer(folder / "t", vocab_size=500),
            "has no chat template, and rows of format messages",
        ),
        (lambda folder: _written(folder / "tokenizer.json", "{"), "not valid JSON"),
        (lambda folder: _written(folder / "tokenizer.json", "{}"), "it has no vocabulary"),
        (lambda folder: _ids_alone(folder, -5), "has the id -5, and ids are 0 to"),
        (lambda folder: _ids_alone(folder, 2**31), "has the id 2,147,483,648, and ids are 0 to"),
        (lambda folder: _ids_alone(folder, 1.5), "it has no vocabulary"),
        (lambda _: "someone/hidden", "not in the hub's local cache, and the hub cannot be reached"),
    ],
)
def test_a_tokenizer_that_will_not_do_is_told_before_anything_is_started(
    tmp_path, monkeypatch, conversations, make, words
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    tokenizer = f"workload.tokenizer={make(tmp_path / 'empty')}"
    asked = preset("model.vocab_size=512", f"workload.corpus={conversations}", tokenizer)
    with pytest.raises(TgsError, match=words) as caught:
        first_look.check(asked)
    assert caught.value.exit_code == ExitCode.BAD_DATA and caught.value.hint


def _ids_alone(folder, added):
    """A tokenizer of three tokens and of one that was added with this id."""
    document = {"model": {"vocab": {"a": 0, "b": 1, "ab": 2}}, "added_tokens": [{"id": added}]}
    return _written(folder / "tokenizer.json", json.dumps(document))


def _written(path, text):
    path.write_text(text)
    return path


def test_a_hub_name_is_read_from_the_local_cache(tmp_path):
    write_tokenizer(tmp_path / "hub" / "models--someone--own" / "snapshots" / "abc")
    assert tokenizer_files.find_tokenizer("someone/own").vocab_size == 600


def test_a_models_own_tokenizer_is_taken_where_it_lies_beside_its_configuration(tmp_path, conversations):
    shape = preset().model
    folder = write_tokenizer(tmp_path / "model", CHATML)
    (folder / "config.json").write_text(json.dumps(find_family(shape.family).config(shape, 4096)))
    packs = packs_of(f"model={folder}", f"workload.corpus={conversations}")
    assert f"tokenizer {folder}" in packs.data.note
    other = packs_of(f"workload.corpus={conversations}")
    assert "BPE of 2,048 tokens trained on the corpus" in other.data.note
