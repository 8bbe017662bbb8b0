"""The painters of the built-in set: how many pictures, which habits, and the true posterior in closed form.

A painter has a habit, one level, in each style factor of painting.py. A picture starts from its painter's habits or,
with probability borrow, from those of any painter. Then each factor goes anywhere with probability wander. So
p(style | painter) has a closed form, and p(painter | style) too. Knows styles as numbers and never a pixel or a file.
"""

import itertools

import numpy as np

from errors import LongtailError
from pictures.painting import FACTORS

# Training pictures of each of the study's 50 painters.
COUNTS = (
    560,
    443,
    274,
    210,
    201,
    195,
    176,
    161,
    156,
    153,
    147,
    124,
    121,
    121,
    118,
    111,
    111,
    106,
    105,
    96,
    88,
    83,
    82,
    79,
    72,
    71,
    70,
    69,
    68,
    65,
    64,
    61,
    58,
    57,
    57,
    55,
    53,
    51,
    51,
    48,
    47,
    41,
    39,
    37,
    30,
    30,
    29,
    28,
    20,
    19,
)
FEWEST = 4  # training pictures of a class at any scale
# Probabilities at difficulty 1.
WANDER = 0.01
BORROW = 0.115
LEVELS = [len(levels) for levels in FACTORS.values()]
STYLES = np.array(list(itertools.product(*map(range, LEVELS))))  # int64 [5040, 5], every style, as level numbers


def draw(*, classes: int, scale: float, seed: int, difficulty: float, label_noise: float) -> dict:
    """Everything but the pixels: the arrays of truth.npz, by name. Arguments and arrays: see `make`."""
    for flag, value, low, high in (
        ("--classes", classes, 2, len(STYLES)),
        ("--scale", scale, 1e-6, 1e3),
        ("--seed", seed, 0, 2**63),
        ("--difficulty", difficulty, 0, 1e3),
        ("--label-noise", label_noise, 0, 0.99),
    ):
        if not low <= value <= high:  # true of NaN as well
            raise LongtailError(f"{flag} {value}: give a number from {low} to {high}")
    rng = generator(seed, 0)
    # The order of these draws is part of the set: another order gives other pictures.
    names = _names(rng, classes)
    habits = _habits(rng, classes)
    n = rng.permutation(counts(classes, scale))  # so that the order of the names says nothing
    prior = n / n.sum()
    trains = int(n.sum())
    tests = max(classes, round(trains / 3))
    total = trains + tests
    test = np.arange(total) >= trains
    # One even comb over the prior: a class gets its share of the test pictures, rounded up or down, exact on average.
    teeth = (rng.random() + np.arange(tests)) / tests
    comb = np.searchsorted(np.cumsum(prior)[:-1], teeth, side="right")
    # Shuffled, so that a picture's number does not tell its painter.
    true_train = rng.permutation(np.repeat(np.arange(classes), n))
    true = np.concatenate([true_train, rng.permutation(comb)])

    # Whose habits a picture starts from, and where it leaves them.
    wander = 1 - (1 - WANDER) ** difficulty
    borrow = 1 - (1 - BORROW) ** difficulty
    borrows = rng.random(total) < borrow
    start = np.where(borrows, rng.integers(classes, size=total), true)
    styles = habits[start]
    anywhere = rng.integers(LEVELS, size=styles.shape)
    styles = np.where(rng.random(styles.shape) < wander, anywhere, styles)

    # A wrong label is any of the others: the true one moved by 1 to C - 1, modulo C.
    wrong = (rng.random(total) < label_noise) & ~test
    other = (true + rng.integers(1, classes, size=total)) % classes
    observed = np.where(wrong, other, true)
    files = [
        f"test/{number:06d}.jpg" if test[number] else f"train/{names[observed[number]]}/{number:06d}.jpg"
        for number in range(total)
    ]
    p = posterior(styles, habits, prior, wander, borrow)
    # Test labels are never wrong, so their observed posterior is the true one.
    noise = np.where(test, 0, label_noise)[:, None]
    return dict(
        classes=np.array(names),
        prior=prior,
        habits=habits,
        bayes_accuracy=bayes_accuracy(habits, prior, wander, borrow),
        wander=wander,
        borrow=borrow,
        label_noise=label_noise,
        files=np.array(files),
        test=test,
        true=true,
        observed=observed,
        styles=styles,
        posterior=p,
        posterior_observed=(1 - noise) * p + noise * (1 - p) / (classes - 1),
    )


def counts(classes: int, scale: float) -> np.ndarray:
    """int64 [classes], falling: training pictures by class, `scale` times the study's curve at `classes` even steps."""
    curve = np.interp(np.linspace(0, 1, classes), np.linspace(0, 1, len(COUNTS)), COUNTS)
    return np.maximum(FEWEST, np.rint(curve * scale)).astype(np.int64)


def likelihood(styles: np.ndarray, habits: np.ndarray, wander: float, borrow: float) -> np.ndarray:
    """float64 [N, C]: p(style | painter) of styles [N, 5] for painters with `habits` [C, 5], levels as in FACTORS.

    q(s | h) = prod_f ((1 - wander) [s_f = h_f] + wander / levels_f)
    p(s | c) = (1 - borrow) q(s | h_c) + borrow mean_k q(s | h_k)
    """
    # A factor that wanders may come back to the habit by chance: hence the second term for every level.
    q = np.ones((len(styles), len(habits)))
    for factor, levels in enumerate(LEVELS):
        kept = styles[:, None, factor] == habits[:, factor]
        q *= (1 - wander) * kept + wander / levels
    return (1 - borrow) * q + borrow * q.mean(1, keepdims=True)


def posterior(styles: np.ndarray, habits: np.ndarray, prior: np.ndarray, wander: float, borrow: float) -> np.ndarray:
    """float64 [N, C]: p(painter | style) under the class prior [C]; rows sum to 1."""
    joint = likelihood(styles, habits, wander, borrow) * prior
    return joint / joint.sum(1, keepdims=True)


def bayes_accuracy(habits: np.ndarray, prior: np.ndarray, wander: float, borrow: float) -> float:
    """The accuracy of the best rule that sees the style: sum over all styles of max_c prior_c p(style | c)."""
    # The best rule names the painter with the largest joint probability.
    joint = likelihood(STYLES, habits, wander, borrow) * prior
    return float(joint.max(1).sum())


def generator(seed: int, *key: int) -> np.random.Generator:
    """A random generator of its own for each key, so that the order of the work does not matter."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def _habits(rng, classes):
    """int64 [classes, 5]: distinct styles, each the first of a random order that differs most from those before it."""
    order = rng.permutation(STYLES)
    weight = np.array([2, 1, 1, 1, 2])  # palette and composition have the most levels, and the eye reads them first
    apart = np.full(len(order), weight.sum())  # each style's distance from the nearest one picked
    picked = []
    for _ in range(classes):
        best = int(np.argmax(apart))
        picked.append(best)
        apart = np.minimum(apart, (order != order[best]) @ weight)
    return order[picked]


def _names(rng, classes):
    """Sorted names of nobody."""
    given = "Aurelk Bessim Corvane Dulvie Elowix Fennor Galiv Hespro Ilvo Jorune Kestrax Lumoq Marzil Neriol Orlux"
    stem = "Brax Cald Drov Esk Fald Grimz Hask Isk Jolv Kram Lorv Mosk Narv Olk Pryn Quend Rusk Skarn Trev Ulv Vask"
    ending = (
        "abeque adono aquiv aveeno elloway emirel endoux erquin iblane idorra ilvane imondo ondrel orvane udello umbrel"
    )
    # 15 x 21 x 16 = 5,040: one for each style, which is the most painters that a set can have.
    parts = itertools.product(given.split(), stem.split(), ending.split())
    every = [f"{first} {family}{end}" for first, family, end in parts]
    return sorted(every[number] for number in rng.permutation(len(every))[:classes])
