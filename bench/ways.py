"""How others would train our network on the same files: the contenders of bench/step.py that are not ours.

Both decode every file at every epoch in the workers of a DataLoader. Each function returns an epoch as a function, and
how many pictures it shows.
"""

import dataclasses
import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from engine import numerics
from engine.build import build_network

SHOWN = 512  # pictures of the study's epoch at the most: enough to forget its workers' start
SCALE, RATIO = (0.35, 1.0), (3 / 4, 4 / 3)  # of random resized crops: the default settings'


@dataclasses.dataclass
class Files(torch.utils.data.Dataset):
    """Pictures decoded whenever they are asked for."""

    files: list
    labels: list
    transform: object

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        with Image.open(self.files[i]) as image:
            return self.transform(image.convert("RGB")), self.labels[i]


def files(pictures, rows, transform):
    return Files([pictures.listing.files[i] for i in rows], [int(pictures.listing.labels[i]) for i in rows], transform)


def plain(image, side, size, mean, std):
    """What torchvision's Resize, CenterCrop, RandomHorizontalFlip, ToTensor and Normalize make of a Pillow image."""
    edge = round((side - size) / 2)
    image = image.resize((side, side), Image.Resampling.BILINEAR).crop((edge, edge, edge + size, edge + size))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return x.sub_(mean).div_(std)


def cropped(image, size):
    """A random resized crop, half of them mirrored: uint8 [size,size,3]."""
    width, height = image.size
    for _ in range(10):  # the first that fits, else the whole picture
        area = width * height * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            break
    else:
        w, h = width, height
    x, y = random.randint(0, width - w), random.randint(0, height - h)
    image = image.resize((size, size), Image.Resampling.BILINEAR, (x, y, x + w, y + h))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image))


def study(base, pictures, device):
    """The study's way: two workers, started anew every epoch, fp32, focal loss on F.cross_entropy, mixup in Python."""
    side = round(pictures.size * 256 / 224)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (pictures.mean, pictures.std))
    shown = files(pictures, pictures.train[:SHOWN], lambda image: plain(image, side, pictures.size, mean, std))
    loader = torch.utils.data.DataLoader(
        shown,
        base.batch_size,
        shuffle=True,
        num_workers=2,
        pin_memory=device.type == "cuda",
        multiprocessing_context="fork",
    )
    model = build_network(base, pictures)[0].to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)

    def focal(logits, y):
        ce = F.cross_entropy(logits, y, reduction="none")
        return (0.25 * (1 - torch.exp(-ce)) ** 2 * ce).mean()

    def epoch():
        total, right = 0.0, 0
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            if random.random() < 0.4:
                lam, turn = random.betavariate(1, 1), torch.randperm(len(x), device=device)
                logits = model(lam * x + (1 - lam) * x[turn])
                loss = lam * focal(logits, y) + (1 - lam) * focal(logits, y[turn])
            else:
                logits = model(x)
                loss = focal(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            right += (logits.argmax(1) == y).sum().item()

    return epoch, len(shown)


def best(base, pictures, device, workers):
    """The best-practice way: workers that stay, crop, resize and flip; bytes to the device and normalised there; bf16
    autocast, channels-last, torch.compile, fused AdamW; mixup of the batch. An epoch is two batches a worker, so that
    none idles at its end."""
    rows = np.resize(pictures.train, 2 * workers * base.batch_size)
    shown = files(pictures, rows, lambda image: cropped(image, pictures.size))
    loader = torch.utils.data.DataLoader(
        shown,
        base.batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    model = build_network(base, pictures)[0].to(device, memory_format=torch.channels_last).train()
    net = torch.compile(model, dynamic=False) if device.type == "cuda" else model  # on a CPU it gains nothing
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    mean, std = (255 * torch.tensor(v, device=device).view(3, 1, 1) for v in (pictures.mean, pictures.std))
    dtype = numerics.precision(device, True)

    def epoch():
        for x, y in loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            x = x.permute(0, 3, 1, 2).float().sub_(mean).div_(std)  # channels-last, as the bytes are
            lam, turn = random.betavariate(1, 1), torch.randperm(len(x), device=device)
            with numerics.autocast(device, dtype):
                logits = net(lam * x + (1 - lam) * x[turn])
                loss = lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, y[turn])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return epoch, len(shown)
