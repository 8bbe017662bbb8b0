"""Names in a CSV that are nearly right: never followed, and the file that is meant is said."""

import pytest

import data
from errors import LongtailError
from samples import table, tree


@pytest.mark.parametrize(
    "name, meant",
    [
        ("x\\\\1.jpg", "train/x/1.jpg"),  # in an error a backslash is shown twice
        ("X/1.JPG", "train/x/1.jpg"),
        ("x/1.png", "train/x/1.jpg"),
        ("Train/X/1.jpeg", "train/x/1.jpg"),
        ("C:\\\\Users\\\\me\\\\set\\\\x\\\\1.jpg", "train/x/1.jpg"),
        ("/home/me/set/y/1.jpg", "train/y/1.jpg"),
        ("2.JPG", "train/x/2.jpg"),
        ("1.JPG", None),  # of x or of y
        ("x/3.jpg", None),
        ("x/1.heic", "train/x/1.jpg"),
        ("x/1.5", None),
        ("", None),
        ("x/", None),
        ("../../../nowhere/passwd", None),
        ("https://example.org/3.jpg?x=1", None),
        ("n" * 5000, None),
        ("n/" * 3000 + "1", None),
    ],
)
def test_the_file_that_is_meant(name, meant, tmp_path):
    tree(tmp_path, "train/x/1.jpg", "train/y/1.jpg", "train/x/2.jpg")
    file = table(tmp_path / "l.csv", "file,label", "x/1.jpg,a", "y/1,b", f"{name},b".replace("\\\\", "\\"))
    with pytest.raises(LongtailError) as caught:
        data.listing(tmp_path, file)
    said = str(caught.value)
    assert "l.csv" in said and "line 4" in said and "\n" not in said
    assert (f"'{name}' (is {meant} meant?)" in said) if meant else ("meant?" not in said)
