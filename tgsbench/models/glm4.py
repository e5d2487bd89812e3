"""GLM-4 of 2025 (0414): GLM with norms behind attention and MLP, too."""

from __future__ import annotations

from tgsbench.models.glm import Glm


class Glm4(Glm):
    """See `family.ModelFamily`."""

    name = "glm4"
    torch_module = "tgsbench.training.model.glm4"
    model_types = ("glm4",)
    architecture = "Glm4ForCausalLM"
    norms_per_layer = 4
    runs_last_again = True
    """The norm behind the MLP keeps the result of its last product."""


FAMILY = Glm4()
