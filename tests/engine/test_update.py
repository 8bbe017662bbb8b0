"""Updates of the weights against the same mathematics in float64, written another way."""

import copy

import pytest
import torch

from config import Config
from engine.update import Update, optimizer
from model import build_model


@pytest.mark.parametrize("opt, times", [("adamw", 1.0), ("sgd", 1.9)])
def test_decay_is_of_weights_alone(opt, times):
    """Where all gradients are 0, a step takes lr times decay off the weights; Nesterov's first step 1 + 0.9 times."""
    model = build_model("resnet18", 3, width=0.125)
    update = Config(opt=opt, weight_decay=0.1).group(Update)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer(model, update, torch.tensor(0.01)).step()
    for name, p in model.named_parameters():
        decay = 0.1 * (p.ndim > 1)
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.01 * times * decay), rtol=1e-6, atol=0)


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_a_step_is_the_same_however_the_weights_lie_in_memory(opt):
    """Channels-last weights, which the optimizer sees turned, beside contiguous ones: bit for bit, state too."""
    update = Config(opt=opt, weight_decay=0.1).group(Update)
    models = [build_model("resnet18", 3, width=0.125).to(memory_format=torch.channels_last)]
    models.append(copy.deepcopy(models[0]).to(memory_format=torch.contiguous_format))
    steppers = [optimizer(model, update, torch.tensor(0.01)) for model in models]
    shapes = [(p.shape, p.stride(), p.data_ptr()) for p in models[0].parameters()]
    for k in range(3):
        generator = torch.Generator().manual_seed(k)
        for a, b in zip(*(model.parameters() for model in models)):
            b.grad = torch.randn(b.shape, generator=generator)
            a.grad = torch.empty_like(a).copy_(b.grad)
        models[0].conv1.weight.grad = models[1].conv1.weight.grad = None  # as of a part that no row used
        kept = [p.grad for p in models[0].parameters()]
        for stepper in steppers:
            stepper.step()
        assert all(p.grad is g for p, g in zip(models[0].parameters(), kept))
    assert [(p.shape, p.stride(), p.data_ptr()) for p in models[0].parameters()] == shapes
    for a, b in zip(*(model.parameters() for model in models)):
        assert torch.equal(a, b)
        states = [stepper.state.get(p, {}) for stepper, p in zip(steppers, (a, b))]
        for x, y in zip(*(state.values() for state in states)):
            assert torch.equal(x, y) and (x.ndim < 4 or x.stride() == a.stride())
    # What a resume loads, a state of the weights' shapes, goes on as if nothing had been.
    for stepper in steppers:
        stepper.load_state_dict(copy.deepcopy(stepper.state_dict()))
        stepper.step()
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in models)))
