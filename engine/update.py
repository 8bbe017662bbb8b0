"""What changes the weights: the optimizer, the average that follows it, and which parts stay as they are."""

from dataclasses import dataclass

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from errors import ConfigError
from model import last_layer

BODY = "body"  # as a prefix: all but the last layer


@dataclass(frozen=True)
class Update:
    """The fields of Config with these names."""

    opt: str
    lr: float
    weight_decay: float
    ema_epochs: float
    freeze_bn: str


def optimizer(model: torch.nn.Module, update: Update, lr: torch.Tensor) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum 0.9, over what is not frozen; norms and biases are not decayed.

    lr: a tensor, which is read at every step.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    # Decay pulls towards 0, which means nothing for a norm's scale or a bias.
    weights = [p for p in trained if p.ndim > 1]
    others = [p for p in trained if p.ndim <= 1]
    groups = [dict(params=weights, weight_decay=update.weight_decay), dict(params=others, weight_decay=0.0)]
    if update.opt == "sgd":
        made = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True, fused=True)
        for p in trained:  # a first step that is left out for an overflow would leave them uninitialised
            made.state[p]["momentum_buffer"] = torch.zeros_like(p)
    else:
        made = torch.optim.AdamW(groups, lr=lr, fused=True, capturable=lr.is_cuda)
        made._warned_capturable_if_run_uncaptured = True  # no news: a step warms up before its capture
    if lr.device.type == "cpu":
        _step_in_memory_order(made)
    return made


def _step_in_memory_order(made):
    """Turns channels-last tensors to contiguous ones while the optimizer steps: same memory, other dimensions.

    On a CPU torch's fused steps first copy each gradient that is not contiguous, which about doubles their time; and
    they go through memory in order, whatever the dimensions of what lies there.
    """
    turned = []  # (parameter, its data, its gradient)

    def turn(optimizer, *_):
        for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            state = optimizer.state[p]
            maps = [v for v in (p, p.grad, *state.values()) if torch.is_tensor(v) and v.ndim == 4]
            orders = {_is_channels_last(v) for v in maps}
            if len(orders) > 1:  # torch would mix up their numbers without a word
                raise RuntimeError("a weight, its gradient and its optimizer state lie in memory in different orders")
            if orders == {True}:
                turned.append((p, p.data, p.grad))
                p.data, p.grad = p.data.permute(0, 2, 3, 1), p.grad.permute(0, 2, 3, 1)
                _permute(state, (0, 2, 3, 1))

    def turn_back(optimizer, *_):
        for p, data, grad in turned:
            p.data, p.grad = data, grad
            _permute(optimizer.state[p], (0, 3, 1, 2))
        turned.clear()

    made.register_step_pre_hook(turn)
    made.register_step_post_hook(turn_back)


def _is_channels_last(tensor):
    """Whether it is that and nothing else: a 1x1 convolution's weight is contiguous too."""
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def _permute(state, order):
    """Permutes, in a parameter's optimizer state, what has its four dimensions."""
    for name, value in state.items():
        if torch.is_tensor(value) and value.ndim == 4:
            state[name] = value.permute(order)


def freeze(model: torch.nn.Module, prefixes: list[str]) -> None:
    """Keeps the parameters whose names begin with one of `prefixes` as they are. Raises ConfigError for a prefix that
    no parameter has, and where nothing would be left to train."""
    names = [name for name, _ in model.named_parameters()]
    head = last_layer(names)
    for prefix in prefixes:
        if prefix == BODY:
            continue
        if not any(_within(name, prefix) for name in names):
            parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise ConfigError(f"--freeze {prefix}: no parameter begins so; the parts are {parts}, or {BODY}")
    for name, parameter in model.named_parameters():
        in_body = BODY in prefixes and not _within(name, head)
        if in_body or any(_within(name, prefix) for prefix in prefixes):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"--freeze {','.join(prefixes)} leaves nothing to train")


def _within(name, prefix):
    """Whether the parameter `name` is `prefix` or a part of it: layer1 has layer1.0.weight, not layer10.weight."""
    return name == prefix or name.startswith(prefix + ".")


def set_training(model: torch.nn.Module, freeze_bn: str = "keep") -> None:
    """Train mode, but for the batch norms of frozen parts: they keep their statistics.

    freeze_bn: 'adapt' lets these follow the batches, as all others do (Zhong et al. 2021, "shifted batch norm").
    """
    model.train()
    if freeze_bn == "adapt":
        return
    # Statistics that went on would change what the frozen weights compute.
    for module in model.modules():
        frozen = isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad
        if frozen:
            module.eval()


def floating(model: torch.nn.Module) -> list[torch.Tensor]:
    """The floating-point tensors of a model's state: parameters and batch-norm statistics."""
    return [v for v in model.state_dict().values() if v.is_floating_point()]


def lerp(old: list[torch.Tensor], new: list[torch.Tensor], weight: torch.Tensor) -> None:
    """old += weight (new - old), in place; weight: a tensor, so that a recorded step reads it anew."""
    if weight.is_cuda:  # where _foreach_lerp_ launches a kernel for every tensor
        change = torch._foreach_sub(new, old)
        torch._foreach_mul_(change, weight)
        torch._foreach_add_(old, change)
    else:
        torch._foreach_lerp_(old, new, [weight] * len(old))
