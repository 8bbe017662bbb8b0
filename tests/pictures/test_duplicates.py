"""Near duplicates where the hash alone would mislead. tests/test_data.py has those that a check must find."""

import numpy as np
from PIL import Image

from data import Source, Split, prepare
from pictures import duplicates as module
from pictures.duplicates import MOST_BITS, MOST_LEVELS, duplicates, near_sets
from pictures.listing import listing
from pictures.store import cache_dir, load_store
from samples import pictures_in


def test_near_duplicates_of_flat_and_of_unlike_pictures(tmp_path):
    """A flat picture has no hash to speak of: two of one colour are the same, of two colours are not."""
    for name, colour in (("a/1", "red"), ("a/2", "blue"), ("b/3", "#0101f8")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
    found = listing(tmp_path)
    held = load_store(found.files, 40)
    assert duplicates([found], [held]) == [("nearly the same, CONFLICTING LABELS", "a/2.png (a) = b/3.png (b)")]
    unlike = listing(pictures_in(tmp_path / "many", {"a": 150, "b": 150}))
    assert duplicates([unlike], [load_store(unlike.files, 20)]) == []


def test_near_sets_are_those_of_all_pairs():
    """Every pair compared, a chain joined by hand: 300 pictures, a third of them within a step of another."""
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 256, (300, 8, 9, 3)).astype(np.float32)
    for k in range(100, 300, 2):
        steps = rng.normal(0, rng.choice([1, 6, 12]), thumbnails[0].shape)
        thumbnails[k] = np.clip(thumbnails[rng.integers(k)] + steps, 0, 255)
    grey = thumbnails.mean(-1)
    bits = (grey[:, :, 1:] > grey[:, :, :-1]).reshape(300, 64)
    near = (bits[:, None] != bits).sum(2) <= MOST_BITS
    near &= np.abs(thumbnails[:, None] - thumbnails).mean((2, 3, 4)) <= MOST_LEVELS
    reached = np.linalg.matrix_power(near.astype(float), 64) > 0
    expected = {tuple(np.flatnonzero(row)) for row in reached if row.sum() > 1}
    assert len(expected) > 20 and max(map(len, expected)) > 2
    assert module._near_sets(thumbnails) == [list(members) for members in sorted(expected)]


def copies(root):
    """Two classes; a picture of the first is there again as a JPEG, with more light, and larger in the other class."""
    pictures_in(root, {"a": 45, "b": 40}, side=40)
    with Image.open(root / "a" / "0.png") as picture:
        picture.save(root / "a" / "again.jpg", quality=60)
        picture.point(lambda level: min(255, level + 5)).save(root / "a" / "lighter.png")
        picture.resize((60, 60)).save(root / "b" / "larger.png")
    return ["a/0.png", "a/again.jpg", "a/lighter.png", "b/larger.png"]


def test_near_duplicates_share_a_part_of_every_split_and_are_found_once(tmp_path, monkeypatch):
    root = tmp_path / "data"
    same = copies(root)
    source = Source(img_size=32)
    for fold in range(3):
        found = prepare(root, source, Split(folds=3, fold=fold))
        four = [row for row, path in enumerate(found.listing.paths) if path in same]
        assert near_sets(found.store) == [four]
        assert len(four) == 4 and len({row in set(found.val.tolist()) for row in four}) == 1
        assert "4 pictures are in 1 set of near duplicates; no split divides a set" in found.notes
    monkeypatch.setattr(module, "_near_sets", None)  # found in the cache
    prepare(root, source, Split())
    assert (cache_dir() / found.store.key / "copies.json").exists()


def test_what_all_pictures_look_like_is_no_duplicate(tmp_path):
    for name, colour in (("a", (246, 0, 0)), ("b", (0, 0, 246))):
        (tmp_path / name).mkdir()
        for k in range(10):
            Image.new("RGB", (40, 40), tuple(c and c + k for c in colour)).save(tmp_path / name / f"{k}.png")
    found = prepare(tmp_path, Source(img_size=32), Split())
    assert near_sets(found.store) == [] and len(found.val) == 4


def test_equal_pictures_share_a_part_however_many_they_are(tmp_path):
    """Four of 64 are more than a twentieth, and copies all the same."""
    root = pictures_in(tmp_path, {"a": 30, "b": 30})
    files = sorted((root / "a").iterdir())
    for k in range(3):
        (root / "a" / f"copy{k}{files[0].suffix}").write_bytes(files[0].read_bytes())
    found = listing(root)
    (alike,) = near_sets(load_store(found.files, 20))
    assert len(alike) == 4 and len({found.files[row].read_bytes() for row in alike}) == 1
    for seed in range(4):
        parted = prepare(root, Source(img_size=20), Split(split_seed=seed))
        assert len({*alike} & {*parted.val.tolist()}) in (0, 4)
