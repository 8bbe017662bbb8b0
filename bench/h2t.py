"""Tried once: does fusing features of frequent classes into rare ones (H2T, Li et al. 2024) help a second stage?

    python -m bench.h2t RUN RUN RUN        the folds' runs of a study

The body stays frozen. Its pooled features of the training pictures, as a training epoch shows them without mixing, are
kept for 8 epochs of views; a channel's mean over the map is all that the last layer sees, so to replace channels of the
map is to replace them here. The last layer is trained again on class-balanced rows: as it is (cRT), and with a share P
of the channels taken from a row drawn as the pictures are. Out of fold, tau chosen on the other folds.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import augment
import metrics
from config import read_recipe
from engine.build import build_stepper, plans_of, prepare_pictures
from engine.evaluate import Evaluation
from engine.numerics import input_dtype
from engine.step import forward
from posterior import evidence, priors
from study.held_out import macro_f1_difference

EPOCHS, STEPS, ROWS, VIEWS = 10, 31, 64, 8


def features(run):
    config = read_recipe(run / "args.json")
    config = dataclasses.replace(
        config, init=str(run), freeze="body", mixup_p=0.0, cutmix_p=0.0, fold=config.fold, resume=False
    )
    pictures = prepare_pictures(config)
    stepper, _ = build_stepper(config, pictures, torch.device("cpu"))
    model = stepper.model.eval()
    head, model.fc = model.fc, torch.nn.Identity()
    draw, evaluation = plans_of(config, pictures)

    def of(plan):
        stepper.begin(plan)
        found, rows = [], []
        for _ in range(len(plan.index)):
            row = stepper.tables.take()
            x = augment.batch(stepper.pixels, row, **stepper.view, dtype=input_dtype(stepper.device, stepper.dtype))
            with torch.no_grad(), torch.autocast("cpu", stepper.dtype, enabled=stepper.dtype != torch.float32):
                found.append(model(x).float())
            rows.append(row.index.clone())
            stepper.tables.at.add_(1)
        return torch.cat(found), stepper.labels[torch.cat(rows).long()].long()

    parts = [of(draw(epoch, {})) for epoch in range(VIEWS)]
    shown, labels = (torch.cat(each) for each in zip(*parts))
    model.fc = torch.nn.Identity()
    held = stepper_features(stepper, evaluation[0], len(pictures.val))
    return shown, labels, held, pictures.listing.labels[pictures.val], pictures.counts, head


def stepper_features(stepper, plan, rows):
    found = Evaluation(
        stepper.model, stepper.pixels, plan, stepper.view, dtype=stepper.dtype, forward=forward, record=None
    ).run(plan, plan.index.size, lambda: None)
    return torch.from_numpy(found[:rows])


def head_of(shown, labels, counts, share, seed):
    """A last layer trained on balanced rows, with a share of the channels from rows drawn as they come."""
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(shown.shape[1], len(counts))
    torch.manual_seed(seed)
    torch.nn.init.kaiming_uniform_(layer.weight, a=5**0.5)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=2e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS)
    weight = 1 / torch.from_numpy(np.asarray(counts, np.float64))[labels]
    for _ in range(EPOCHS * STEPS):
        rare = torch.multinomial(weight, ROWS, replacement=True, generator=generator)
        x = shown[rare]
        if share:
            plain = torch.randint(len(shown), (ROWS,), generator=generator)
            taken = torch.rand(ROWS, shown.shape[1], generator=generator) < share
            x = torch.where(taken, shown[plain], x)
        optimizer.zero_grad()
        F.cross_entropy(layer(x), labels[rare]).backward()
        optimizer.step()
        schedule.step()
    return layer


def main():
    runs = [Path(each) for each in sys.argv[1:]]
    of_run = [features(run) for run in runs]
    targets = np.concatenate([each[3] for each in of_run])
    parts = np.repeat(np.arange(len(runs)), [len(each[3]) for each in of_run])
    counts = np.mean([each[4] for each in of_run], 0)
    prior = priors.shares(counts)
    classes = len(counts)
    uniform = np.full(classes, 1 / classes)

    def judged(log_posterior):
        tau, moved = priors.choose_tau(log_posterior, prior, targets, parts)
        return moved, tau

    one = evidence.pooled([[run] for run in runs])
    base, tau = judged(one.log_posterior)
    print(f"stage one: macro F1 at tau {metrics.macro_f1(targets, base, classes):.4f}, tau {tau}", flush=True)
    crt = None
    for share in (0.0, 0.1, 0.3, 0.5):
        logs = []
        for shown, labels, held, _, own, _ in of_run:
            layer = head_of(shown, labels, own, share, 0)
            logs.append(layer(held).detach().numpy().astype(np.float64))
        log_posterior = priors.move(metrics.log_softmax(np.concatenate(logs)), uniform, prior)
        moved, tau = judged(log_posterior)
        crt = moved if crt is None else crt
        change, error = macro_f1_difference(targets, moved, base, classes)
        more, its = macro_f1_difference(targets, moved, crt, classes)
        print(
            f"share {share}: macro F1 at tau {metrics.macro_f1(targets, moved, classes):.4f}, tau {tau}, against stage "
            f"one {change:+.4f} ± {1.96 * error:.4f}, against cRT {more:+.4f} ± {1.96 * its:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
