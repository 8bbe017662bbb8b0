"""Small maps as matrix products, beside torch's own convolution in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kernels.convolution import Convolution, replace_convolutions, use_products
from model import build_model

CL = torch.channels_last


def pair(*args, products=64, layout=CL, dtype=torch.float64, **options):
    """A convolution of torch and ours, which takes products, with the same weights."""
    torch.manual_seed(0)
    theirs = nn.Conv2d(*args, **options)
    ours = Convolution(*args, **options)
    ours.load_state_dict(theirs.state_dict())
    ours.products = products
    return theirs.to(dtype=dtype, memory_format=layout), ours.to(dtype=dtype, memory_format=layout)


def both(convolutions, x, upstream_seed=1):
    """Output and gradients (of x, weight, bias) of each."""
    found = []
    for convolution in convolutions:
        x = x.detach().requires_grad_()
        out = convolution(x)
        generator = torch.Generator().manual_seed(upstream_seed)
        out.backward(torch.randn(out.shape, generator=generator, dtype=out.dtype))
        grads = [parameter.grad for parameter in convolution.parameters()]
        found.append([out, x.grad, *grads])
    return found


@pytest.mark.parametrize("layout", [CL, torch.contiguous_format])
@pytest.mark.parametrize(
    "kernel, stride, padding",
    [(3, 1, 1), (3, 2, 1), (3, 3, 0), ((1, 3), 1, (0, 1)), ((5, 2), (2, 1), (2, 3)), (2, 2, 0), (3, 4, 2), (2, 1, 2)],
)
@pytest.mark.parametrize("height, width", [(1, 1), (2, 2), (4, 4), (3, 7), (5, 2)])
def test_products_are_the_convolution(kernel, stride, padding, height, width, layout):
    x = torch.randn(3, 5, height, width, dtype=torch.float64).contiguous(memory_format=layout)
    theirs, ours = pair(5, 7, kernel, stride, padding, layout=layout)
    try:
        theirs(x)
    except RuntimeError:  # the kernel is larger than the map: neither has an output
        with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
            ours(x)
        return
    for wanted, found in zip(*both((theirs, ours), x)):
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_batch_of_no_pictures_is_what_torch_makes_of_it():
    x = torch.randn(0, 5, 2, 2, dtype=torch.float64)
    for wanted, found in zip(*both(pair(5, 7, 3, 1, 1), x)):
        assert found.shape == wanted.shape and torch.equal(found, wanted)


def test_gradients_agree_with_differences():
    _, ours = pair(3, 4, 3, 2, 1, bias=False)
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ours(x), x)
    weight = ours.weight.detach().clone().requires_grad_()
    run = lambda w: torch.func.functional_call(ours, {"weight": w}, (x.detach(),))  # noqa: E731
    assert torch.autograd.gradcheck(run, weight)


def test_only_what_needs_a_gradient_gets_one():
    _, ours = pair(3, 4, 3, 1, 1, bias=False)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    ours(x).sum().backward()
    assert ours.weight.grad is not None and x.grad is None
    ours.weight.grad, x.requires_grad = None, True
    ours.weight.requires_grad_(False)
    ours(x).sum().backward()
    assert ours.weight.grad is None and x.grad is not None


@pytest.mark.parametrize("layout", [CL, torch.contiguous_format])
@pytest.mark.parametrize("side", [2, 4])  # the gradient of x comes from patches of x, and from those of the output
def test_float32_and_bfloat16_round_as_convolutions_do(layout, side):
    """Errors beside float64, as shares of its norm: no more than torch's own, or a few roundings."""
    x = torch.randn(8, 64, side, side)
    exact, _ = both(pair(64, 64, 3, 1, 1, bias=False), x.double())
    for dtype, few in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        convolutions = pair(64, 64, 3, 1, 1, bias=False, layout=layout, dtype=torch.float32)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            found = [convolution(x) for convolution in convolutions]
        assert found[0].dtype == found[1].dtype == dtype
        pictures = both(
            [Autocast(convolution, dtype) for convolution in convolutions], x.contiguous(memory_format=layout)
        )
        for wanted, theirs, ours in zip(exact, *pictures):
            assert ours.dtype == theirs.dtype
            error = ((ours.double() - wanted).norm() / wanted.norm()).item()
            assert error <= max(2 * ((theirs.double() - wanted).norm() / wanted.norm()).item(), few)
        # As the optimizer has it: no copy is made of it there.
        assert convolutions[1].weight.grad.is_contiguous(memory_format=layout) or layout != CL


class Autocast(nn.Module):
    def __init__(self, inner, dtype):
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, x):
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            return self.inner(x)


def product_was_taken(convolution, x):
    return type(convolution(x).grad_fn).__name__ == "_ProductBackward"


def test_what_is_no_plain_product_stays_a_convolution():
    x = torch.randn(2, 4, 4, 4)
    assert product_was_taken(pair(4, 4, 3, padding=1, bias=False, dtype=torch.float32)[1], x)
    for options in (
        dict(kernel_size=1),
        dict(kernel_size=3, groups=2),
        dict(kernel_size=2, dilation=2),
        dict(kernel_size=3, padding="same"),
        dict(kernel_size=3, padding=1, padding_mode="reflect"),
        dict(kernel_size=3, padding=1, products=3),  # the map is larger
        dict(kernel_size=3, padding=1, products=0),
    ):
        theirs, ours = pair(4, 4, bias=False, dtype=torch.float32, **options)
        assert not product_was_taken(ours, x), options
        assert torch.equal(ours(x), theirs(x)), options


def test_a_network_with_products_is_the_same_network():
    torch.manual_seed(1)
    plain = build_model("resnet18", 4, width=0.125, stem_kernel=3).double()
    products = copy.deepcopy(plain)
    use_products(products, 4)
    seen = []
    for module in products.modules():
        if isinstance(module, Convolution):
            module.register_forward_hook(lambda m, x, y: seen.append(type(y.grad_fn).__name__))
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 3])
    for model in (plain, products):
        F.cross_entropy(model(x), targets).backward()
    assert seen.count("_ProductBackward") == 8  # those of the last two stages but for their 1x1 shortcuts
    for (name, wanted), (_, found) in zip(plain.named_parameters(), products.named_parameters()):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-9, atol=1e-12, msg=name)
    assert list(plain.state_dict()) == list(products.state_dict())


def test_convolutions_of_others_are_replaced_in_place():
    class Special(nn.Conv2d):
        pass

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(Special(4, 4, 3), nn.Conv2d(4, 2, 1)))
    weights = [id(parameter) for parameter in model.parameters()]
    replace_convolutions(model)
    kinds = [type(module) for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert kinds == [Convolution, Special, Convolution]
    assert [id(parameter) for parameter in model.parameters()] == weights
