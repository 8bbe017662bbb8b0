"""Networks against torchvision's, their parameter counts, and dropout against a hash in pure Python."""

import copy
import hashlib
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import model
from config import Config
from engine.build import build_network
from errors import LongtailError
from kernels.dropout import counter_hash
from model import build_model


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pictures(rows=3, size=64):
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(1))


# ---- ResNet-18 and torchvision's


def test_resnet18_is_torchvisions(torchvision):
    ours, theirs = build_model("resnet18", 50, dropout=0.5), torchvision.models.resnet18(num_classes=50)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    ours.dropout.p = 0.0
    for mode in (False, True, False):  # eval, train (batch statistics), eval with the running statistics of that pass
        ours.train(mode), theirs.train(mode)
        assert torch.allclose(ours(pictures()), theirs(pictures()), rtol=0, atol=1e-5)
    for mine, other in zip(ours.state_dict().values(), theirs.state_dict().values()):
        assert torch.allclose(mine, other, rtol=0, atol=1e-6)


def test_resnet18_gradients_are_torchvisions(torchvision):
    ours, theirs = build_model("resnet18", 7), torchvision.models.resnet18(num_classes=7)
    theirs.load_state_dict(ours.state_dict())
    for network in (ours, theirs):
        network.eval()(pictures(1, 32)).square().sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters()):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-3, atol=1e-4 * float(other.grad.abs().max()))


def test_one_seed_initialises_resnet18_as_torchvision_does(torchvision):
    torch.manual_seed(5)
    ours = build_model("resnet18", 50).state_dict()
    torch.manual_seed(5)
    theirs = torchvision.models.resnet18(num_classes=50).state_dict()
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


@pytest.mark.parametrize("width", [0.25, 0.3, 1.2])
def test_width_multiplies_channels(width):
    network = build_model("resnet18", 5, width=width)
    channels = [getattr(network, f"layer{i}")[1].conv2.out_channels for i in (1, 2, 3, 4)]
    assert all(c % 8 == 0 and abs(c - base * width) <= 4 for c, base in zip(channels, (64, 128, 256, 512)))
    assert network.conv1.out_channels == channels[0] and network.fc.in_features == channels[3]
    assert network(pictures(2)).shape == (2, 5)


def test_a_sliver_of_width_keeps_eight_channels():
    assert build_model("resnet32", 5, width=0.01).conv1.out_channels == 8


@torch.no_grad()
@pytest.mark.parametrize(
    "options, kernel, side",
    [
        ({}, 7, 2),
        ({"stem_kernel": 7}, 7, 2),
        ({"stem_kernel": 5}, 5, 2),
        ({"stem_kernel": 3}, 3, 2),
        ({"stem": "cifar"}, 3, 8),
        ({"stem": "cifar", "stem_kernel": 3}, 3, 8),
    ],
)
def test_stems(options, kernel, side):
    network = build_model("resnet18", 5, width=0.25, **options)
    assert network.conv1.kernel_size == (kernel, kernel)
    seen = []
    network.layer4.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert network(pictures(2, 64)).shape == (2, 5)
    assert seen[0] == (2, 128, side, side)


# ---- the CIFAR ResNet-32


def test_resnet32_is_the_one_of_the_paper():
    network = build_model("resnet32", 10)
    assert sum(p.numel() for p in network.parameters()) == 464_154  # 0.46 M in table 6 of He et al.
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == 32 and all(m.kernel_size == (3, 3) for m in convolutions)
    seen = {}
    for name in ("conv1", "layer1", "layer2", "layer3"):
        layer = getattr(network, name)
        layer.register_forward_hook(lambda m, i, output, name=name: seen.update({name: output.shape[1:]}))
    assert network(pictures(2, 32)).shape == (2, 10)
    assert seen == {"conv1": (16, 32, 32), "layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8)}


def test_resnet32_shortcuts_subsample_and_pad():
    """With the second norm's scale at 0 a block is its shortcut."""
    block = build_model("resnet32", 10).layer2[0]
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 8, 8)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


def test_convolutions_start_with_kaimings_spread():
    for network in (build_model("resnet18", 10), build_model("resnet32", 10)):
        for m in network.modules():
            if isinstance(m, nn.Conv2d) and m.weight.numel() > 9000:
                spread = math.sqrt(2 / (m.out_channels * m.kernel_size[0] ** 2))
                assert m.weight.std().item() == pytest.approx(spread, rel=0.03)
                assert abs(m.weight.mean().item()) < 0.05 * spread


@pytest.mark.parametrize("name", ["resnet18", "resnet32"])
@torch.no_grad()
def test_channels_last_changes_nothing(name):
    network = build_model(name, 10, width=0.5, dropout=0.5)
    network.key.fill_(3)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    x = pictures(4, 32)
    y = last(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(network(x), y, rtol=1e-4, atol=1e-4)


# ---- dropout


def mix(x):
    """SplitMix64's output for state x, in Python's integers."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def bits(key, layer, row, unit):
    state = mix(key % 2**64)
    for part in (layer, row, unit):
        state = mix((state + part) % 2**64)
    return state >> 32


def hashed(key=0, layer=0, rows=512, units=512):
    return counter_hash(torch.tensor(key), layer, rows, units)


def masks(p=0.5, **kw):
    return (hashed(**kw) >= round(p * 2**32)).double()


def test_mix_is_splitmix64():
    # The first three outputs of the published generator from seed 1234567.
    golden = 0x9E3779B97F4A7C15
    assert [mix((1234567 + i * golden) % 2**64) for i in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@pytest.mark.parametrize("key", [0, 1, 12345, 2**63 - 1, -1, -(2**63)])
def test_hash_equals_the_one_in_python(key):
    for layer in (0, 3):
        assert hashed(key, layer, 5, 9).tolist() == [[bits(key, layer, i, j) for j in range(9)] for i in range(5)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_hash_is_the_same_on_a_gpu():
    assert torch.equal(counter_hash(torch.tensor(-7).cuda(), 2, 300, 1000).cpu(), hashed(-7, 2, 300, 1000))


def test_hash_is_uniform():
    for shift in (0, 8, 16, 24):  # chi-square over each byte: 255 degrees of freedom, five standard deviations
        counts = torch.bincount((hashed(key=9) >> shift & 255).flatten(), minlength=256).double()
        expected = 512 * 512 / 256
        assert abs(((counts - expected) ** 2 / expected).sum().item() - 255) < 5 * math.sqrt(2 * 255)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_keep_rate(p):
    rate = masks(p, key=4)
    assert rate.mean().item() == pytest.approx(1 - p, abs=4 * math.sqrt(p * (1 - p) / 512**2))
    for along in (0, 1):  # 512 rows, or units, of 512: the largest deviation of 512 normal draws is below 4.5
        assert (rate.mean(along) - (1 - p)).abs().max() < 4.5 * math.sqrt(p * (1 - p) / 512)


def test_rows_units_layers_and_keys_are_independent():
    base = masks(key=100) * 2 - 1
    others = {
        "next row": torch.roll(base, 1, 0),
        "next unit": torch.roll(base, 1, 1),
        "transposed": base.T,
        "diagonal": torch.roll(base, (1, 1), (0, 1)),
        "next key": masks(key=101) * 2 - 1,
        "next layer": masks(key=100, layer=1) * 2 - 1,
        "key and layer": masks(key=99, layer=1) * 2 - 1,
        "far key": masks(key=100 + 2**40) * 2 - 1,
    }
    for name, other in others.items():
        # The mean of 512^2 products of fair signs has standard deviation 1/512; along a row or a unit, 1/sqrt(512).
        product = base * other
        assert abs(product.mean().item()) < 4 / 512, name
        if name != "transposed":
            assert max(product.mean(0).abs().max(), product.mean(1).abs().max()) < 5 / math.sqrt(512), name


def test_dropout_zeroes_scales_and_passes_gradients():
    network = build_model("resnet18", 10, width=0.25, dropout=0.3)
    network.key.fill_(77)
    x = torch.rand(16, 128, requires_grad=True) + 1
    x.retain_grad()
    y = network.dropout(x)
    keep = torch.tensor([[bits(77, 0, i, j) >= round(0.3 * 2**32) for j in range(128)] for i in range(16)])
    assert torch.equal(y, torch.where(keep, x * (1 / 0.7), 0.0))
    y.sum().backward()
    assert torch.allclose(x.grad, keep / 0.7)
    assert network.dropout(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(network.eval().dropout(x), x)


def test_the_head_sees_the_dropped_features():
    network, plain = (build_model("resnet18", 10, width=0.25, dropout=p) for p in (0.5, 0.0))
    plain.load_state_dict(network.state_dict())
    network.key.fill_(5)
    seen = []
    network.fc.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    plain.fc.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network(pictures()), plain(pictures())
    keep = hashed(5, 0, 3, 128) >= 2**31
    assert torch.equal(seen[0], torch.where(keep, seen[1] * 2, 0.0))


def test_dropout_is_a_function_of_the_key_alone():
    network = build_model("resnet32", 10, dropout=0.5)

    def answer(key):
        network.key.fill_(key)
        with torch.no_grad():
            return network(pictures(4, 32))

    before = torch.get_rng_state()
    first, other, again = answer(1), answer(2), answer(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_copies_and_moves_keep_their_own_key():
    network = build_model("resnet18", 10, width=0.25, dropout=0.5)
    assert network.key.shape == () and network.key.dtype == torch.int64 and "key" not in network.state_dict()
    twin = copy.deepcopy(network)
    network.key.fill_(1), twin.key.fill_(2)
    x = torch.ones(4, 512)
    expected = [torch.where(hashed(key, 0, 4, 512) >= 2**31, 2.0, 0.0) for key in (1, 2)]
    assert torch.equal(network.dropout(x), expected[0]) and torch.equal(twin.dropout(x), expected[1])
    moved = network.to("meta").to_empty(device="cpu").to(dtype=torch.float64, memory_format=torch.channels_last)
    assert moved.key.dtype == torch.int64
    moved.key.fill_(2)
    assert torch.equal(moved.dropout(x), expected[1])


@pytest.mark.parametrize("share, groups", [("row", 6), ("batch", 1)])
def test_stochastic_depth_drops_whole_rows_or_the_batch(share, groups):
    drop = model.Dropout(0.5, share)
    owner = nn.Module()
    owner.key, owner.row_start, owner.row_stride = torch.tensor(0), 0, 1
    drop.layer, drop.owner = 2, (owner,)
    x = torch.rand(6, 4, 3, 3) + 1
    for key in range(8):
        owner.key.fill_(key)
        kept = [bits(key, 2, i if groups == 6 else 0, 0) >= 2**31 for i in range(6)]
        assert torch.equal(drop(x), torch.where(torch.tensor(kept)[:, None, None, None], x * 2, 0.0))


def test_a_network_without_dropout_has_no_chance_in_it():
    network = build_model("resnet18", 10, width=0.25)
    before = torch.get_rng_state()
    first = network(pictures())
    network.key.fill_(99)
    assert torch.equal(first, network(pictures())) and torch.equal(torch.get_rng_state(), before)


# ---- torchvision's other networks


@pytest.mark.parametrize(
    "name, size, drops",
    [("mobilenet_v3_small", 32, 1), ("efficientnet_b0", 32, 17), ("squeezenet1_1", 32, 1), ("regnet_y_400mf", 32, 0)],
)
@torch.no_grad()
def test_torchvisions_networks(torchvision, name, size, drops):
    network = build_model(name, 7)
    mine = [m for m in network.modules() if isinstance(m, model.Dropout)]
    assert len(mine) == drops and [m.layer for m in mine] == list(range(drops))
    assert not any(isinstance(m, (nn.Dropout, torchvision.ops.StochasticDepth)) for m in network.modules())
    theirs = torchvision.models.get_model(name, num_classes=7)
    theirs.load_state_dict(network.state_dict())
    x = pictures(4, size)
    assert torch.equal(network.eval()(x), theirs.eval()(x))

    network.train()
    for m in network.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.eval()  # so that only dropout tells two forwards apart
    before = torch.get_rng_state()
    answers = []
    for key in (1, 2, 1):
        network.key.fill_(key)
        answers.append(network(x))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(answers[0], answers[2]) and torch.equal(answers[0], answers[1]) == (drops == 0)


def test_replaced_dropouts_keep_their_rates(torchvision):
    theirs = torchvision.models.efficientnet_b0()
    kinds = (nn.Dropout, torchvision.ops.StochasticDepth, model.Dropout)
    rates = [
        [(name, m.p) for name, m in network.named_modules() if isinstance(m, kinds)]
        for network in (theirs, build_model("efficientnet_b0", 7))
    ]
    assert rates[0] == rates[1]
    assert {m.share for m in build_model("efficientnet_b0", 7).modules() if isinstance(m, model.Dropout)} == {
        "unit",
        "row",
    }


@pytest.mark.parametrize("name, size", [("resnet34", 32), ("squeezenet1_1", 32), ("mobilenet_v2", 32)])
@torch.no_grad()
def test_dropout_before_the_head_of_torchvisions_networks(torchvision, name, size):
    network = build_model(name, 7, dropout=0.5)
    theirs = torchvision.models.get_model(name, num_classes=7)
    assert list(network.state_dict()) == list(theirs.state_dict())
    head = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    for m in network.modules():
        if isinstance(m, model.Dropout) and m is not head.dropout:
            m.p = 0.0
    seen = []
    head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network.key.fill_(4)
    network(pictures(4, size)), network.eval()(pictures(4, size))
    dropped = (seen[0] == 0).double().mean() - (seen[1] == 0).double().mean()
    assert dropped > 0.1 and seen[0].shape == seen[1].shape
    assert "dropout" not in copy.deepcopy(network).state_dict()


def test_googlenet_has_one_head(torchvision):
    with torch.device("meta"):
        assert build_model("googlenet", 7)(torch.empty(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    "options, word", [({"width": 0.5}, "width"), ({"stem": "cifar"}, "stem"), ({"stem_kernel": 3}, "stem_kernel")]
)
def test_options_of_ours_are_refused_for_torchvisions(torchvision, options, word):
    with pytest.raises(LongtailError, match=f"^{word} .*resnet50"):
        build_model("resnet50", 7, **options)


@pytest.mark.parametrize(
    "name, near",
    [
        ("resnet81", "resnet18"),
        ("restnet32", "resnet32"),
        ("efficientnet", "efficientnet_b"),
        ("fasterrcnn_resnet50_fpn", "resnet50"),
        ("", ""),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(torchvision, name, near):
    with pytest.raises(LongtailError, match=f"no model '{name}'.*nearest.*{near}"):
        build_model(name, 7)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"classes": 0}, "classes"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"width": 0.0}, "width"),
        ({"width": math.nan}, "width"),
        ({"stem": "vgg"}, "stem"),
        ({"stem_kernel": 4}, "stem_kernel"),
        ({"stem": "cifar", "stem_kernel": 7}, "stem_kernel"),
        ({"head": "spectral"}, "head must be linear or cosine"),
        ({"name": "resnet32", "stem_kernel": 7}, "resnet32"),
        ({"name": "resnet32", "pretrained": True}, "resnet32"),
        ({"width": 0.5, "pretrained": True}, "pretrained"),
        ({"stem": "cifar", "pretrained": True}, "pretrained"),
        ({"stem_kernel": 3, "pretrained": True}, "pretrained"),
    ],
)
def test_bad_options_are_refused(options, word):
    with pytest.raises(LongtailError, match=word):
        build_model(**{"classes": 5, **options})


def test_a_torchvision_that_does_not_import_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(LongtailError, match="resnet50 needs torchvision.*halted"):
        build_model("resnet50", 5)
    build_model("resnet18", 5, width=0.25), build_model("resnet32", 5)


# ---- pretrained weights


def publish(torchvision, monkeypatch, folder, name, state):
    """Puts `state` where torch.hub would have cached the weights of `name`, under a name that holds its SHA-256."""
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "new")
    file = folder / f"{name}-{hashlib.sha256((folder / 'new').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "new").rename(file)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    monkeypatch.setattr(weights.value, "url", f"https://example.invalid/models/{file.name}")
    return file


@pytest.fixture
def hub(tmp_path):
    before = torch.hub._hub_dir
    torch.hub.set_dir(str(tmp_path))
    yield tmp_path / "checkpoints"
    torch.hub._hub_dir = before


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
@pytest.mark.parametrize("classes", [1000, 7])
def test_pretrained(torchvision, monkeypatch, hub, name, classes):
    source = torchvision.models.get_model(name)
    publish(torchvision, monkeypatch, hub, name, source.state_dict())
    found, wanted = build_model(name, classes, pretrained=True).state_dict(), source.state_dict()
    assert list(found) == list(wanted)
    head = list(wanted)[-2:]
    for key, value in found.items():
        assert torch.equal(value, wanted[key]) == (classes == 1000 or key not in head), key
    assert found[head[1]].shape == (classes,)


def test_pretrained_weights_bring_their_stem_to_small_pictures_too(torchvision, monkeypatch, hub):
    publish(torchvision, monkeypatch, hub, "resnet18", torchvision.models.get_model("resnet18").state_dict())
    pictures = SimpleNamespace(listing=SimpleNamespace(classes=["a", "b"]), size=32)
    model, shape = build_network(Config(model="resnet18", pretrained=True), pictures)
    assert model.conv1.kernel_size == (7, 7) and shape["stem"] == "imagenet"
    model, shape = build_network(Config(model="resnet18"), pictures)
    assert model.conv1.kernel_size == (3, 3) and shape["stem"] == "cifar"


def test_weights_of_torchvisions_early_days_are_read(torchvision, monkeypatch, hub):
    """They lack the count of batches."""
    state = {k: v for k, v in build_model("resnet18").state_dict().items() if "num_batches" not in k}
    publish(torchvision, monkeypatch, hub, "resnet18", state)
    assert torch.equal(build_model("resnet18", 5, pretrained=True).conv1.weight, state["conv1.weight"])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_missing_and_damaged_weights_say_how_to_get_them(torchvision, monkeypatch, hub, name):
    file = publish(torchvision, monkeypatch, hub, name, {})
    with file.open("ab") as end:
        end.write(b"more")
    with pytest.raises(LongtailError, match=f"{file} are damaged.*curl -L --create-dirs -o '{file}' https://"):
        build_model(name, 7, pretrained=True)
    file.unlink()
    with pytest.raises(LongtailError, match=f"not in {file}; get it with: curl -L --create-dirs -o '{file}' https://"):
        build_model(name, 7, pretrained=True)
    assert not file.exists()


def test_weights_of_another_network_are_refused(torchvision, monkeypatch, hub):
    publish(torchvision, monkeypatch, hub, "resnet18", torchvision.models.resnet34().state_dict())
    with pytest.raises(LongtailError, match="do not fit.*layer1.2") as caught:
        build_model("resnet18", 7, pretrained=True)
    assert "\n" not in str(caught.value)


# the cosine head


def test_a_cosine_head_gives_scaled_cosines():
    network = build_model("resnet18", 5, width=0.125, head="cosine").eval()
    features = []
    network.fc.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        logits = network(torch.randn(7, 3, 32, 32))
    expected = torch.cosine_similarity(features[0][:, None], network.fc.weight[None], dim=2) * 30
    assert (logits - expected).abs().max() < 1e-4 and network.logit_scale == 30 and logits.abs().max() <= 30
    assert build_model("resnet18", 5, width=0.125).logit_scale == 1
    assert list(network.state_dict())[-1] == "fc.weight"


def test_a_cosine_head_is_for_our_networks(torchvision):
    with pytest.raises(LongtailError, match="head is for resnet18 and resnet32"):
        build_model("mobilenet_v2", 5, head="cosine")
