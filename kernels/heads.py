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


HEADS = dict(linear=nn.Linear, cosine=CosineHead)
