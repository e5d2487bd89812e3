"""A tokenizer's files: found in a folder, by their path or by a hub name, and read without the library."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.safe_files import read_regular, reason_of
from tgsbench.schema.preset import Preset
from tgsbench.system.hub_cache import newest_snapshot

_MAX_BYTES: Final = 256 << 20
"""The largest public tokenizer.json have some 33 MB."""
_MAX_SETTINGS: Final = 8 << 20
_MAX_ID: Final = 2**31 - 1
"""Packs hold ids in 32 bits."""
_HUB_NAME: Final = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")
_NAMES: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class TokenizerFiles(NamedTuple):
    """What a tokenizer is, as its files say."""

    name: str
    path: Path
    """Its tokenizer.json."""
    document: dict[str, Any]
    """What that file holds."""
    digest: str
    """Of all that decides which tokens come out."""
    vocab_size: int
    """The largest id and one."""
    chat_template: str
    """Jinja, or empty."""
    specials: dict[str, str]
    """bos_token, eos_token and their like, as text."""


def find_tokenizer(text: str) -> TokenizerFiles:
    """The tokenizer in a folder, of a tokenizer.json, or of a hub name, from the local cache or the hub.

    Raises TgsError (BAD_DATA) when there is none, or its files cannot be read.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return _read(path / "tokenizer.json", text)
    if path.is_file():
        return _read(path, text)
    if _HUB_NAME.match(text):
        return _read(newest_snapshot(text, "tokenizer.json") or _download(text), text)
    raise _bad(
        f"{text}: there is no such tokenizer",
        "name a folder with a tokenizer.json, such a file, or a hub name (OWNER/NAME)",
    )


def own_tokenizer(preset: Preset) -> TokenizerFiles | None:
    """The tokenizer that lies beside the configuration of the preset's model, or in the hub's local cache.

    None where there is none, or the model's vocabulary is another (a rehearsal's shrunken shape).
    """
    for place in _own_places(preset.model.source):
        if place.is_file():
            found = _read(place, str(place.parent))
            return found if found.vocab_size <= preset.model.vocab_size else None
    return None


def check_vocabulary(files: TokenizerFiles, preset: Preset) -> None:
    """Raise TgsError when the tokenizer has ids that the model has no embedding for."""
    if files.vocab_size <= preset.model.vocab_size:
        return
    raise _bad(
        f"tokenizer {files.name} has ids up to {files.vocab_size - 1:,}, and the vocabulary of model "
        f"{preset.model.name} is {preset.model.vocab_size:,}",
        "take the model's own tokenizer, or a model with that vocabulary: "
        f"--set model.vocab_size={-(-files.vocab_size // 64) * 64}",
    )


def _own_places(source: str) -> list[Path]:
    """Where a model's own tokenizer may lie; its source is a path, or names a repository of the hub."""
    given = Path(source.split(";")[0].strip())
    places = [given.parent / "tokenizer.json"] if given.name.endswith(".json") else []
    named = re.match(r"config\.json of ([\w.-]+/[\w.-]+)", source)
    cached = newest_snapshot(named[1].rstrip(".,;"), "tokenizer.json") if named else None
    return [*places, *([cached] if cached is not None else [])]


def _read(path: Path, name: str) -> TokenizerFiles:
    if not path.is_file():
        other = next((p.name for p in sorted(path.parent.glob("tokenizer.model"))), "")
        has = f", but a {other}" if other else ""
        raise _bad(
            f"{path.parent}: holds no tokenizer.json{has}",
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers writes one",
        )
    data = _bytes(path, _MAX_BYTES)
    document = _decoded(data, path)
    settings_path = path.with_name("tokenizer_config.json")
    has_settings = settings_path.is_file()
    settings = _decoded(_bytes(settings_path, _MAX_SETTINGS), settings_path) if has_settings else {}
    template, specials = _chat_template(settings, path), _specials(settings)
    said = msgspec.json.encode([template, sorted(specials.items())])
    digest = hashlib.sha256(data + said).hexdigest()
    return TokenizerFiles(name, path, document, digest, _vocab_size(document, path), template, specials)


def _vocab_size(document: dict[str, Any], path: Path) -> int:
    ids = _ids(document)
    if not ids or any(type(one) is not int for one in ids):
        raise _bad(f"{path}: no tokenizer.json: it has no vocabulary", "save the tokenizer anew")
    if odd := [one for one in ids if not 0 <= one <= _MAX_ID]:
        raise _bad(
            f"{path}: a token has the id {odd[0]:,}, and ids are 0 to {_MAX_ID:,}", "save the tokenizer anew"
        )
    return 1 + int(max(ids))


def _ids(document: dict[str, Any]) -> list[Any]:
    """What stands where ids do; a vocabulary that is a list has its places for them."""
    model, added = document.get("model"), document.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocab.values()) if isinstance(vocab, dict) else []
    ids += range(len(vocab)) if isinstance(vocab, list) else ()
    extra = added if isinstance(added, list) else [added] * bool(added)
    return ids + [one.get("id") if isinstance(one, dict) else one for one in extra]


def _chat_template(settings: dict[str, Any], path: Path) -> str:
    """The template beside the tokenizer, else in its settings; of several the one called default."""
    beside = path.with_name("chat_template.jinja")
    if beside.is_file():
        return _bytes(beside, _MAX_SETTINGS).decode("utf-8", "replace")
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else ""


def _specials(settings: dict[str, Any]) -> dict[str, str]:
    found = {}
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = settings.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[key] = text
    return found


def _decoded(data: bytes, path: Path) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(data)
    except (ValueError, RecursionError) as error:
        raise _bad(f"{path}: not valid JSON: {reason_of(error)}", "save the tokenizer anew") from error
    if not isinstance(document, dict):
        raise _bad(f"{path}: expected an object", "save the tokenizer anew")
    return document


def _bytes(path: Path, limit: int) -> bytes:
    try:
        return read_regular(path, limit, follow=True)
    except OSError as error:
        raise _bad(f"{path}: {error.strerror or error}", "name a tokenizer that can be read") from error


def _download(name: str) -> Path:
    """tokenizer.json and what goes with it, fetched from the hub."""
    from tgsbench.workload import hub

    if problem := hub.problem():
        raise _bad(
            f"tokenizer {name} is not in the hub's local cache, and the hub cannot be reached: {problem}",
            "name a folder with its tokenizer.json",
        )
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise TgsError(
            "a tokenizer of the hub needs the package huggingface_hub, which is not installed",
            hint=pip_install("train"),
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    try:
        folder = huggingface_hub.snapshot_download(name, allow_patterns=list(_NAMES))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        first = (str(error) or repr(error)).splitlines()[0]
        raise _bad(f"tokenizer {name}: {first}", "name a folder with its tokenizer.json") from error
    return Path(folder) / "tokenizer.json"


def _bad(msg: str, hint: str) -> TgsError:
    return TgsError(msg, hint=hint, exit_code=ExitCode.BAD_DATA)
