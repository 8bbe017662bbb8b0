"""Config: every field's bounds, round trips, the command line, recipes and keys."""

import dataclasses
import json
import re
import shlex

import pytest

import seeds
import sweep
from bench import benchmark, effects
from config import OFF, REMOVED, Config, config_from, flag_of, read_recipe, spelled, validated
from conftest import ROOT
from engine.flags import SettingsParser, config_from_args, methods_table, train_command
from errors import ConfigError


def parse(line):
    return parse_words(line.split())


def parse_words(words):
    parser = SettingsParser("train.py", "")
    parser.add_settings()
    return config_from_args(parser.parse_args(words))


def numeric():
    return [f for f in dataclasses.fields(Config) if f.type in (int, float)]


@pytest.mark.parametrize("f", numeric(), ids=lambda f: f.name)
def test_bounds_are_kept_and_their_neighbours_refused(f):
    m = f.metadata
    one = m["parts"] in (1, (1, 2))
    for end, beyond in ((m["low"], -1), (m["high"], 1)):
        inside, outside = (end, end + beyond) if one else ([end, end], [end + beyond, end])
        assert validated(f, inside) == (inside if one else tuple(inside))
        for bad in (outside, "x", None, True, float("nan"), [], [1, 1, 1]):
            with pytest.raises(ConfigError, match=flag_of(f.name)):
                validated(f, bad)


@pytest.mark.parametrize("f", [f for f in dataclasses.fields(Config) if f.metadata["choices"]], ids=lambda f: f.name)
def test_choices(f):
    for choice in f.metadata["choices"]:
        assert getattr(parse(f"{flag_of(f.name)} {choice}"), f.name) == choice
    with pytest.raises(ConfigError, match=f.metadata["choices"][0]):
        validated(f, f.metadata["choices"][0] + "x")


def page(capsys, *words):
    with pytest.raises(SystemExit) as stop:
        parse(" ".join(words))
    assert stop.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_all_has_every_flag_with_its_range_and_default(capsys):
    said = page(capsys, "--help-all")
    for f in dataclasses.fields(Config):
        assert f"{flag_of(f.name)} " in said or f"{flag_of(f.name)}," in said
        assert f.metadata["help"] in said
        assert f.type not in (int, float) or f"from {f.metadata['low']} to {f.metadata['high']}" in said
    assert "settings: augmentation" in said


def test_help_is_two_lines_of_usage_and_the_flags_of_every_day(capsys):
    said = page(capsys, "--help")
    daily = [f for f in dataclasses.fields(Config) if f.metadata["daily"]]
    assert len(daily) + 1 == 20  # and --config
    for f in dataclasses.fields(Config):
        assert (f.metadata["help"] in said) == (f in daily)
    for f in daily:
        assert f.default == "" or f"default {'off' if f.default is False else spelled(f.default)}" in said
    assert said.startswith("usage: train.py [-c RECIPE] [--SETTING VALUE ...] train.py --help | --help-all")


def test_a_commands_own_flags_come_first(capsys):
    for main in (sweep.main, seeds.main):
        with pytest.raises(SystemExit):
            main(["--help"])
        said = capsys.readouterr().out
        assert said.index("--seeds" if main is sweep.main else "--compare") < said.index("settings of every day")


def test_a_study_explains_what_it_makes_of_a_runs_flags(capsys):
    for main in (sweep.main, seeds.main):
        with pytest.raises(SystemExit):
            main(["--help-all"])
        said = " ".join(capsys.readouterr().out.split())
        assert "--name NAME folder of the study in --project" in said
        assert "--resume" not in said and "--until" not in said and "--folds FOLDS" in said


def test_the_table_of_methods_is_that_of_the_settings():
    """`python -m engine.flags` prints it."""
    assert "\n".join(methods_table()) in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_aliases_pairs_and_negations():
    c = parse(
        "--smoothing 0.1 --mixup-p 0.3:0.7 --mixup-by class --crop-scale 0.5:1 "
        "--tail-crops 50:2 -b 64 --no-flip --wd 0.05"
    )
    assert (c.ls, c.mixup_p, c.crop_scale, c.tail_crops, c.batch_size, c.flip, c.weight_decay) == (
        0.1,
        (0.3, 0.7),
        (0.5, 1.0),
        (50, 2),
        64,
        False,
        0.05,
    )
    assert parse("--label-smoothing 0.2") == parse("--ls 0.2")
    assert parse("--img-size auto").img_size == "auto" and parse("--size 96").img_size == 96
    assert parse("--img-size 128:224").img_size == (128, 224)


def test_smoothing_goes_from_one_end_to_the_other_in_either_order():
    assert parse("--ls 0.4:0.1 --ls-by frequency").ls == (0.4, 0.1) and parse("--ls 0.1:0.4").ls == (0.1, 0.4)
    with pytest.raises(ConfigError, match="--ls takes one number, or two joined by ':', from 0 to 0.999, not '1:0'"):
        parse("--ls 1:0")
    with pytest.raises(ConfigError, match="the low end comes first"):
        parse("--mixup-p 0.7:0.3 --mixup-by class")


def test_round_trip_through_json(tmp_path):
    c = parse("--mixup-p 0.3:0.7 --mixup-by class --ls 0.4:0.1 --img-size 64 --name x --data é")
    path = tmp_path / "args.json"
    path.write_text(json.dumps({f.name: getattr(c, f.name) for f in dataclasses.fields(c)}))
    assert read_recipe(path) == c


def test_recipe_then_flags(tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"lr": 0.01, "epochs": 7}')
    c = parse(f"-c {path} --epochs 9")
    assert (c.lr, c.epochs) == (0.01, 9)


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"mixupp": 1}', "mixup_p"),
        ("[1]", "JSON object"),
        ("{", "not JSON"),
        ('{"lr": "fast"}', "--lr"),
        ("[" * 100_000, "nested too deep"),
        ('{"lr": ' * 100_000, "nested too deep"),
        ('{"lr": ' + "[" * 900 + "]" * 900 + "}", "--lr takes a number"),
        ('{"lr": 1e400}', "--lr takes a number from 1e-08 to 100, not inf"),
        ('{"epochs": 1e400}', "--epochs takes"),
        ('{"seed": -1e400}', "--seed takes"),
        ('{"lr": NaN}', "--lr takes"),
        ('{"seed": 1%s}' % ("0" * 5000), "not JSON: Exceeds the limit"),
        ('{"seed": 1%s}' % ("0" * 4000), "--seed takes"),
        ('{"lr": 0.1\0}', "not JSON"),
        ("\0" * 100, "not JSON"),
        (r'{"data": "a\u0000b"}', "it is not UTF-8, or holds a NUL or a line break"),
        (r'{"init": "\ud800"}', "it is not UTF-8, or holds a NUL or a line break"),
        (r'{"data": "\udce9"}', "it is not UTF-8, or holds a NUL or a line break"),
        (r'{"labels": "a\nb.csv"}', "it is not UTF-8, or holds a NUL or a line break"),
        (r'{"labels": "b.csv\u2028"}', "it is not UTF-8, or holds a NUL or a line break"),
        (r'{"name": "a\u0000b"}', "it is not UTF-8, or holds a NUL or a line break"),
        ('{"model": "%s"}' % ("resnet" * 100_000 + "\0"), "not JSON"),
        ('{"opt": "%s"}' % ("adam" * 100_000), "--opt"),
        ('{"%s": 1}' % ("x" * 100_000), "unknown setting"),
        ('{"lr": 0.1, "lr": 0.2}', "'lr' stands twice"),
        ('{"mixup_p": {"a": 1}}', "--mixup-p takes"),
        ('{"head": "cubic"}', "--head 'cubic': choose linear"),
        ('{"flip": 1}', "--flip takes true or false"),
        ('{"cutmix_pair": "tail", "mixup_by": "class-batch"}', "--cutmix-pair tail draws a partner for each row"),
        ('{"mixup_pair": "remix", "mixup_by": "batch"}', "a partner for each row: add --mixup-by row, or class"),
        ("", "not JSON"),
        ("\ufeff{", "not JSON"),
    ],
)
def test_bad_recipes_are_refused_by_name(tmp_path, text, said):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as e:
        read_recipe(path)
    assert str(path) in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 1000


def test_a_removed_setting_is_passed_over_where_it_was_off_and_else_refused(tmp_path):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(dict(REMOVED, lr=0.01)))
    assert read_recipe(path) == Config(lr=0.01)
    assert not REMOVED.keys() & {f.name for f in dataclasses.fields(Config)}
    for name, on in (("adapt", "gap"), ("adapt_path", "1:1.2"), ("noise", 0.1)):
        path.write_text(json.dumps({name: on}))
        with pytest.raises(ConfigError) as e:
            read_recipe(path)
        assert str(e.value) == f"{path}: {flag_of(name)} {on!r} was removed: docs/log.md says why"
    for name, choice in (("ls_by", "difficulty"), ("head", "spectral")):
        with pytest.raises(ConfigError, match=f"^{flag_of(name)} {choice} was removed: docs/log.md says why$"):
            Config(**{name: choice})
    with pytest.raises(ConfigError, match="unknown setting 'ema': did you mean ema_epochs?"):
        config_from(dict(ema=0.99))


@pytest.mark.parametrize("raw", [b"\xff\xfe{}", b'{"name": "\xe9"}'])
def test_a_recipe_of_another_encoding_is_a_line(tmp_path, raw):
    (tmp_path / "r.json").write_bytes(raw)
    with pytest.raises(ConfigError, match="not JSON: 'utf-8' codec"):
        read_recipe(tmp_path / "r.json")


def test_a_recipe_may_begin_with_a_mark(tmp_path):
    (tmp_path / "r.json").write_text('\ufeff{"lr": 0.5}', encoding="utf-8")
    assert read_recipe(tmp_path / "r.json").lr == 0.5


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.json")), ids=lambda path: path.stem)
def test_our_recipes_say_how_to_run_them_and_what_they_gave(path):
    read_recipe(path)
    note = json.loads(path.read_text())["note"]
    assert set(re.findall('"(.*?)"', note)) <= effects.METHODS.keys() | benchmark.ROWS.keys()
    assert "python " in note and (re.search(r"\b[0-9a-f]{7}\b", note) or "ot measured" in note)


def test_missing_recipe(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_recipe(tmp_path / "none.json")


@pytest.mark.parametrize(
    "line, said", [("--mixupp 1", "--mixup-p"), ("--lr", "expected one argument"), ("--epoch 3", "--epochs")]
)
def test_usage_errors_are_one_line_and_exit_2(line, said, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(line)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "settings",
    [
        dict(mixup_p=(0.3, 0.7)),
        dict(img_size=(224, 128)),
        dict(img_size=(16, 32), pad=4),
        dict(folds=1),
        dict(folds=3, fold=3),
        dict(stem_kernel=4),
        dict(name="a/b"),
        dict(name=".a"),
        dict(tail_crops=(50, 0)),
        dict(name=""),
        dict(crop_scale=(1, 0.5)),
    ],
)
def test_settings_that_contradict_each_other(settings):
    with pytest.raises(ConfigError):
        Config(**settings)


@pytest.mark.parametrize(
    "settings, said",
    [
        (dict(ls=0.1, ls_by="frequency"), "--ls-by frequency (it needs --ls A:B)"),
        (dict(mixup_pair="remix", mixup_p=0), "--mixup-pair remix (it needs --mixup-p above 0)"),
        (dict(cutmix_pair="tail", cutmix_p=0), "--cutmix-pair tail (it needs --cutmix-p above 0)"),
        (dict(stem="cifar", model="resnet32"), "--stem cifar (it needs --model resnet18)"),
        (dict(warmup=2.0, schedule="onecycle"), "--warmup 2.0 (it needs another --schedule than onecycle)"),
        (dict(crop_scale=(0.5, 1), pad=4), "--crop-scale 0.5:1.0 (it needs --pad 0)"),
        (dict(mixup_by="class", mixup_p=0.4), "--mixup-by class (it needs --mixup-p LOW:HIGH)"),
        (
            dict(balance="sampler", loss_tau=1.0),
            "--loss-tau 1.0 (it needs classes of unlike frequency: drop --balance sampler)",
        ),
    ],
)
def test_settings_that_change_nothing_are_named(settings, said):
    assert Config(**settings).without_effect() == [said]
    needed = dict(mixup_pair="targeted", mixup_alpha=0.8, mixup_p=(0, 0.4), mixup_by="class", cutmix_p=0.3)
    needed |= dict(ls=(0.2, 0.0), model="resnet18", schedule="cosine", pad=0)
    by_class = dict(mixup_p=(0.2, 0.8), mixup_by="class")  # whose targets are not equally frequent
    assert not Config(balance="sampler", loss_tau=1.0, **by_class).without_effect()
    assert not Config().without_effect() and not Config(**settings | needed).without_effect()


def test_key_is_of_settings_and_content_alone():
    key = Config().key("content")
    assert key == Config(data="/else", project="p", name="n", resume=True, device="cpu", threads=3, until=5).key(
        "content"
    )
    changed = dict(lr=3e-3, seed=1, split_seed=1, epochs=3, amp=False, mixup_p=0.1, resize="pad")
    keys = {Config(**{k: v}).key("content") for k, v in changed.items()} | {key, Config().key("other")}
    assert len(keys) == len(changed) + 2


def test_resume_takes_the_runs_own_settings(tmp_path):
    (tmp_path / "run").mkdir()
    saved = Config(lr=0.01, epochs=7, until=2, project=str(tmp_path))
    (tmp_path / "run" / "args.json").write_text(
        json.dumps({f.name: getattr(saved, f.name) for f in dataclasses.fields(saved)})
    )
    c = parse(f"--project {tmp_path} --resume")
    assert (c.lr, c.epochs, c.until, c.resume) == (0.01, 7, 0, True)
    assert parse(f"--project {tmp_path} --resume --lr 0.5").lr == 0.5  # and the run itself then refuses it by name
    assert parse(f"--project {tmp_path}").lr == Config().lr


def test_a_group_is_the_settings_that_a_dataclass_names():
    @dataclasses.dataclass
    class Some:
        lr: float
        epochs: int

    assert Config(lr=0.5).group(Some) == Some(0.5, Config().epochs)


def test_off_is_every_methods_value_where_it_is_not_used():
    """A setting that is off is one that can be typed, and the recipes of a method say its paper."""
    for name, off in OFF.items():
        assert getattr(Config(**{name: off}), name) == off
    assert {"mixup_p", "cutmix_p", "ls", "balance", "crop_scale", "ema_epochs", "pretrained"} <= set(OFF)
    assert not {"lr", "epochs", "seed", "model", "data"} & set(OFF)


def test_the_command_of_a_config_gives_it_again():
    """Through a shell: names with spaces and quotes, ranges, switches, words."""
    config = Config(
        data="my pictures' folder", threads=2, mixup_p=(0.3, 0.7), mixup_by="class", flip=False, skip_bad=True, lr=0.5
    )
    words = shlex.split(train_command(config))
    assert words[:2] == ["python", "train.py"] and parse_words(words[2:]) == config
    assert train_command(Config()) == "python train.py"
    away = Config(project="a b", name="mine", device="cpu", compile=False, label_col="-x")
    assert parse_words(shlex.split(train_command(away))[2:]) == away


def test_threads_typed_above_the_cores_are_refused(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert parse("--threads 4").threads == 4
    with pytest.raises(ConfigError, match="--threads 5: this machine has 4 cores"):
        parse("--threads 5")
    with pytest.raises(ConfigError, match="--threads takes a whole number"):
        parse("--threads many")


def test_a_recipes_threads_give_way_where_there_are_fewer_cores_and_that_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    recipe = tmp_path / "best.json"
    recipe.write_text('{"threads": 4, "ls": 0.2}')
    assert parse(f"-c {recipe}").threads == 4 and capsys.readouterr().err == ""
    recipe.write_text('{"threads": 16, "ls": 0.2}')
    config = parse(f"-c {recipe}")
    assert (config.threads, config.ls) == (0, 0.2)
    said = capsys.readouterr().err
    assert said.startswith(f"{recipe} asks for 16 threads, and this machine has 4 cores") and said.count("\n") == 1
    assert parse(f"-c {recipe} --threads 2").threads == 2 and capsys.readouterr().err == ""
