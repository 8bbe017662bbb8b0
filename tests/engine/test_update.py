"""Updates of the weights against the same mathematics in float64, written another way."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import augment
from config import Config
from engine.build import build_stepper, plans_of, prepare_pictures
from engine.update import Ascent, Update, optimizer
from model import build_model

SMALL = dict(batch_size=4, amp=False, dropout=0.3, opt="sgd", lr=0.01, weight_decay=0.05, ls=0.1, mixup_p=0.5)


def made(settings, **more):
    """A Stepper of a small run, and its first plan."""
    config = Config(**settings | SMALL | more)
    pictures = prepare_pictures(config)
    stepper, _ = build_stepper(config, pictures, torch.device("cpu"))
    plan = plans_of(config, pictures)[0](0)
    stepper.begin(plan)
    return stepper, plan, config


def in_double(stepper, config):
    stepper.model.double()
    stepper.optimizer = optimizer(stepper.model, config.group(Update), stepper.lr)
    stepper.ascent = Ascent(stepper.model, config.sam)
    stepper.losses = stepper.losses.double()


def steps_by_hand(model, inputs, targets, plan, config):
    """(parameters, buffers) after a step for each of `inputs`: SAM, then SGD with Nesterov momentum."""
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    buffers = {name: v.clone() for name, v in model.named_buffers()}
    momentum = dict.fromkeys(weights, 0.0)
    smoothing = float(np.float32(config.ls))

    def gradient(at, statistics, t):
        at = {name: value.clone().requires_grad_() for name, value in at.items()}
        logits = torch.func.functional_call(model, at | statistics, (inputs[t],))
        own, other = (F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing) for y in targets[t])
        lam = torch.from_numpy(plan.lam[t])
        mean = (lam * own + (1 - lam) * other).mean()  # weights in float32, as a plan has them
        return dict(zip(at, torch.autograd.grad(mean, list(at.values()))))

    for t in range(len(inputs)):
        buffers["key"] = torch.tensor(plan.key[t])
        first = gradient(weights, buffers, t)  # which moves the statistics
        unused = {name: v.clone() for name, v in buffers.items()}
        length = sum(float((g**2).sum()) for g in first.values()) ** 0.5
        above = {name: w + config.sam / length * first[name] for name, w in weights.items()}
        second = gradient(above, unused, t)
        for name, w in weights.items():
            g = second[name] + (config.weight_decay * w if w.ndim > 1 else 0)
            momentum[name] = 0.9 * momentum[name] + g
            weights[name] = w - float(plan.lr[t]) * (g + 0.9 * momentum[name])
        assert sum(float((second[n] - first[n]).norm()) for n in first) > 0.1 * length, "SAM would change nothing"
    return weights, buffers


def test_sam_is_that_of_its_formula(settings, monkeypatch):
    """Same pictures and dropout in both passes, statistics of the first, one step after another."""
    stepper, plan, config = made(settings, sam=0.5)
    in_double(stepper, config)
    batch, inputs = augment.batch, []
    monkeypatch.setattr(augment, "batch", lambda *a, **k: inputs.append(batch(*a, **k).double()) or inputs[-1])
    labels = stepper.labels.long()
    targets = [[labels[torch.from_numpy(rows[t]).long()] for rows in (plan.index, plan.partner)] for t in range(3)]
    before = {name: v.clone() for name, v in stepper.model.state_dict().items()}
    for t in range(3):
        stepper.train(t)
    after = {name: v.clone() for name, v in stepper.model.state_dict().items()}
    stepper.model.load_state_dict(before)
    weights, buffers = steps_by_hand(stepper.model.train(), inputs, targets, plan, config)
    assert (plan.lam[:3] < 1).any()
    for name, value in (weights | buffers).items():
        if name != "key":
            torch.testing.assert_close(after[name], value, rtol=1e-8, atol=1e-10)


def test_sam_leaves_no_trace_but_its_gradients(settings):
    """Without an update: weights as they were, statistics as after one pass, bit for bit."""
    (plain, *_), (sam, *_) = made(settings), made(settings, sam=0.5)
    for stepper in (plain, sam):
        stepper.update = lambda row: None
        stepper.train(0)
    one, other = plain.model.state_dict(), sam.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(plain.losses, sam.losses) and torch.equal(plain.right, sam.right)
    pairs = zip(plain.model.parameters(), sam.model.parameters())
    assert all(float((p.grad - q.grad).norm()) > 1e-3 * float(p.grad.norm()) for p, q in pairs)


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


def test_sam_climbs_the_trained_weights_alone():
    """A frozen part neither moves nor counts in the norm; a gradient of 0 moves nothing."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    net[0].requires_grad_(False)
    before = [p.detach().clone() for p in net.parameters()]
    ascent = Ascent(net, 5.0)
    net[1].weight.grad = torch.tensor([[3.0, 0.0]])
    net[1].bias.grad = torch.tensor([4.0])
    ascent.climb()
    moved = [p.detach() - q for p, q in zip(net.parameters(), before)]
    assert all(not m.any() for m in moved[:2])
    torch.testing.assert_close(moved[2], torch.tensor([[3.0, 0.0]]))
    torch.testing.assert_close(moved[3], torch.tensor([4.0]))
    ascent.back()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before))
    for p in net[1].parameters():
        p.grad.zero_()
    ascent.climb()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before))
