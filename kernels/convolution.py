"""A convolution of small maps as a matrix product, for CPUs; everywhere else it is torch's own.

On a map of 2x2 pixels a 3x3 convolution has few places and many weights, for which oneDNN has no good code: 512
channels and 32 rows take it 2 to 8 times as long, forward and backward, as the matrix product that they are. With the
patches [B P, KH KW C] of P output places as rows,

    out = patches weight^T,    d weight = d out^T patches,    d patches = d out weight,

and the gradient of x is each patch's added to where it was taken from; of stride 1 it is a convolution itself, which is
computed as one. Reads B P KH KW C numbers more than it must: on large maps that costs more than it gains.
bench/small_maps.py times both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Convolution(nn.Conv2d):
    """nn.Conv2d, whose output maps of up to `products` pixels a side are matrix products on a CPU.

    0, the default, leaves it as it is; so do groups, dilation, 1x1 kernels and borders that are not zero.
    """

    products = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.products or x.device.type != "cpu" or x.ndim != 4 or not self.may_be_product():
            return super().forward(x)
        _, rows, columns = self.output_shape(x)
        # Of a large map copying patches would cost more than it gains; of no picture, or no place, there are none.
        if max(rows, columns) > self.products or min(len(x), rows, columns) < 1:
            return super().forward(x)
        out = _Product.apply(_as_autocast(x), self.weight, self.stride, self.padding)
        if self.bias is None:
            return out
        bias = self.bias.to(out.dtype)
        return out + bias[:, None, None]

    def may_be_product(self) -> bool:
        """Whether its settings are such that the sums are those of one matrix product."""
        plain = self.groups == 1 and self.dilation == (1, 1)
        black = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        return plain and black and self.kernel_size != (1, 1)

    def output_shape(self, x: Tensor) -> tuple[int, int, int]:
        """(channels, rows, columns) of the output for x [B,C,H,W]."""
        sizes = []
        for side, kernel, stride, pad in zip(x.shape[2:], self.kernel_size, self.stride, self.padding):
            room = side + 2 * pad - kernel
            sizes.append(room // stride + 1)
        return self.out_channels, *sizes


def use_products(model: nn.Module, products: int) -> None:
    """Sets `products` of every Convolution in `model`."""
    for module in model.modules():
        if isinstance(module, Convolution):
            module.products = products


def replace_convolutions(model: nn.Module) -> None:
    """Makes each nn.Conv2d in `model` a Convolution, with the parameters and the hooks that it has."""
    for module in model.modules():
        if type(module) is nn.Conv2d:  # not those of other classes, which may do more
            module.__class__ = Convolution


class _Product(torch.autograd.Function):
    """x [B,C,H,W], weight [O,C,KH,KW] -> [B,O,R,S], in the memory order [B,R,S,O]."""

    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.shape, ctx.stride, ctx.padding = x.shape, stride, padding
        ctx.weight_shape, ctx.weight_dtype = weight.shape, weight.dtype
        patches = _patches(x, weight.shape[2:], stride, padding)
        batch, rows, columns = patches.shape[:3]
        patches = patches.reshape(batch * rows * columns, -1)  # here they are copied, once for both directions
        # The weight is kept in float32 and computes in the dtype of x, which in backward no autocast would see to.
        matrix = _as_matrix(weight).to(x.dtype)
        ctx.save_for_backward(patches, matrix)
        out = patches @ matrix.t()
        return out.view(batch, rows, columns, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        patches, matrix = ctx.saved_tensors
        outputs, channels, *kernel = ctx.weight_shape
        upstream = upstream.permute(0, 2, 3, 1)
        rows = upstream.reshape(-1, outputs)  # a row an output place, as the patches have
        d_x = d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = rows.t() @ patches
            d_weight = d_weight.view(outputs, *kernel, channels).permute(0, 3, 1, 2)
            d_weight = d_weight.to(ctx.weight_dtype)
        if ctx.needs_input_grad[0]:
            weight = matrix.view(outputs, *kernel, channels)
            d_x = _d_input(upstream, weight, ctx.shape, ctx.stride, ctx.padding)
        return d_x, d_weight, None, None


def _d_input(upstream, weight, shape, stride, padding):
    """The gradient of x, [B,C,H,W], from that of the output, [B,R,S,O], and the weight, [O,KH,KW,C]."""
    outputs, *kernel, channels = weight.shape
    border = [side - 1 - pad for side, pad in zip(kernel, padding)]
    places = upstream.numel() // outputs
    is_convolution = stride == (1, 1) and min(border) >= 0
    # Turning the weight around copies it: a loss for 512 outputs at 128 places (2 px), a gain from 288 on (3 px).
    if is_convolution and 2 * places > outputs:
        return _turned_around(upstream, weight, shape, border)
    rows = upstream.reshape(-1, outputs)
    d_patches = rows @ weight.reshape(outputs, -1)
    d_patches = d_patches.view(*upstream.shape[:3], *kernel, channels)
    return _gathered(d_patches, shape, stride, padding)


def _turned_around(upstream, weight, shape, border):
    """`_d_input` of stride 1: a pixel was in the patches around it, so its gradient is a convolution of theirs, with
    the weight turned around."""
    batch, channels, height, width = shape
    maps = upstream.permute(0, 3, 1, 2)
    patches = _patches(maps, weight.shape[1:3], (1, 1), border)
    patches = patches.reshape(batch * height * width, -1)
    cells = weight.flatten(1, 2).unbind(1)
    d_x = patches @ torch.cat(cells[::-1])
    d_x = d_x.view(batch, height, width, channels)
    return d_x.permute(0, 3, 1, 2)


def _as_autocast(x):
    """x in the dtype that autocast has convolutions compute in, where it is on."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def _as_matrix(weight):
    """[O, KH KW C]: of a channels-last weight it is the memory itself."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _patches(x, kernel, stride, padding):
    """What each place of the output sees, [B,R,S,KH,KW,C]: a view of x with its border."""
    (height, width), (down, right), (top, left) = kernel, stride, padding
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))  # pads the last dimension first
    batch, rows, columns, channels = x.shape
    rows = (rows - height) // down + 1
    columns = (columns - width) // right + 1
    # Neighbouring patches overlap: the same numbers are seen from several places, and none is copied yet.
    of_row, of_line, of_pixel, of_channel = x.stride()
    shape = (batch, rows, columns, height, width, channels)
    strides = (of_row, down * of_line, right * of_pixel, of_line, of_pixel, of_channel)
    return x.as_strided(shape, strides)


def _gathered(patches, shape, stride, padding):
    """[B,C,H,W]: the sum of all patches [B,R,S,KH,KW,C], each where `_patches` took it from."""
    batch, channels, height, width = shape
    (down, right), (top, left) = stride, padding
    rows, columns, kernel_height, kernel_width = patches.shape[1:5]
    bordered = (height + 2 * top, width + 2 * left)
    total = patches.new_zeros(batch, *bordered, channels)
    for y in range(kernel_height):
        for x in range(kernel_width):
            # The places of all patches that their cell (y, x) came from, of which no two are the same.
            lines = slice(y, y + down * (rows - 1) + 1, down)
            pixels = slice(x, x + right * (columns - 1) + 1, right)
            total[:, lines, pixels] += patches[:, :, :, y, x]
    return total[:, top : top + height, left : left + width].permute(0, 3, 1, 2)
