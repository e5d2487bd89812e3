"""Families whose MLPs are mixtures of experts: the router's products, the experts that a token meets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tgsbench.models.decoder import Decoder
from tgsbench.models.family import LayerGroup, Weight, expert_weights
from tgsbench.schema.model import Experts

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import LayerKind, ModelShape


class MixtureDecoder(Decoder):
    """A decoder with experts in every layer, or in all but the first few."""

    tables: tuple[str, ...] = ("experts",)
    runs_last_again = True
    """The experts' results are needed again for the gradient of the router's weights."""

    def mlp(self, shape: ModelShape) -> tuple[Weight, ...]:
        """Router, experts, and the shared MLP."""
        return expert_weights(shape)

    def between(self, shape: ModelShape) -> int:
        """Of the experts that a token is sent to, and of the shared MLP."""
        experts = experts_of(shape)
        return experts.used * experts.intermediate_size + experts.shared_intermediate_size

    def layers(self, shape: ModelShape) -> tuple[LayerGroup, ...]:
        """Dense layers first, then those with experts by kind."""
        dense = experts_of(shape).dense_first
        kinds = self.pattern(shape)
        first = [replace(self.dense_layer(shape, kinds[0]), num=dense)] if dense else []
        rest = kinds[dense:]
        return (
            *first,
            *(replace(self.layer(shape, kind), num=rest.count(kind)) for kind in dict.fromkeys(rest)),
        )

    def dense_layer(self, shape: ModelShape, kind: LayerKind) -> LayerGroup:
        """One of the layers that keep a dense MLP."""
        group = self.layer(shape, kind)
        return replace(
            group,
            mlp=Decoder.mlp(self, shape),
            between=shape.intermediate_size,
            vectors=self.vectors(shape),
            expert_vectors=(),
            runs_last_again=False,
        )

    def router_vectors(self, shape: ModelShape) -> tuple[int, ...]:
        """Lengths of a router's biases."""
        return ()

    def layer(self, shape: ModelShape, kind: LayerKind) -> LayerGroup:
        """One layer with experts."""
        group = super().layer(shape, kind)
        return replace(group, vectors=group.vectors + self.router_vectors(shape))

    def problems(self, shape: ModelShape) -> list[str]:
        """More experts used than there are, or no layer left for them."""
        found = super().problems(shape)
        if (e := shape.experts) is None:
            return found
        if e.num > _MOST_EXPERTS:
            found.append(f"model.experts.num={e.num}: at most {_MOST_EXPERTS:,}")
        if not 1 <= e.used <= e.num:
            found.append(f"model.experts.used={e.used}: must be 1 to model.experts.num={e.num}")
        if not 0 <= e.dense_first < shape.num_layers:
            found.append(
                f"model.experts.dense_first={e.dense_first}: of {shape.num_layers} layers one needs experts"
            )
        if e.intermediate_size < 1 or e.shared_intermediate_size < 0:
            found.append("model.experts.intermediate_size: must be at least 1")
        if not 1 <= e.used_groups <= e.groups or e.num % max(1, e.groups):
            found.append(
                f"model.experts.groups={e.groups}: must divide {e.num} experts, and hold used_groups"
            )
        return found


_MOST_EXPERTS = 65_536


def experts_of(shape: ModelShape) -> Experts:
    """The experts, which `problems` has made sure of."""
    assert shape.experts is not None, shape.name
    return shape.experts


def read_experts(config: ConfigReader, num: str, width: str) -> None:
    """How many there are, how many a token meets, and how wide one is."""
    config.count("experts.num", num)
    config.count("experts.used", "num_experts_per_tok")
    config.count("experts.intermediate_size", width)


def grouped_config(experts: Experts) -> dict[str, Any]:
    """What `read_groups` reads of a config.json."""
    return {
        "n_routed_experts": experts.num,
        "num_experts_per_tok": experts.used,
        "moe_intermediate_size": experts.intermediate_size,
        "n_shared_experts": experts.shared_intermediate_size // experts.intermediate_size,
        "first_k_dense_replace": experts.dense_first,
        "norm_topk_prob": experts.normalised,
        "n_group": experts.groups,
        "topk_group": experts.used_groups,
        "routed_scaling_factor": experts.scale,
    }


def read_groups(config: ConfigReader, num: str) -> None:
    """Routing by sigmoid in groups, dense layers first and shared experts, as DeepSeek V3 names them."""
    read_shared(config, num)
    config.flag("experts.normalised", "norm_topk_prob", True)
    config.count("experts.groups", "n_group", 1)
    config.count("experts.used_groups", "topk_group", 1)
    config.expect("topk_method", "noaux_tc")
    config.expect("scoring_func", "sigmoid")
    for modules in ("num_nextn_predict_layers", "num_mtp_layers"):
        config.ignore(modules, "MTP is not trained; --set model.mtp_layers=1 counts it")


def read_shared(config: ConfigReader, num: str) -> None:
    """Dense layers first, routed and shared experts in the others, by DeepSeek's names."""
    read_experts(config, num, "moe_intermediate_size")
    width = config.fields["experts"]["intermediate_size"]
    shared = config.layers("n_shared_experts", 1, least=0)
    config.put("experts.shared_intermediate_size", shared * width, "n_shared_experts")
    config.count("experts.dense_first", "first_k_dense_replace", 0, least=0)
    config.real("experts.scale", "routed_scaling_factor", 1.0)
    config.expect("moe_layer_freq", 1)
