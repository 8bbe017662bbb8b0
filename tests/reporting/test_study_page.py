"""The pages of a study and of seeds: what they say of finished, unfinished, failed, older and damaged ones."""

import json
import re

import numpy as np
import pytest
from test_run_page import Shape, write_svg

import report
from bench.pages import make_study
from study import ranking, repeats
from study.complement import pairs
from study.effects import in_order, pair_means
from study.table import Study


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **how: write_svg(file))


@pytest.fixture
def folder(tmp_path):
    return make_study(tmp_path / "study", 12, 6, 80)


def read(folder):
    text = report.page_of(folder, 0).write().read_text(encoding="utf-8")
    return Shape(text), re.findall(r"<h2>(.*?)</h2>", text)


def only_group(study):
    (group,) = ranking.candidates(study).values()
    return group


def rewrite(path, **changed):
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_a_finished_studys_page_has_every_panel(folder):
    shape, titles = read(folder)
    assert titles == [
        "What came out",
        "Candidates",
        "What moves the score",
        "Sensitivity",
        "Time and failures",
        "Classes",
        "Confusions",
        "Probabilities",
    ]
    assert "The winner is" in shape.text and "Of 12 trials 9 done, 3 failed" in shape.text
    assert "out of memory: try a smaller --batch-size" in shape.text
    (best, *_) = pairs(Study(folder), only_group(Study(folder)))
    assert f"is {best.first.label()} with {best.second.label()}: macro F1 {best.score:.4f}" in shape.text
    names = {path.name for path in (folder / "report").iterdir()}
    assert {"effects.png", "pair_ls_balance.csv", "by_lr.png", "by_balance.csv", "seconds.png"} <= names


def test_candidates_whose_answers_are_gone_are_not_paired(folder):
    for path in (folder / "trials").glob("*/val_logits.npy"):
        path.unlink()
    assert "The best pair to average" not in read(folder)[0].text


def test_a_study_that_goes_on_says_how_far_it_is(folder):
    (folder / "rows" / "0004-30.json").unlink()
    page = report.page_of(folder, 10)
    assert page.refresh == 10
    assert "Of 12 trials 8 done, 3 failed, 1 to run now." in Shape(page.write().read_text()).text


def test_a_study_without_a_row_or_with_failures_alone(folder):
    for path in (folder / "rows").iterdir():
        rewrite(path, status="failed", reason="the loss is not finite")
    assert "No candidate can be ranked yet." in read(folder)[0].text
    for path in (folder / "rows").iterdir():
        path.unlink()
    assert "Of 12 trials 0 done" in read(folder)[0].text


def test_halving_shows_its_rungs(folder):
    rewrite(folder / "study.json", halving=3)
    for path in list((folder / "rows").iterdir()):
        row = json.loads(path.read_text())
        for until in (4, 10):
            (folder / "rows" / f"{row['trial']:04d}-{until}.json").write_text(json.dumps(row | dict(until=until)))
    shape, titles = read(folder)
    assert "Halving" in titles and "12 at epoch 4, 12 at epoch 10, 12 at epoch 30" in shape.text


def test_an_older_studys_settings_are_passed_over(folder):
    rewrite(folder / "study.json", base=json.loads((folder / "study.json").read_text())["base"] | dict(gone=1))
    assert "The winner is" in read(folder)[0].text


def seeds(folder, recipes=("runs/a/best.json", "recipes/b.json"), n=6):
    generator = np.random.default_rng(0)
    results = []
    for place, recipe in enumerate(recipes):
        scores = {}
        for name in ("macro_f1", "acc", "nll", "ece", "worst"):
            values = (generator.random(n) / 100 + 0.4 - 0.1 * place).tolist()
            scores[name] = dict(values=values, mean=float(np.mean(values)), half=0.01, sd=0.005)
        results.append(dict(recipe=recipe, n=n, pictures=80, agreement=0.75, scores=scores))
    (folder / "summary.json").write_text(json.dumps(results))
    lines = ["recipe,class,pictures,f1_mean,f1_sd,f1_min,f1_max"]
    lines += [f"{recipe},class {c},9,0.5,0.{c},0.4,0.6" for recipe in recipes for c in range(6)]
    (folder / "per_class.csv").write_text("\n".join(lines) + "\n")


def test_seeds_have_a_panel_of_their_own(folder):
    seeds(folder)
    shape, titles = read(folder)
    assert titles[1] == "Seeds" and "6 seeds: runs/a/best.json: macro F1 0.40" in shape.text
    assert re.search(r"Same seed, a/best.json less recipes/b.json: \+0\.(09|10)\d\d ", shape.text)
    assert "exact sign-flip p 0.031" in shape.text  # 2 / 2^6
    rows = (folder / "report" / "seeds_macro_f1.csv").read_text().splitlines()
    assert rows[0] == "group,macro F1" and len(rows) == 13 and rows[1].startswith("a/best.json,0.4")
    loose = (folder / "report" / "spread.csv").read_text().splitlines()
    assert loose[1].startswith("class 5,")  # the least stable first


def test_seeds_of_one_recipe_have_no_winner_to_explain_and_nothing_to_compare(folder):
    rewrite(folder / "study.json", trials=[dict(seed=seed) for seed in range(12)])
    for seed in range(12):
        rewrite(folder / "rows" / f"{seed:04d}-30.json", seed=seed)
    seeds(folder, recipes=("runs/a/best.json",))
    shape, _ = read(folder)
    assert "6 seeds: runs/a/best.json: macro F1 0.40" in shape.text and "Trial 9 failed" in shape.text
    assert "can be ranked" not in shape.text and "side by side" not in shape.text


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"recipe": "a"}]'])
def test_damaged_seeds_are_a_line(folder, content):
    seeds(folder)
    (folder / "summary.json").write_text(content)
    assert "is damaged: seeds.py writes them again" in read(folder)[0].text


def test_agreement_is_the_share_of_pictures_labelled_alike(tmp_path):
    folder = make_study(tmp_path / "study", 3, 4, 50, failed=0)
    spec = json.loads((folder / "study.json").read_text())
    rewrite(folder / "study.json", trials=[dict(seed=seed) for seed in range(3)], base=spec["base"])
    names, shares = repeats.agreement(Study(folder))
    assert names == ["seed 0", "seed 1", "seed 2"]
    answers = [np.load(Study(folder).run(i) / "val_logits.npy").argmax(1) for i in range(3)]
    for a in range(3):
        for b in range(3):
            assert shares[a, b] == pytest.approx((answers[a] == answers[b]).mean())


def test_levels_have_an_order_and_pairs_their_means():
    assert in_order(["0.001 to 0.01", "none", "10", "2", "0.0001 to 0.001", "2"]) == [
        "0.0001 to 0.001",
        "0.001 to 0.01",
        "2",
        "10",
        "none",
    ]
    rows, columns, cells = pair_means([1.0, 3.0, 5.0], dict(a=["x", "x", "y"], b=["1", "1", "2"]), "a", "b")
    assert (rows, columns) == (["x", "y"], ["1", "2"])
    assert cells[0, 0] == 2 and cells[1, 1] == 5 and np.isnan(cells[[0, 1], [1, 0]]).all()
