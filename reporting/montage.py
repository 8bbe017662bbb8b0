"""What the network would see: the first batches of a training as text and as a picture. The command of plan.py.

python plan.py -c RECIPE --show 3
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch

import augment
from engine import resident
from engine.build import plans_of, prepare_pictures
from engine.flags import SettingsParser, config_from_args
from errors import run_command
from plan import Plan, store_level


def lines(plan, t, classes, labels, *, store_size):
    """Step t as text: a title, a header and a line a row. scale: share of the Store's area that the view shows."""
    names = [fitted(name, 24, len) for name in classes]
    width = max(map(len, names))
    rate, size = plan.lr[t], plan.view_size[t]
    yield f"batch {t + 1} of {len(plan.index)}, learning rate {rate:.4g}, {size:.0f} px"
    yield f"     row  {'class':{width}}  {'partner':{width}}    lam  {'box y, x':17}  mirror  scale  erase y, x"
    for b, row in enumerate(plan.index[t]):
        partner = names[labels[plan.partner[t, b]]] if plan.lam[t, b] < 1 else "-"
        zoom = np.linalg.det(plan.geo[t, b, :, :2].astype(float)) * (size / store_size) ** 2
        yield (
            f"{row:8}  {names[labels[row]]:{width}}  {partner:{width}}  {plan.lam[t, b]:.3f}  "
            f"{span(plan.box[t, b]):17}  {'yes' if zoom < 0 else '-':6}  {abs(zoom):5.2f}  {span(plan.erase[t, b])}"
        )


def span(box):
    """A box [4] as 'y0:y1, x0:x1', '-' if it is empty."""
    y0, x0, y1, x1 = box
    return f"{y0}:{y1}, {x0}:{x1}" if y0 < y1 and x0 < x1 else "-"


def fitted(name, room, measure):
    """`name`, its end an ellipsis where `measure` of it passes `room`."""
    short, end = name, len(name)
    while measure(short) > room and end > 0:
        end -= 1
        short = name[:end].rstrip() + "…"
    return short


def montage(plan, count, pixels, classes, labels, *, mean, std, border):
    """The first `count` steps as a Pillow image: each row as the network sees it, de-normalised; under it lambda,
    its class and, where it mixes, its partner's class. pixels: the Store's level, a tensor."""
    import matplotlib  # for its font: Pillow's own has no accents and no Greek
    from PIL import Image, ImageDraw, ImageFont

    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    small = ImageFont.truetype(fonts / "DejaVuSans.ttf", 11)
    large = ImageFont.truetype(fonts / "DejaVuSans-Bold.ttf", 14)
    ink, faint, own, other = "#24292f", "#8c959f", "#0969da", "#e16f24"
    size = int(plan.view_size[0])
    side = size * math.ceil(96 / size) if size < 256 else 256  # small ones magnified by whole numbers
    columns, gap, edge, head, foot = 8, 12, 18, 44, 62
    width, batch_size = max(side, 112), plan.index.shape[1]
    high = head + math.ceil(batch_size / columns) * (side + foot)
    sheet = Image.new("RGB", (2 * edge + columns * (width + gap) - gap, edge + count * high), "white")
    pen, mean, std = ImageDraw.Draw(sheet), torch.tensor(mean), torch.tensor(std)
    for t in range(count):
        step = Plan(*(table[t] for table in plan))
        shown = np.union1d(step.index, step.partner)  # the Store's other rows stay on the disk
        step = step._replace(index=np.searchsorted(shown, step.index), partner=np.searchsorted(shown, step.partner))
        row = Plan(*map(torch.tensor, step))
        x = augment.batch(pixels[shown], row, size=size, mean=mean, std=std, border=border)
        seen = (x.permute(0, 2, 3, 1) * std + mean).mul(255).round().clamp(0, 255).byte().numpy()
        mixing = f"{(plan.lam[t] < 1).sum()} of {batch_size} mix"
        pen.text((edge, edge + t * high), f"batch {t + 1} of {len(plan.index)}", ink, large)
        pen.text((sheet.width - edge, edge + t * high + 2), mixing, faint, small, "ra")
        for b, (tile, lam) in enumerate(zip(seen, plan.lam[t].tolist())):
            left, top = edge + b % columns * (width + gap), t * high + head + b // columns * (side + foot)
            sheet.paste(Image.fromarray(tile).resize((side, side), Image.Resampling.BOX), (left, top))
            pen.rectangle((left - 1, top - 1, left + side, top + side), outline="#d0d7de")
            bar, y = width - 44, top + side + 6
            pen.rectangle((left, y + 4, left + bar, y + 8), other)
            if lam > 0:
                pen.rectangle((left, y + 4, left + round(bar * lam), y + 8), own)
            pen.text((left + width, y), f"λ {lam:.2f}", ink if lam < 1 else faint, small, "ra")
            a, partner = (classes[labels[rows[t, b]]] for rows in (plan.index, plan.partner))
            pen.text((left, y + 15), fitted(a, width, small.getlength), own, small)
            if lam < 1:
                pen.text((left, y + 29), fitted("+ " + partner, width, small.getlength), other, small)
    return sheet


def show(config, count, output):
    """Prints the first `count` steps of the training that `config` (a Config) asks for, and draws them to `output`."""
    pictures = prepare_pictures(config)
    for note in pictures.notes:
        print(note, file=sys.stderr)
    labels, classes, side = pictures.listing.labels, pictures.listing.classes, pictures.store.pixels.shape[1]
    plan = plans_of(config, pictures)[0](0)
    side = store_level(int(plan.view_size[0]), side)
    pixels = resident.levels(pictures.store, torch.device("cpu"), [side])[side]
    count = min(count, len(plan.index))
    sheet = montage(
        plan,
        count,
        pixels,
        classes,
        labels,
        mean=pictures.mean,
        std=pictures.std,
        border="constant" if config.pad else "reflect",
    )
    sheet.save(output, "PNG")
    for t in range(count):
        print(*lines(plan, t, classes, labels, store_size=side), "", sep="\n", flush=True)
    print(f"drawn in {output}. Next: python train.py with the same settings", file=sys.stderr)


def main(args=None):
    parser = SettingsParser("plan.py", "Prints the first batches of a training, and draws them.", "[--show N] ")
    what = parser.add_argument_group("what to show")
    what.add_argument("--show", type=int, default=3, metavar="N", help="batches of the first epoch (default 3)")
    what.add_argument("-o", "--output", default="plan.png", metavar="PNG", help="the drawing (default plan.png)")
    parser.add_settings()
    space = parser.parse_args(args)
    if space.show < 1:
        parser.error(f"--show takes a whole number from 1, not {space.show}")
    return run_command("plan.py", lambda: show(config_from_args(space), space.show, space.output))


if __name__ == "__main__":
    sys.exit(main())
