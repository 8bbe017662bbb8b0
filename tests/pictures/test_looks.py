"""pictures/looks.py against pictures whose brightness, sharpness and shape are known from how they were made."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from pictures import looks


def saved(folder, pixels, kind="png", **options):
    path = folder / f"picture.{kind}"
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
    return path


def grey(values):
    return np.repeat(np.asarray(values)[..., None], 3, 2)


def opened(data):
    return Image.open(io.BytesIO(data))


COLOURS = {(0, 0, 0): 0, (255, 255, 255): 1, (255, 0, 0): 0.299, (0, 255, 0): 0.587, (0, 0, 255): 0.114}


@pytest.mark.parametrize("colour, brightness", [*COLOURS.items(), ((10, 200, 30), 0.48553)])
def test_one_colour_has_the_brightness_of_its_luma_and_no_edge(tmp_path, colour, brightness):
    found = looks.look(saved(tmp_path, np.full((40, 60, 3), colour)))
    assert found.brightness == pytest.approx(brightness, abs=1e-5)
    assert found.sharpness == pytest.approx(0, abs=1e-9)
    assert (found.size, found.aspect) == (40, 1.5)
    assert opened(found.jpeg).size == (118, 79)  # 118 * 40 / 60 = 78.7


def test_sharpness_is_that_of_the_laplacian(tmp_path):
    rows, columns = np.indices((118, 118))
    # Of a chessboard each pixel differs by 255 from four neighbours: 1020 and -1020 by turns.
    assert looks.look(saved(tmp_path, grey(255 * ((rows + columns) % 2)))).sharpness == pytest.approx(1020)
    # Of one edge two of the 116 columns inside have 255 and -255.
    edge = looks.look(saved(tmp_path, grey(255 * (columns >= 59))))
    assert edge.sharpness == pytest.approx(255 * math.sqrt(2 / 116))
    assert edge.brightness == pytest.approx(0.5)
    # A slope has none.
    assert looks.look(saved(tmp_path, grey(2 * columns))).sharpness == pytest.approx(0, abs=1e-9)


def test_a_blurred_picture_is_less_sharp_at_any_size(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3))
    blurred = sum(np.roll(noise, shift, (0, 1)) for shift in ((0, 0), (1, 0), (0, 1), (1, 1), (4, 2), (2, 5))) / 6
    assert looks.look(saved(tmp_path, blurred)).sharpness < 0.8 * looks.look(saved(tmp_path, noise)).sharpness


def test_a_picture_is_measured_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    found = looks.look(saved(tmp_path, np.zeros((40, 60, 3)), "jpg", exif=turned))
    assert (found.size, found.aspect) == (40, 40 / 60) and opened(found.jpeg).size == (79, 118)


def test_a_picture_as_thin_as_a_thread_has_a_copy(tmp_path):
    found = looks.look(saved(tmp_path, np.zeros((1, 600, 3))))
    assert (found.size, found.aspect) == (1, 600) and opened(found.jpeg).size == (118, 1)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_what_cannot_be_read_has_no_look(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert looks.look(path) is None and looks.look(tmp_path / "gone.png") is None


def test_a_small_picture_is_enlarged_by_a_whole_number():
    assert opened(looks.jpeg(np.zeros((5, 10, 3), np.uint8))).size == (110, 55)
    assert opened(looks.jpeg(np.zeros((118, 60, 3), np.uint8))).size == (60, 118)
    assert opened(looks.jpeg(np.zeros((200, 300, 3), np.uint8))).size == (300, 200)


def test_a_sheet_holds_every_tile_in_reading_order():
    tiles = np.zeros((3, 7, 7, 3))
    tiles[0], tiles[1, ..., 0], tiles[2, ..., 2] = 0.2, 1, 1
    sheet = np.asarray(opened(looks.sheet(tiles, columns=2)))
    assert sheet.shape == (46, 46, 3)  # 7 px enlarged to 21, a line of white on each side
    middle = [sheet[11, 11], sheet[11, 34], sheet[34, 11], sheet[34, 34]]
    assert np.array(middle).tolist() == [[51, 51, 51], [255, 0, 0], [0, 0, 255], [255, 255, 255]]
    assert (sheet[0] == 255).all() and (sheet[:, 22:24] == 255).all()
    assert (sheet[1:22, 1:22] == 51).all()
