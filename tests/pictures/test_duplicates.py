"""Near duplicates where the hash alone would mislead. tests/test_data.py has those that a check must find."""

from PIL import Image

from pictures.duplicates import duplicates
from pictures.listing import listing
from pictures.store import load_store
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
