"""Translates a config.json of transformers into a shape: finds its family and has that read it."""

from __future__ import annotations

from typing import Any

import msgspec

from tgsbench.errors import ExitCode, TgsError, in_one_line, nearest
from tgsbench.models.config_reader import ConfigReader
from tgsbench.models.family import ModelFamily
from tgsbench.models.registry import families, find_family, is_family
from tgsbench.schema.model import ModelShape

_OF_ARCHITECTURE = {"kimi_k2": "deepseek_v3", "gemma3": "gemma3_text", "kimi_k25": "deepseek_v3"}
"""Names of a model that is another one, or holds it as its text_config."""


class ConfigShape(msgspec.Struct, frozen=True, kw_only=True):
    """What a config.json says."""

    shape: ModelShape
    origins: dict[str, str]
    """Field of the shape -> where its value came from."""
    notes: list[str]
    """What the file holds that is not counted, and why that is right."""


def shape_of(settings: dict[str, Any], name: str, where: str) -> ConfigShape:
    """The shape that a config.json describes.

    Raises TgsError for an unknown model_type (with the nearest ones), and for an option that may change the
    cost of a step and is not understood.
    """
    inner, notes = _language_part(settings)
    family = _family_of(inner, where)
    reader = ConfigReader(inner, where)
    reader.notes += notes
    family.read_config(reader)
    reader.check_rest()
    reader.check_width()
    reader.fields |= {"name": name, "family": family.name, "source": where}
    try:
        shape = msgspec.convert(reader.fields, ModelShape)
    except msgspec.ValidationError as error:
        raise TgsError(f"{where}: {in_one_line(str(error))}", exit_code=ExitCode.BAD_PRESET) from error
    if problems := family.problems(shape):
        raise TgsError(f"{where}: {problems[0]}", exit_code=ExitCode.BAD_PRESET)
    return ConfigShape(shape=shape, origins=reader.origins, notes=reader.notes)


def _language_part(settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The text model of one that also sees or hears."""
    inner = settings.get("text_config")
    if not isinstance(inner, dict):
        return settings, []
    outer = str(settings.get("model_type", ""))
    text = {"model_type": _OF_ARCHITECTURE.get(outer, outer), **inner}
    tied = settings.get("tie_word_embeddings")
    if tied is not None:
        text.setdefault("tie_word_embeddings", tied)
    return text, [f"text_config of {outer}: the language model alone is counted and trained"]


def _family_of(settings: dict[str, Any], where: str) -> ModelFamily:
    name = settings.get("model_type")
    if not isinstance(name, str):
        raise TgsError(f"{where}: model_type is missing", exit_code=ExitCode.BAD_PRESET)
    meant = _OF_ARCHITECTURE.get(name, name)
    if is_family(meant):  # most are called as their model_type: the others need not be imported
        return find_family(meant)
    known = {model_type: family for family in families() for model_type in family.model_types}
    family = known.get(meant)
    if family is None:
        raise TgsError(
            f"{where}: model_type={name[:60]!r} is not known; {nearest(name, known)}",
            hint=f"known are {', '.join(sorted(known))}",
            exit_code=ExitCode.BAD_PRESET,
        )
    return family
