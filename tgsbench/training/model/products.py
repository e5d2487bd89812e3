"""Products of a decoder layer's projections outside autograd: in the dtype of their operands, or in FP8."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tgsbench.training.model import cpu_bf16
from tgsbench.training.model.fp8 import Operand, Scaling, multiply


class Products(Protocol):
    """How two matrices are multiplied; a left one that meets several right ones is prepared once."""

    def left(self, a: Tensor) -> Tensor | Operand:
        """`a` [m, k], ready to be multiplied."""
        ...

    def product(self, a: Tensor | Operand, b: Tensor, into: Tensor | None = None) -> Tensor:
        """a · b in the dtype of a; a [m, k], b [k, n] -> [m, n], written to `into` if given."""
        ...

    def biased(self, a: Tensor | Operand, b: Tensor, bias: Tensor | None) -> Tensor:
        """a · b + bias; bias [n], or None where there is none."""
        ...

    def add_product(self, total: Tensor, a: Tensor | Operand, b: Tensor) -> Tensor:
        """total += a · b in place."""
        ...


class PlainProducts:
    """In the dtype of the operands; see `Products`."""

    def left(self, a: Tensor) -> Tensor:
        """`a` itself."""
        return a

    def product(self, a: Tensor | Operand, b: Tensor, into: Tensor | None = None) -> Tensor:
        """One matrix product."""
        assert isinstance(a, Tensor)
        return cpu_bf16.product(a, b, into)

    def biased(self, a: Tensor | Operand, b: Tensor, bias: Tensor | None) -> Tensor:
        """One matrix product, not rounded before the bias is added."""
        assert isinstance(a, Tensor)
        return self.product(a, b) if bias is None else cpu_bf16.biased_product(a, b, bias)

    def add_product(self, total: Tensor, a: Tensor | Operand, b: Tensor) -> Tensor:
        """One matrix product, not rounded before the sum."""
        assert isinstance(a, Tensor)
        return cpu_bf16.add_product(total, a, b)


class Fp8Products:
    """Of operands rounded to FP8, sums in fp32; see `Products`."""

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling

    def left(self, a: Tensor) -> Operand:
        """`a` in FP8 with its scales."""
        return self.scaling.left(a)

    def product(self, a: Tensor | Operand, b: Tensor, into: Tensor | None = None) -> Tensor:
        """A product of two operands in FP8."""
        left = a if isinstance(a, Operand) else self.left(a)
        out = multiply(left, self.scaling.right(b), self.scaling)
        return out if into is None else into.copy_(out)

    def biased(self, a: Tensor | Operand, b: Tensor, bias: Tensor | None) -> Tensor:
        """A product of two operands in FP8, rounded to its dtype before the bias is added."""
        made = self.product(a, b)
        return made if bias is None else made.add_(bias)

    def add_product(self, total: Tensor, a: Tensor | Operand, b: Tensor) -> Tensor:
        """A product of two operands in FP8, rounded to its dtype before the sum."""
        return total.add_(self.product(a, b))


PLAIN = PlainProducts()


class LayerProducts:
    """The products of one layer: of its inputs, and of gradients, which always stand on the left."""

    def __init__(self, of_inputs: Products = PLAIN, of_gradients: Products = PLAIN) -> None:
        self.of_inputs, self.of_gradients = of_inputs, of_gradients

    @property
    def is_plain(self) -> bool:
        """Do they run in the dtype of their operands?"""
        return self.of_inputs is PLAIN


def fp8_products(recipe: str) -> LayerProducts:
    """Products in FP8 of one recipe.

    A scale of a whole tensor must hold a gradient's small values too: e5m2 has the range. Sums on Hopper are
    kept in fewer bits for the forward alone, as torchao does.
    """
    of_gradients = torch.float8_e5m2 if recipe == "tensorwise" else torch.float8_e4m3fn
    return LayerProducts(
        Fp8Products(Scaling(recipe, torch.float8_e4m3fn, is_fast=True)),
        Fp8Products(Scaling(recipe, of_gradients, is_fast=False)),
    )
