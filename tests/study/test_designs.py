"""Words of the command line that cannot be: one line each, never a traceback or a value that vanishes."""

import numpy as np
import pytest

from config import Config
from errors import ConfigError
from study import designs


@pytest.mark.parametrize("specs", [["lr=1e-3", "lr=1e-2"], ["wd=0.1", "weight_decay=0.2"], ["lr=1e-3", "ls=0", "lr=1"]])
def test_a_setting_stands_once(specs):
    with pytest.raises(ConfigError, match="stands twice: give all its values in one"):
        designs.grid(specs)
    with pytest.raises(ConfigError, match="stands twice"):
        designs.search(specs, 2, np.full((2, len(specs)), 0.5))


@pytest.mark.parametrize("spec", ["weight_decay=0.3..0:log", "weight_decay=0..0.3:log"])
def test_a_logarithm_has_no_zero_at_either_end(spec):
    with pytest.raises(ConfigError, match="LOW..HIGH:log above 0"):
        designs.search([spec], 2, np.full((2, 1), 0.5))


@pytest.mark.parametrize("word", ["xinf", "xnan", "xtwo"])
def test_a_factor_is_a_number(word):
    with pytest.raises(ConfigError, match=f"batch_size={word}"):
        designs.around(Config(), [f"batch_size={word}"])


def test_a_range_may_go_downwards():
    candidates = designs.search(["weight_decay=0.4..0.1:log"], 2, np.array([[0.0], [0.5]]))
    assert [candidate["weight_decay"] for candidate in candidates] == [0.4, 0.2]


def test_an_on_and_off_setting_takes_its_third_value():
    assert designs.grid(["amp=auto,on,false"]) == [dict(amp="auto"), dict(amp=True), dict(amp=False)]
    for word in ("amp=maybe", "flip=auto"):
        with pytest.raises(ConfigError, match="give true or false"):
            designs.grid([word])
