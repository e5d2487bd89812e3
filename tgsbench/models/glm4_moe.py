"""GLM-4.5 to 4.7: grouped-query attention with a bias, dense layers first, then routed and shared experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tgsbench.models.decoder import whole_rope
from tgsbench.models.experts import MixtureDecoder, experts_of, grouped_config, read_groups

if TYPE_CHECKING:
    from tgsbench.models.config_reader import ConfigReader
    from tgsbench.schema.model import ModelShape


class Glm4Moe(MixtureDecoder):
    """See `family.ModelFamily`. The large ones normalise queries and keys, the Air ones do not."""

    name = "glm4_moe"
    torch_module = "tgsbench.training.model.glm4_moe"
    model_types = ("glm4_moe",)
    architecture = "Glm4MoeForCausalLM"
    qk_norm = None
    runs_last_again = False
    """The shared expert's last product ends the layer."""

    def biases(self, shape: ModelShape) -> tuple[int, ...]:
        """Of q, k and v, where the shape has them."""
        return self.qkv_biases(shape) * shape.attention_bias

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        """Glm4MoeForCausalLM's config.json; all of a head is turned, not a half of it."""
        return super().config(shape, seq_len) | {
            "attention_bias": shape.attention_bias,
            "use_qk_norm": self.has_qk_norm(shape),
            "rope_parameters": whole_rope(shape),
            **grouped_config(experts_of(shape)),
            "num_mtp_layers": 0,
        }

    def read_config(self, config: ConfigReader) -> None:
        """MTP modules are an option of the shape, off: transformers trains none."""
        super().read_config(config)
        config.flag("attention_bias", "attention_bias", False)
        config.flag("qk_norm", "use_qk_norm", False)
        read_groups(config, "n_routed_experts")


FAMILY = Glm4Moe()
