"""The page of a run: whole where the run is done, and of use where it is not, failed, or is old, damaged or hostile."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import report
import train
from config import REMOVED, Config
from conftest import PLAIN
from engine import resident
from engine.album import Album
from engine.build import plans_of, prepare_pictures
from engine.folder import read_folder
from engine.redraw import denormalised
from pictures.names import visible
from plan import Plan
from posterior.evidence import of_run
from posterior.priors import TAUS
from samples import judged_run, table

HOSTILE = ['<script>alert("1")</script>', 'O\'Hara & "Sons"', "🎨 $x_1$", "\u202eevil", "a\x1b[31mred\x1b[0m", "מונה"]


class Shape(HTMLParser):
    """What a browser would see: the tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self._inside = [], "", []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self.text += data


@pytest.fixture
def undrawn(monkeypatch):
    """Charts are made and not drawn, which takes most of the time."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **how: write_svg(file))


def write_svg(file):
    (file.write if hasattr(file, "write") else file.write_text)('<svg viewBox="0 0 1 1"></svg>')


def page(folder, *flags):
    assert report.main([str(folder), *flags]) == 0
    return (folder / "report.html").read_text(encoding="utf-8")


def epochs(folder, *rows, header="epoch,last_lr,train_loss,train_acc,acc,macro_f1,many,medium,few,nll,ece"):
    table(folder / "results.csv", header, *rows)


def judged(tmp_path, names=None, n=240):
    """A finished run of 6 classes whose judge is right on most pictures."""
    generator = np.random.default_rng(0)
    counts = np.array([80, 60, 50, 30, 12, 8])
    targets = np.repeat(np.arange(6), counts)[:n]
    logits = generator.normal(0, 1, (n, 6)) + 2.5 * np.eye(6)[targets]
    folder = judged_run(tmp_path / "run", logits, targets, counts, data=str(tmp_path / "gone"), epochs=3)
    names = names or [f"painter {c}" for c in range(6)]
    (folder / "classes.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    for file in ("val_predictions.csv", "per_class.csv"):
        with open(folder / file, newline="", encoding="utf-8") as f:
            rows = list(csv.reader(f))
        rows = [[names[int(cell[-1])] if cell.startswith("painter ") else cell for cell in row] for row in rows]
        with open(folder / file, "w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows(rows)
    with open(folder / "split.csv", "w", newline="", encoding="utf-8") as f:
        rows = [[f"{i:05d}.jpg", names[t], "val" if i % 2 else "train"] for i, t in enumerate(targets)]
        csv.writer(f).writerows([["path", "class", "part"], *rows])
    epochs(folder, *(f"{e},0.001,{2 / e},0.{e}5,0.{e},0.{e},0.{e},0.{e},0.{e},{1.5 / e},0.0{e}" for e in (1, 2, 3)))
    (folder / "best.pt").write_bytes(b"")
    return folder


def test_a_finished_runs_page_has_every_panel_and_its_files(tmp_path):
    folder = judged(tmp_path)
    shape = Shape(page(folder))
    titles = re.findall(r"<h2>(.*?)</h2>", (folder / "report.html").read_text())
    assert titles == [
        "What came out",
        "Learning",
        "Classes",
        "Confusions",
        "Probabilities",
        "Scores and guesses",
        "Pictures",
        "Kinds of pictures",
        "What the network saw",
        "Data",
        "What made it",
    ]
    assert "of 3 is kept: macro F1" in shape.text and "most frequent class gets" in shape.text
    links = [attrs["href"] for tag, attrs in shape.tags if tag == "a" and attrs["href"].startswith("report/")]
    assert len(links) > 20 and {*links} == {f"report/{path.name}" for path in (folder / "report").iterdir()}
    for link in links:
        if link.endswith("png"):
            with Image.open(folder / link) as picture:
                assert picture.width > 300 and len(picture.getcolors(10**6)) > 10
    with open(folder / "report" / "frontier.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    found = of_run(folder)
    predicted = found.log_posterior.argmax(1)
    (as_trained,) = (row for row in rows if row["group"] == "as trained")
    assert float(as_trained["accuracy"]) == (predicted == found.targets).mean() and len(rows) == len(TAUS)
    with open(folder / "report" / "macro_f1.csv", newline="") as f:
        assert list(csv.reader(f)) == [["epoch", "macro_f1"], ["1", "0.1"], ["2", "0.2"], ["3", "0.3"]]


def test_nothing_is_asked_of_the_network(tmp_path):
    text = page(judged(tmp_path))
    for tag, attrs in Shape(text).tags:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:", "report/")), (tag, attrs)
    assert "default-src 'none'" in text and "@import" not in text
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_names_are_shown_as_text(tmp_path):
    text = page(judged(tmp_path, names=HOSTILE))
    shape = Shape(text)
    scripts = [attrs for tag, attrs in shape.tags if tag == "script"]
    assert sum("type" not in attrs for attrs in scripts) == 1  # the page's own
    for name in HOSTILE:
        assert visible(name) in shape.text
    assert not set(text) & {"\x1b", "\u202e"}
    said = [json.loads(each) for each in re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)]
    grid = next(each["grid"] for each in said if each["grid"])
    assert sorted(grid["names"]) == sorted(map(visible, HOSTILE))


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain é", "plain é"),
        ("\x1b[31m", "␛[31m"),
        ("a\nb\x7f", "a␊b␡"),
        ("\u202ex", "⟨U+202E⟩x"),
        ("\udcff", "\ufffd"),
    ],
)
def test_what_cannot_be_seen_is_shown_by_a_sign(text, shown):
    assert visible(text) == shown


def test_a_run_in_progress_has_its_curves_and_reads_itself_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "args.json").write_text(json.dumps(dict(Config(epochs=9).settings(), data=str(tmp_path))))
    epochs(folder, "1,0.001,2,0.2,0.3,0.2,0.3,0.2,0.1,1.9,0.1", "2,0.001,1.5,0.3,0.4,0.3,0.4,0.")  # a line half written
    shape = Shape(report.page_of(folder, 10).write().read_text())
    assert "stands after 1 of 9 epochs: macro F1 0.200" in shape.text and "--resume goes on" in shape.text
    assert (folder / "report" / "loss.png").exists() and ("html", {"lang": "en", "data-refresh": "10"}) in shape.tags


def test_a_run_that_failed_at_once_says_what_it_said_last(tmp_path, undrawn):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "args.json").write_text(json.dumps(dict(Config().settings(), data=str(tmp_path))))
    table(folder / "train.log", "run: 100 pictures", "train.py: the loss is not finite at epoch 1, step 3")
    assert "the loss is not finite at epoch 1, step 3" in Shape(page(folder)).text


def test_an_older_versions_names_are_read(tmp_path, undrawn):
    folder = judged(tmp_path)
    epochs(folder, "1,0.001,2,0.2,0.4,0.3,1.7", "2,0.001,1,0.4,0.5,0.4,1.2",
           header="epoch,lr,train_loss,train_acc,val_acc,macro_f1,val_loss")  # fmt: skip
    settings = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(settings | REMOVED | dict(the_setting_that_is_gone=1)))
    shape = Shape(page(folder))
    assert "validation ends at 1.2" in shape.text and "macro F1 0." in shape.text
    assert f"{tmp_path / 'gone'} is not there" in shape.text  # the folder, not the setting, hides the pictures
    for name in ("a", "b"):
        (tmp_path / "gone" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "gone" / name / "1.png")
    assert "of another version, with settings unknown here: the_setting_that_is_gone" in Shape(page(folder)).text


@pytest.mark.parametrize("name", ["args.json", "env.json", "results.csv", "val_logits.npy", "val_predictions.csv",
                                  "per_class.csv", "classes.txt", "split.csv", "evaluation.json", "calibration.json",
                                  "filters.npy"])  # fmt: skip
@pytest.mark.parametrize("content", [b"", b"\xff\x00{,\n["])
def test_a_damaged_file_costs_its_panel_alone(tmp_path, undrawn, name, content):
    folder = judged(tmp_path, n=60)
    (folder / name).write_bytes(content)
    assert "What came out" in page(folder)


def test_the_share_held_out_is_that_of_the_split(tmp_path, undrawn):
    """The setting plays no part where the data has validation pictures of its own."""
    folder = judged(tmp_path, n=60)
    rows = [f"{part}/{i}.jpg,painter 0,{part}" for part, count in (("train", 3), ("val", 1)) for i in range(count)]
    (folder / "split.csv").write_text("\n".join(["path,class,part", *rows]) + "\n")
    assert "0.25 of the pictures" in Shape(page(folder)).text


def test_a_line_that_was_cut_is_told(tmp_path, undrawn):
    folder = judged(tmp_path, n=60)
    text = (folder / "results.csv").read_text()
    (folder / "results.csv").write_text(text[: text.rstrip().rindex(",")] + "\n")
    assert "results.csv has 1 line that is not whole" in Shape(page(folder)).text


def test_a_run_of_the_built_in_set_finds_its_pictures_without_a_word(tmp_path, pictures, monkeypatch, capsys):
    """Its folder is in env.json; that nobody named data is no news to who reads a report."""
    folder = judged(tmp_path)
    settings = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(settings | dict(data="")))
    (folder / "env.json").write_text(json.dumps(dict(data=str(pictures))))
    monkeypatch.setattr("pictures.synthetic.is_there", lambda: True)
    album = Album(read_folder(folder))
    assert not album.why and album.files and capsys.readouterr().err == ""


def test_what_is_no_run_is_a_line(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"report.py: {tmp_path}: no run there (no args.json)\n"


def test_the_newest_is_taken_where_none_is_named(tmp_path, undrawn, capsys):
    judged(tmp_path)
    assert report.main(["--project", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/run/report.html\n"
    assert report.main(["--project", str(tmp_path / "none")]) == 1


def test_a_real_run_shows_its_pictures_and_the_batch_that_it_saw(pictures, tmp_path, undrawn):
    config = Config(**PLAIN | dict(mixup_p=0.5, cutmix_p=0.4, jitter=0.3, erase=0.3, crop_scale=(0.5, 1.0)),
                    data=str(pictures), project=str(tmp_path))  # fmt: skip
    train.train(config)
    folder = tmp_path / "run"
    shape = Shape(page(folder))
    alts = [attrs for tag, attrs in shape.tags if tag == "img" and attrs["src"].startswith("data:image/jpeg")]
    assert len(alts) > 16 and ("span", {"class": "gone"}) not in shape.tags and "train/red/" in shape.text
    assert "First filters, at the start" in shape.text and "as long as the start" in shape.text
    # The Store and its plan, as training had them.
    found = prepare_pictures(config)
    plan = plans_of(config, found)[0](0)
    step = Plan(*(each[0] for each in plan))
    side = found.store.pixels.shape[1]
    pixels = resident.levels(found.store, torch.device("cpu"))[side]
    every = np.arange(len(pixels))
    half = [0.5] * 3
    wanted = denormalised(step, pixels, every, size=32, mean=half, std=half, border="reflect")
    seen = Album(read_folder(folder)).batch()
    assert len(seen) == 8
    for own, tile, index, partner, lam in zip(seen, wanted, step.index, step.partner, step.lam):
        assert (own.pixels == tile).all() and own.lam == lam
        names = [found.listing.classes[found.listing.labels[row]] for row in (index, partner)]
        assert [own.own, own.partner] == names
