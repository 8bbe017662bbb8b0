"""How many trials at a time: as many as gain, and as fit."""

import pytest

from config import Config
from conftest import PLAIN
from errors import LongtailError
from study import pace
from study.begin import begin_study


def test_as_many_at_a_time_as_fit(tmp_path, pictures, monkeypatch, capsys):
    """Two fit, four do not: two are taken. Where not even one does, that is the end."""
    base = Config(**dict(PLAIN, data=str(pictures), monitor="last", img_size=16))
    monkeypatch.setattr(pace, "THREADS", 4)
    most = 2

    def rate(config, device, workers, threads, pack, visible):
        if workers > most:
            raise LongtailError("a first few steps could not be trained: the lines above say why")
        return float(workers)

    monkeypatch.setattr(pace, "rate", rate)
    study = begin_study(tmp_path / "s", base, [{}])
    assert pace.measure(study, "cpu")[0].workers == 2
    assert "2 trials at a time: more do not fit" in capsys.readouterr().err
    most = 0
    with pytest.raises(LongtailError, match="could not be trained"):
        pace.measure(begin_study(tmp_path / "t", base, [{}]), "cpu")
