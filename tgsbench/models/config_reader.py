"""Reads the options of one config.json of transformers for a family, as data.

A family reads the options that it knows (`ModelFamily.read_config`). What is left must be known to change no
cost, or be switched off; anything else is refused by name: a cost that is not counted is a wrong figure.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.models.decoder import LAYER_TYPES
from tgsbench.schema.model import LayerKind

_COSTLESS = frozenset((
    "_attn_implementation", "_name_or_path", "architectures", "attention_dropout", "attn_implementation",
    "auto_map", "aux_loss_alpha", "boi_token_index", "bos_token_id", "cache_implementation",
    "chunk_size_feed_forward", "classifier_dropout", "default_theta", "dtype", "embd_pdrop",
    "embedding_dropout", "eoi_token_index", "eos_token_id", "ep_size", "experts_implementation",
    "gradient_checkpointing", "hidden_dropout", "id2label", "image_token_id", "image_token_index",
    "initial_context_length", "initializer_factor", "initializer_range", "is_decoder", "is_encoder_decoder",
    "label2id", "mm_tokens_per_image", "model_type", "num_labels", "original_max_position_embeddings",
    "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id",
    "partial_rotary_factor", "pretraining_tp", "problem_type", "query_pre_attn_scalar",
    "remove_invalid_values", "resid_pdrop", "return_dict", "rope_interleave", "rope_local_base_freq",
    "rope_parameters", "rope_scaling", "rope_theta", "router_aux_loss_coef", "router_jitter_noise",
    "sep_token_id", "seq_aux", "tokenizer_class", "torch_dtype", "transformers_version", "unk_token_id",
    "use_cache", "video_token_id", "vision_end_token_id", "vision_start_token_id", "vision_token_id",
    "vocab_size",
))  # fmt: skip
"""Options that change neither parameters nor FLOPs of a training step without dropout."""
_NOTED = {
    "quantization_config": "the weights are stored so; here they are trained in bf16",
    "auto_map": "code in the model's repository is never executed",
    "dual_chunk_attention_config": "servers alone attend so; training sees the whole sequence",
    "partial_rotary_factor": "RoPE over a part of a head costs the same products; the whole head is turned",
    "rope_scaling": "frequencies of RoPE cost nothing: the plain ones are used",
    "vision_config": "the language model alone is counted and trained",
    "audio_config": "the language model alone is counted and trained",
}
_LARGEST = 2**40
_MOST_OF = {"num_layers": 65_536}
"""Of each a shape holds as many things."""


class ConfigReader:
    """Reads options of one config.json into fields of a shape, and remembers which it has seen."""

    def __init__(self, settings: dict[str, Any], where: str) -> None:
        self.fields: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.notes: list[str] = []
        self._settings = settings
        self._where = where
        self._seen: set[str] = set()
        self._defaults: dict[str, int] = {}

    def use_defaults(self, defaults: dict[str, int]) -> None:
        """What the family takes for numbers that the file leaves out."""
        self._defaults = defaults

    def count(self, field: str, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least `least`, put into a field of the shape (`experts.num` is one inside)."""
        value = self._whole(key, self._take(field, key, default), least, _MOST_OF.get(field, _LARGEST))
        return int(self._put(field, value))

    def layers(self, key: str, default: int, least: int = 1) -> int:
        """A number of layers, or experts, that a field is worked out from."""
        return self._whole(key, self.value(key, default), least, _MOST_OF["num_layers"])

    def _whole(self, key: str, value: Any, least: int, most: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            is_large = isinstance(value, int) and value > most
            upper = f", at most {most:,}" if is_large or most != _LARGEST else ""
            raise self.refused(key, f"expected a whole number of at least {least}{upper}")
        return value

    def real(self, field: str, key: str, default: float) -> float:
        """A finite number of at least 0."""
        value = self._take(field, key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise self.refused(key, "expected a number of at least 0")
        return float(self._put(field, float(value)))

    def flag(self, field: str, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(field, key, default)
        if not isinstance(value, bool):
            raise self.refused(key, "expected true or false")
        return bool(self._put(field, value))

    def switch(self, key: str) -> bool:
        """An option that is true, false or left out, which is false."""
        value = self.value(key, False)
        if not isinstance(value, bool):
            raise self.refused(key, "expected true or false")
        return value

    def expect(self, key: str, *allowed: object) -> None:
        """An option that may be left out, or have one of the values that this family is built with."""
        self._seen.add(key)
        value = self._settings.get(key)
        if value is not None and value not in allowed:
            choices = ", ".join(map(repr, allowed))
            raise self.refused(key, f"only {choices} is counted here")

    def ignore(self, key: str, why: str) -> None:
        """An option that is understood and not followed; said where it is on."""
        self._seen.add(key)
        if self._settings.get(key):
            self.notes.append(f"{key}: {why}")

    def value(self, key: str, default: Any = None) -> Any:
        """An option as it is; None stands for the default."""
        self._seen.add(key)
        found = self._settings.get(key)
        return default if found is None else found

    def has(self, key: str) -> bool:
        """Does the file name it at all, were it as null?"""
        return key in self._settings

    def put(self, field: str, value: Any, key: str) -> None:
        """Set a field that was worked out from an option."""
        self._put(field, value)
        self.origins[field] = f"{self._where}: {key}"

    def rope(self, default: float = 10000.0) -> None:
        """The base of the rotary frequencies, by its old or its new name."""
        table = self._settings.get("rope_parameters")
        inner = table.get("rope_theta") if isinstance(table, dict) else None
        if inner is not None and "rope_theta" not in self._settings:
            self._settings = {**self._settings, "rope_theta": inner}
        self.real("rope_theta", "rope_theta", default)

    def window(self, key: str = "sliding_window", on: bool = True, optional: bool = True) -> None:
        """The window of windowed layers, and from `layer_types` which those are."""
        size = self.value(key) if on else None
        self._seen.add(key)
        types = self.value("layer_types")
        if types is not None:
            self._layer_types(types)
        if size is None or (types is not None and "window" not in self.fields.get("layer_pattern", ())):
            return
        self.count("window", key)

    def _layer_types(self, types: Any) -> None:
        if not isinstance(types, list) or len(types) != self.fields["num_layers"]:
            raise self.refused("layer_types", "expected one type for each of num_hidden_layers")
        kinds = [_KIND_OF.get(name) if isinstance(name, str) else None for name in types]
        if None in kinds:
            unknown = next(name for name, kind in zip(types, kinds, strict=True) if kind is None)
            raise self.refused(
                "layer_types", f"{unknown!r} is not understood; {nearest(str(unknown), _KIND_OF)}"
            )
        self.put("layer_pattern", period([kind for kind in kinds if kind is not None]), "layer_types")

    def refused(self, key: str, why: str) -> TgsError:
        """An option that cannot be taken, by its name."""
        value = msgspec.json.encode(self._settings.get(key), enc_hook=repr).decode(errors="replace")
        return TgsError(
            f"{self._where}: {key}={value[:60]}: {why}",
            hint="tgsbench models lists what is known; a TOML file in presets/models can say a shape by hand",
            exit_code=ExitCode.BAD_PRESET,
        )

    def check_rest(self) -> None:
        """Refuse what nobody has read and what may cost something."""
        known = self._seen | _COSTLESS
        for key, value in self._settings.items():
            if key in _NOTED and value and value != 1:
                self.notes.append(f"{key}: {_NOTED[key]}")
            elif key not in known and not _is_off(value):
                near = nearest(key, (name for name in known if not name.startswith("_")))
                also = f"; {near}" if near.startswith("nearest") else ""  # not a dozen unlike it
                raise self.refused(key, f"not understood, and it may change the cost{also}")

    def check_width(self) -> None:
        """Refuse heads that do not divide the hidden size where their width is not said."""
        hidden, heads = self.fields["hidden_size"], self.fields["num_query_heads"]
        is_said = not self.origins["head_dim"].startswith("default")
        is_quotient = not is_said and self.fields["head_dim"] == max(1, hidden // heads)
        if is_quotient and hidden % heads:
            raise self.refused(
                "num_attention_heads", f"they do not divide hidden_size={hidden}, and no head_dim is said"
            )

    def _take(self, field: str, key: str, default: Any) -> Any:
        self._seen.add(key)
        value = self._settings.get(key)
        if value is None:
            default = self._defaults.get(key, default)
            if default is None:
                raise TgsError(f"{self._where}: {key} is missing", exit_code=ExitCode.BAD_PRESET)
            self.origins[field] = f"default of the family: {self._where} has no {key}"
            return default
        self.origins[field] = f"{self._where}: {key}"
        return value

    def _put(self, field: str, value: Any) -> Any:
        table, _, name = field.rpartition(".")
        into = self.fields.setdefault(table, {}) if table else self.fields
        into[name] = value
        return value


_KIND_OF: dict[str, LayerKind] = {name: kind for kind, name in LAYER_TYPES.items()}


def period(kinds: list[LayerKind]) -> tuple[LayerKind, ...]:
    """The shortest pattern that repeated gives these kinds."""
    for size in range(1, len(kinds)):
        if all(kind == kinds[i % size] for i, kind in enumerate(kinds)):
            return tuple(kinds[:size])
    return tuple(kinds)


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {}) or value == 0
