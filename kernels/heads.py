"""Last layers of a network: features [B, inputs] in, logits [B, classes] out, in plain PyTorch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

COSINE_SCALE = 30.0  # as LDAM's authors have it


class CosineHead(nn.Module):
    """Cosines of the features and of each class's weights, times COSINE_SCALE (Wang et al. 2018, arXiv:1801.05599)."""

    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, inputs) / math.sqrt(inputs))

    def forward(self, x: Tensor) -> Tensor:
        cosines = F.linear(F.normalize(x), F.normalize(self.weight))
        return COSINE_SCALE * cosines


class SpectralHead(nn.Linear):
    """A linear layer, its weights W divided by their largest singular value (Miyato et al. 2018, arXiv:1802.05957).

    `left` is the singular vector of it, which a power iteration a step keeps up with W. The parametrization that torch
    has for this gives every network a class of its own, which would be compiled anew.
    """

    def __init__(self, inputs: int, classes: int):
        super().__init__(inputs, classes)
        self.register_buffer("left", F.normalize(torch.randn(classes), dim=0))
        for _ in range(15):
            self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        """A power iteration."""
        right = F.normalize(self._down(self.left), dim=0)
        self.left.copy_(F.normalize((self.weight * right).sum(1), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.follow()
        # The average of unit vectors, by which averaged weights are evaluated, is shorter than 1.
        largest = torch.linalg.vector_norm(self._down(F.normalize(self.left, dim=0)))
        return F.linear(x, self.weight / largest, self.bias)

    def _down(self, left):
        """W^T left. No product of matrices: autocast would round it to bfloat16's three digits."""
        return (self.weight * left[:, None]).sum(0)


HEADS = dict(linear=nn.Linear, cosine=CosineHead, spectral=SpectralHead)
