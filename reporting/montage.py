"""What the network would see: the first batches of a training as text and as a picture. The command of plan.py.

python plan.py -c RECIPE --show 3
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch

from config import Config
from engine import resident
from engine.build import plans_of, prepare_pictures
from engine.flags import SettingsParser, config_from_args, train_command
from engine.paper import try_network
from engine.redraw import denormalised, fitted, lines
from errors import LongtailError, run_command
from files import replacing
from plan import Plan, store_level

INK, FAINT, FRAME = "#24292f", "#8c959f", "#d0d7de"
OWN, PARTNER = "#0969da", "#e16f24"  # a picture's class, and that of what is mixed into it
COLUMNS = 8
GAP, EDGE = 12, 18  # px between two tiles, and around the sheet
HEAD, FOOT = 44, 62  # px above a batch, and under each tile
LABEL_WIDTH = 112  # px: room for a class name under the smallest tile


def montage(
    plan: Plan,
    count: int,
    pixels: torch.Tensor,
    classes: list[str],
    labels: np.ndarray,
    *,
    mean: list[float],
    std: list[float],
    border: str,
):
    """The first `count` steps as a Pillow image: each row as the network sees it, de-normalised.

    Under it lambda, its class and, where it mixes, its partner's class. pixels: the Store's level, uint8 [N, S, S, 3];
    labels: of its pictures [N]; mean, std: RGB in [0, 1]; border: what augment.batch shows beyond a picture's edge.
    """
    import matplotlib  # for its font: Pillow's own has no accents and no Greek
    from PIL import Image, ImageDraw, ImageFont

    # Sizes in px, so that a caption fits its tile on every screen.
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    small = ImageFont.truetype(fonts / "DejaVuSans.ttf", 11)
    large = ImageFont.truetype(fonts / "DejaVuSans-Bold.ttf", 14)

    size = int(plan.view_size[0])
    side = size * math.ceil(96 / size) if size < 256 else 256  # small ones magnified by whole numbers
    width = max(side, LABEL_WIDTH)
    batch_size = plan.index.shape[1]
    rows = math.ceil(batch_size / COLUMNS)
    batch_height = HEAD + rows * (side + FOOT)
    sheet_size = (2 * EDGE + COLUMNS * (width + GAP) - GAP, EDGE + count * batch_height)
    sheet = Image.new("RGB", sheet_size, "white")
    pen = ImageDraw.Draw(sheet)

    for t in range(count):
        head = t * batch_height
        mixing = f"{(plan.blend[t] < 1).sum()} of {batch_size} mix"
        pen.text((EDGE, EDGE + head), f"batch {t + 1} of {len(plan.index)}", INK, large)
        pen.text((sheet.width - EDGE, EDGE + head + 2), mixing, FAINT, small, "ra")
        step = Plan(*(table[t] for table in plan))
        used = np.union1d(step.index, step.partner)  # the Store's other rows stay on the disk
        tiles = denormalised(step, pixels[used], used, size=size, mean=mean, std=std, border=border)
        for b, tile in enumerate(tiles):
            left = EDGE + b % COLUMNS * (width + GAP)
            top = head + HEAD + b // COLUMNS * (side + FOOT)
            picture = Image.fromarray(tile).resize((side, side), Image.Resampling.BOX)
            sheet.paste(picture, (left, top))
            pen.rectangle((left - 1, top - 1, left + side, top + side), outline=FRAME)
            own = classes[labels[plan.index[t, b]]]
            partner = classes[labels[plan.partner[t, b]]]
            corner = (left, top + side + 6)
            _caption(pen, corner, width, small, plan.lam[t, b].item(), own, partner)
    return sheet


def show(config: Config, count: int, output: Path | str) -> None:
    """Prints the first `count` steps of the training that `config` asks for, and draws them to the PNG `output`."""
    if not Path(output).parent.is_dir() or Path(output).is_dir():
        raise LongtailError(f"--output {output}: give a file in a folder that is there")
    pictures = prepare_pictures(config)
    try_network(config, pictures)  # what train.py would refuse has no batches
    for note in pictures.notes:
        print(note, file=sys.stderr)
    if config.without_effect():
        print(f"warning: without effect: {'; '.join(config.without_effect())}", file=sys.stderr)
    labels, classes = pictures.listing.labels, pictures.listing.classes
    side = pictures.store.pixels.shape[1]
    plan = plans_of(config, pictures)[0](0)
    side = store_level(int(plan.view_size[0]), side)
    pixels = resident.levels(pictures.store, torch.device("cpu"), [side])[side]
    count = min(count, len(plan.index))  # an epoch may be shorter
    border = config.border()
    sheet = montage(plan, count, pixels, classes, labels, mean=pictures.mean, std=pictures.std, border=border)
    with replacing(Path(output)) as draft:
        sheet.save(draft, "PNG")
    for t in range(count):
        # A batch at a time: whoever pipes this into `head` waits for no more than is read.
        print(*lines(plan, t, pictures.listing, store_size=side), "", sep="\n", flush=True)
    print(f"drawn in {output}. Next: {train_command(config)}", file=sys.stderr)


def main(args: list[str] | None = None) -> int:
    parser = SettingsParser("plan.py", "Prints the first batches of a training, and draws them.", "[--show N] ")
    what = parser.add_argument_group("what to show")
    what.add_argument("--show", type=int, default=3, metavar="N", help="batches of the first epoch (default 3)")
    what.add_argument("-o", "--output", default="plan.png", metavar="PNG", help="the drawing (default plan.png)")
    parser.add_settings()
    space = parser.parse_args(args)
    if space.show < 1:
        parser.error(f"--show takes a whole number from 1, not {space.show}")
    return run_command("plan.py", lambda: show(config_from_args(space), space.show, space.output))


def _caption(pen, corner, width, font, lam, own, partner):
    """Under a tile: lambda as a bar and a number, and the classes. corner: (left, top), px; lam: weight of `own`."""
    left, top = corner
    bar = width - 44  # px; the number stands beside it
    # The partner's colour first, the picture's own over it from the left: the bar is divided as the label is.
    pen.rectangle((left, top + 4, left + bar, top + 8), PARTNER)
    if lam > 0:  # Pillow would draw a bar of no width a pixel wide
        pen.rectangle((left, top + 4, left + round(bar * lam), top + 8), OWN)
    pen.text((left + width, top), f"λ {lam:.2f}", INK if lam < 1 else FAINT, font, "ra")
    pen.text((left, top + 15), fitted(own, width, font.getlength), OWN, font)
    if lam < 1:
        pen.text((left, top + 29), fitted("+ " + partner, width, font.getlength), PARTNER, font)


if __name__ == "__main__":
    sys.exit(main())
