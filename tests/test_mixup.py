"""Lambda, boxes and probabilities against closed forms. Bounds are 4.5 standard errors; seeds are fixed."""

import numpy as np
import pytest

import mixup

PAINTERS = [
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
]
ROWS = ("row", "class")
BATCHES = ("batch", "class-batch")


def mixing(**options):
    settings = dict(mixup_p=0.0, mixup_alpha=1.0, mixup_by="row", mixup_pair="uniform")
    settings |= dict(cutmix_p=0.0, cutmix_pair="uniform")
    return mixup.Mixing(**settings | options)


def drawn(labels, seed=0, counts=(9, 5, 1), size=64, **options):
    rng, pair_rng = (np.random.default_rng([seed, part]) for part in range(2))
    lam, blend, box = mixup.draw(rng, pair_rng, labels, labels, np.array(counts), size, mixing(**options))
    assert np.array_equal(lam, blend) and blend is not lam  # no method here parts them
    return lam, box


def area(box):
    return (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])


def near(share, p, n, errors=4.5):
    assert abs(share - p) <= errors * (p * (1 - p) / n) ** 0.5


# Probability by class


def test_class_probability_is_the_studys_formula():
    found = mixup.class_probability(PAINTERS, 0.3, 0.7)
    lo, hi = min(PAINTERS), max(PAINTERS)
    assert found == pytest.approx([0.3 + 0.4 * (1 - (n - lo) / (hi - lo)) for n in PAINTERS], abs=1e-15)
    assert found[0] == pytest.approx(0.3) and found[-1] == pytest.approx(0.7)


def test_class_probability_at_the_edges():
    assert mixup.class_probability([4, 4, 4], 0.2, 0.9) == pytest.approx([0.2] * 3)
    assert mixup.class_probability([7], 0.2, 0.9) == pytest.approx([0.2])
    with_absent = mixup.class_probability([10, 0, 2, 6], 0.2, 0.6)  # a class without a picture does not set the ends
    assert with_absent[[0, 2, 3]] == pytest.approx([0.2, 0.6, 0.4]) and 0.2 <= with_absent[1] <= 0.6


def test_rows_mix_as_often_as_their_class_says():
    labels = np.tile(np.arange(3), (4000, 5))
    lam, _ = drawn(labels, mixup_p=(0.2, 0.8), mixup_by="class")
    for c, p in enumerate(0.2 + 0.6 * (9 - np.array([9, 5, 1])) / 8):
        near((lam < 1)[labels == c].mean(), p, 20_000)
    pairs = (lam < 1)[:, 0] * 2 + (lam < 1)[:, 3]  # two rows of one class draw for themselves
    near((pairs == 3).mean(), 0.2**2, 4000)


def test_a_batch_mixes_as_often_as_the_mean_of_its_rows():
    labels = np.zeros((9000, 4), int)
    labels[1::3] = [0, 0, 2, 2]
    labels[2::3] = [2, 2, 2, 1]
    lam, _ = drawn(labels, mixup_p=(0.1, 0.9), mixup_by="class-batch")
    p = np.array([0.1, 0.5, 0.9])  # counts 9, 5, 1
    for i, rows in enumerate(([0, 0, 0, 0], [0, 0, 2, 2], [2, 2, 2, 1])):
        near((lam[i::3, 0] < 1).mean(), p[rows].mean(), 3000)


def test_one_number_is_everybodys_probability():
    labels = np.random.default_rng(1).integers(0, 3, (500, 40))
    for by in ROWS:
        lam, box = drawn(labels, mixup_p=0.4, mixup_by=by)
        near((lam < 1).mean(), 0.4, lam.size)
        assert not box.any()


# Lambda


@pytest.mark.parametrize("alpha", [0.2, 0.4, 1.0, 2.0, 8.0])
def test_lambda_is_beta(alpha):
    lam, _ = drawn(np.zeros((400, 100), int), mixup_p=1.0, mixup_alpha=alpha)
    lam, n = lam.astype(float).ravel(), lam.size
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(lam.mean() - 0.5) < 4.5 * (variance / n) ** 0.5
    kurtosis = 3 * (2 * alpha + 1) / (2 * alpha + 3)  # of Beta(alpha, alpha), fourth moment over squared variance
    assert abs(lam.var() - variance) < 4.5 * variance * ((kurtosis - 1) / n) ** 0.5
    if alpha == 1:
        assert np.abs(np.sort(lam) - (np.arange(n) + 0.5) / n).max() < 1.95 / n**0.5


def test_extreme_alphas_stay_finite():
    for alpha in (1e-3, 100.0):
        lam, box = drawn(np.zeros((200, 32), int), mixup_p=0.5, cutmix_p=0.5, mixup_alpha=alpha)
        assert np.isfinite(lam).all() and lam.min() >= 0 and lam.max() <= 1
        assert box.min() >= 0 and box.max() <= 64


# CutMix


@pytest.mark.parametrize("size", [8, 31, 64, 224])
@pytest.mark.parametrize("by", ROWS + BATCHES)
def test_cutmix_lambda_is_one_less_the_boxs_share(size, by):
    lam, box = drawn(np.zeros((600, 8), int), size=size, cutmix_p=0.7, mixup_p=0.5, mixup_by=by)
    y0, x0, y1, x1 = np.moveaxis(box, -1, 0)
    assert all((low >= 0).all() and (low <= high).all() and (high <= size).all() for low, high in ((y0, y1), (x0, x1)))
    cut = box.any(-1)
    assert (lam[cut] == (1 - area(box)[cut] / size**2).astype(np.float32)).all()
    assert ((lam < 1) | ~cut | (area(box) == 0)).all()
    unclipped = (y0 > 0) & (x0 > 0) & (y1 < size) & (x1 < size)
    assert np.abs((y1 - y0) - (x1 - x0))[unclipped].max() <= 1  # square, but for whole pixels


def test_cutmix_boxes_are_as_large_as_the_paper_says():
    # Side r = sqrt(1 - lam) about a centre uniform on the picture: clipping leaves r - r^2/4 of each side in the mean;
    # with lam uniform, the mean area is E[(r - r^2/4)^2] = 1/2 - 1/5 + 1/48.
    lam, box = drawn(np.zeros((500, 100), int), size=512, cutmix_p=1.0)
    share = area(box) / 512**2
    assert abs(share.mean() - (1 / 2 - 1 / 5 + 1 / 48)) < 4.5 * share.std() / share.size**0.5
    middle = (box[..., :2] + box[..., 2:])[(box[..., :2] > 0).all(-1) & (box[..., 2:] < 512).all(-1)] / 2
    assert np.abs(middle.mean(0) - 256).max() < 4.5 * middle.std() / len(middle) ** 0.5


@pytest.mark.parametrize("by", ROWS + BATCHES)
def test_cutmix_comes_first_and_mixup_among_the_rest(by):
    labels = np.zeros((12_000, 3), int)
    lam, box = drawn(labels, size=256, cutmix_p=0.3, mixup_p=0.6, mixup_by=by)
    cut = box.any(-1)  # a box without a pixel is too rare at 256 px to be seen
    near(cut[:, 0].mean(), 0.3, 12_000)
    near((~cut & (lam < 1))[:, 0].mean(), 0.7 * 0.6, 12_000)


def test_turning_mixup_on_leaves_cutmix_as_it_was():
    labels = np.zeros((300, 8), int)
    (lam, box), (both, box_both) = (drawn(labels, cutmix_p=0.3, mixup_p=p) for p in (0.0, 0.6))
    assert (box == box_both).all() and (lam == both)[box.any(-1)].all() and (both < lam).any()


# Partners


def fits(sample, distribution, above=0.0):
    """Whether a sample is of a distribution function, by Kolmogorov and Smirnov; 1.95 is passed once in a thousand.
    above: where numbers are smaller they are rounded, and not looked at."""
    sample = np.sort(sample.ravel())
    steps = np.arange(len(sample) + 1) / len(sample)
    at = distribution(sample)
    distance = np.maximum(np.abs(at - steps[1:]), np.abs(at - steps[:-1]))
    assert distance[sample >= above].max() < 1.95 / len(sample) ** 0.5


def paired(own, partner, seed=0, **options):
    """(lam, blend) of rows that all mix, of classes with so many training pictures."""
    counts = np.array([own, partner])
    labels = np.zeros((500, 200), int)
    rng, pair_rng = (np.random.default_rng([seed, part]) for part in range(2))
    settings = mixing(mixup_p=1.0, **options)
    lam, blend, box = mixup.draw(rng, pair_rng, labels, labels + 1, counts, 64, settings)
    assert not box.any()
    return lam.astype(float), blend.astype(float)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 3.0])
def test_balanced_partners_weigh_beta_alpha_1(alpha):
    lam, blend = paired(30, 3, mixup_pair="balanced", mixup_alpha=alpha)
    assert np.array_equal(lam, blend)
    fits(1 - lam, lambda weight: weight**alpha, above=1e-5)  # float32 knows lam to 6e-8


@pytest.mark.parametrize("own, partner", [(30, 10), (29, 10), (10, 30), (10, 29), (500, 1), (1, 500), (7, 7)])
def test_remix_moves_the_label_as_its_authors_do(own, partner):
    lam, blend = paired(own, partner, mixup_pair="remix")
    for y, x in zip(lam[0], blend[0]):
        expected = x
        if own / partner >= 3 and x < 0.5:
            expected = 0
        if own / partner <= 1 / 3 and 1 - x < 0.5:
            expected = 1
        assert y == expected
    plain, plain_blend = paired(own, partner)
    assert np.array_equal(blend, plain) and np.array_equal(plain, plain_blend)  # pixels mix as ever


@pytest.mark.parametrize("own, partner", [(90, 10), (10, 90), (7, 7)])
@pytest.mark.parametrize("alpha", [0.8, 3.0])
def test_targeted_weights_are_shifted_towards_the_rarer_class(own, partner, alpha):
    lam, blend = paired(own, partner, mixup_pair="targeted", mixup_alpha=alpha)
    assert np.array_equal(lam, blend)
    shift = partner / (own + partner)

    def distribution(x):
        """Of (weight + shift) mod 1, from the distribution function of the weight on a grid."""
        weight, density = beta_grid(alpha)
        at = np.interp(np.array([x - shift, 1 - shift + x]), weight, density.cumsum())
        wrapped = np.maximum(at[1] - np.interp(1 - shift, weight, density.cumsum()), 0)
        return at[0] + wrapped

    fits(lam, distribution)
    if alpha < 1:  # where it is most likely: at the partner's weight that its rarity asks for
        places = np.histogram(lam, bins=20, range=(0, 1))[0]
        assert abs((places.argmax() + 0.5) / 20 - shift) < 0.06


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 3.0, 100.0])
def test_the_beta_distributions_function(alpha):
    x = np.array([1e-6, 0.01, 0.1, 0.35, 0.5, 0.61, 0.9, 0.999])
    found = mixup.beta_below(x, alpha)
    if alpha == 1:
        assert found == pytest.approx(x, rel=1e-12)
    if alpha == 3:
        assert found == pytest.approx(x**3 * (10 - 15 * x + 6 * x**2), rel=1e-10)
    weight, density = beta_grid(alpha)
    order = np.argsort(weight)
    assert found == pytest.approx(np.interp(x, weight[order], density[order].cumsum()), abs=1e-4)
    assert (np.diff(found) > 0).all() or alpha == 100


def test_a_pair_rule_leaves_cutmix_alone():
    labels = np.random.default_rng(0).integers(0, 3, (300, 8))
    for pair in ("balanced", "remix", "targeted"):
        tables = []
        for rule in ("uniform", pair):
            rng, pair_rng = (np.random.default_rng(part) for part in range(2))
            settings = mixing(cutmix_p=0.3, mixup_p=0.6, mixup_pair=rule)
            tables.append(mixup.draw(rng, pair_rng, labels, labels[::-1], np.array([90, 9, 1]), 32, settings))
        (lam, _, box), (other, _, other_box) = tables
        cut = box.any(-1)
        assert np.array_equal(box, other_box) and np.array_equal(lam[cut], other[cut])
        assert np.array_equal(lam == 1, (other == 1) & (tables[1][1] == 1)) and (lam != other).any()


# The classes' shares that a rule makes


@pytest.mark.parametrize("alpha", [0.2, 0.8, 1.0, 10.0])
@pytest.mark.parametrize("pair", ["balanced", "remix", "targeted"])
def test_the_mean_of_lam_in_closed_form(pair, alpha):
    """Against the mean over a fine grid of the distribution's quantiles, with the authors' rule written out."""
    sizes = np.array([100, 40, 12, 4])
    found = mixup.mean_lam(sizes[:, None], sizes[None, :], mixing(mixup_pair=pair, mixup_alpha=alpha))
    weight, density = beta_grid(alpha)
    balanced = 1 - ((np.arange(10**5) + 0.5) / 10**5) ** (1 / alpha)
    for i, own in enumerate(sizes):
        for j, partner in enumerate(sizes):
            kept = weight.copy()
            if pair == "balanced":
                assert found[i, j] == pytest.approx(balanced.mean(), abs=1e-5)
                continue
            if pair == "targeted":
                kept += partner / (own + partner)
                kept[kept > 1] -= 1
            elif own >= 3 * partner:
                kept[weight < 0.5] = 0
            elif partner >= 3 * own:
                kept[weight > 0.5] = 1
            assert found[i, j] == pytest.approx((kept * density).sum(), abs=1e-5)


def beta_grid(alpha):
    """Weights in (0, 1) and their probabilities under Beta(alpha, alpha), by the substitution w = sin^2 t."""
    t = (np.arange(10**5) + 0.5) / 10**5 * np.pi / 2
    density = (np.sin(t) * np.cos(t)) ** (2 * alpha - 1)
    if alpha < 0.5:  # infinite at the ends: by symmetry and the substitution s = t^(2 alpha) near both
        s = (np.arange(10**5) + 0.5) / 10**5 * (np.pi / 4) ** (2 * alpha)
        t = s ** (1 / (2 * alpha))
        density = (np.sin(t) * np.cos(t) / t) ** (2 * alpha - 1)
        t, density = np.concatenate([t, np.pi / 2 - t]), np.concatenate([density, density])
    return np.sin(t) ** 2, density / density.sum()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 10.0])
def test_the_mean_box_in_closed_form(alpha):
    """Against the mean over weights and centres: clipped sides in float64, on a grid."""
    weight, density = beta_grid(alpha)
    half = np.sqrt(weight) / 2
    centres = (np.arange(1000) + 0.5) / 1000
    some = slice(None, None, 101)
    sides = np.minimum(1, centres + half[some, None]) - np.maximum(0, centres - half[some, None])
    expected = (sides.mean(1) ** 2 * density[some]).sum() / density[some].sum()
    assert mixup.mean_box(alpha) == pytest.approx(expected, abs=2e-4)
    lam, box = drawn(np.zeros((1000, 100), int), size=128, cutmix_p=1.0, mixup_alpha=alpha)
    share = area(box) / 128**2
    assert share.mean() == pytest.approx(mixup.mean_box(alpha), abs=4.5 * share.std() / share.size**0.5)


@pytest.mark.parametrize(
    "epochs, schedule, off",
    [(200, "step", [0, 1, 2, 197, 198, 199]), (50, "cosine", [0, 1, 2, 48, 49]), (1, "cosine", [])]
    + [(8, "cosine", [0, 1]), (100, "constant", [0, 1, 2])],
)
def test_epochs_without_tail_boxes(epochs, schedule, off):
    settings = mixing(cutmix_p=0.4, cutmix_pair="tail")
    found = [mixup.in_epoch(settings, epoch, epochs, schedule).cutmix_p for epoch in range(epochs)]
    assert found == [0.0 if epoch in off else 0.4 for epoch in range(epochs)]
    plain = mixing(cutmix_p=0.4)
    assert all(mixup.in_epoch(plain, epoch, epochs, schedule) == plain for epoch in range(epochs))


# Shapes and modes


@pytest.mark.parametrize("by", BATCHES)
def test_a_batch_has_one_lambda_and_one_box(by):
    lam, box = drawn(np.zeros((200, 7), int), cutmix_p=0.4, mixup_p=0.5, mixup_by=by)
    assert (lam == lam[:, :1]).all() and (box == box[:, :1]).all()
    assert len(np.unique(lam)) > 100
    lam[0, 0] = box[0, 0, 0] = 7  # plain arrays that can be written
    assert mixup.in_batch(by)


@pytest.mark.parametrize("by", ROWS)
def test_rows_draw_for_themselves(by):
    lam, box = drawn(np.zeros((50, 64), int), cutmix_p=0.4, mixup_p=0.5, mixup_by=by)
    assert min(len(np.unique(step)) for step in lam) > 20 and not mixup.in_batch(by)


@pytest.mark.parametrize("by", ROWS + BATCHES)
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 9)])
def test_shapes_dtypes_and_certainties(by, shape):
    labels = np.zeros(shape, int)
    lam, box = drawn(labels, mixup_by=by)
    assert lam.dtype == np.float32 and box.dtype == np.int32 and lam.shape == shape and box.shape == (*shape, 4)
    assert (lam == 1).all() and not box.any()
    lam, box = drawn(labels, mixup_by=by, mixup_p=1.0)
    assert (lam < 1).all() and not box.any()


def test_pure():
    labels = np.random.default_rng(0).integers(0, 3, (20, 8))
    options = dict(cutmix_p=0.3, mixup_p=(0.1, 0.9), mixup_by="class")
    first, again, other = drawn(labels, **options), drawn(labels, **options), drawn(labels, seed=1, **options)
    assert all((a == b).all() for a, b in zip(first, again)) and (first[0] != other[0]).any()
