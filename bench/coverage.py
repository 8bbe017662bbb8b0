"""How often an interval of macro F1 holds what it is about, and how wide it is: candidates beside metrics' own.

    python -m bench.coverage [--trials 2000] [--resamples 200]

A classifier is a table of P(predicted | true). Validation sets of fixed class sizes are drawn from it, and an interval
is right where it holds the score of that table itself: what ever more pictures of these shares would give. Situations:
class sizes x the share of right answers x where the wrong ones go. Prints the lowest coverage and the mean width of
each candidate by class sizes, then the chosen one's by share, then standard errors against the true spread.
"""

import math
import sys

import numpy as np

import metrics
from errors import Parser

PAINTERS = (
    "560 443 274 210 201 195 176 161 156 153 147 124 121 121 118 111 111 106 105 96 88 83 82 79 72 71 70 69 68 65 64 "
    "61 58 57 57 55 53 51 51 48 47 41 39 37 30 30 29 28 20 19"
)
SIZES = {
    "painters, a fifth": np.rint(np.array(PAINTERS.split(), float) / 5).astype(int),
    "50 of 2": np.full(50, 2),
    "20 of 3": np.full(20, 3),
    "200, 20, 3": np.array([200, 20, 3]),
    "100 of 1 to 100": np.arange(1, 101),
    "10 of 50": np.full(10, 50),
}
RIGHT = (0.005, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 0.99, 0.998)
WRONG = ("evenly", "to frequent classes", "to frequent classes, rare ones more often", "to one class each")
CHOSEN = "Agresti-Coull with z = 2"
Z = 1.96


def main():
    parser = Parser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000, help="validation sets a situation (default 2000)")
    parser.add_argument(
        "--resamples", type=int, default=200, help="of the bootstrap, which gets a twentieth of the sets"
    )
    args = parser.parse_args()
    found = {}
    for name, sizes in SIZES.items():
        for right in RIGHT:
            for wrong in WRONG:
                found[name, right, wrong] = measure(sizes, classifier(sizes, right, wrong), args)
        print(name, file=sys.stderr)
    report(found, args)


def classifier(sizes, right, wrong):
    """P(predicted | true) [K,K]. right: the share of right answers; wrong: one of WRONG."""
    hit = np.full(len(sizes), right)
    if wrong.endswith("more often"):  # a class of e times as many pictures has 0.7 more of log odds
        log_sizes = np.log(sizes)
        hit = 1 / (1 + (1 - right) / right * np.exp(-0.7 * (log_sizes - log_sizes.mean())))
    if wrong == "to one class each":
        table = np.roll(np.eye(len(sizes)), 1, 1)
    elif wrong == "evenly":
        table = np.ones((len(sizes), len(sizes)))
    else:
        table = np.tile(sizes.astype(float), (len(sizes), 1))
    np.fill_diagonal(table, 0)
    table *= ((1 - hit) / table.sum(1))[:, None]
    np.fill_diagonal(table, hit)
    return table


def measure(sizes, table, args):
    """{candidate: (coverage, mean width)}, and under "error" the mean standard errors by the true spread."""
    cells = sizes[:, None] * table
    truth = np.mean(2 * cells.diagonal() / (cells.sum(0) + sizes))
    rng = np.random.default_rng(0)
    covered, widths, scores, errors = {}, {}, [], {}
    for trial in range(args.trials):
        pairs = np.repeat(np.arange(table.size), rng.multinomial(sizes, table).ravel())
        targets, predicted = np.divmod(pairs, len(sizes))
        intervals, own = candidates(targets, predicted, len(sizes))
        errors.setdefault("jackknife", []).append(own)
        if trial < args.trials / 20:
            drawn = resampled(targets, predicted, len(sizes), args.resamples, rng)
            intervals["percentile bootstrap"] = np.quantile(drawn, [0.025, 0.975])
            errors.setdefault("bootstrap", []).append(drawn.std(ddof=1))
        scores.append(metrics.macro_f1(targets, predicted, len(sizes)))
        for name, (low, high) in intervals.items():
            covered.setdefault(name, []).append(low - 1e-9 <= truth <= high + 1e-9)
            widths.setdefault(name, []).append(min(high, 1) - max(low, 0))
    spread = np.std(scores, ddof=1)
    result = {name: (np.mean(covered[name]), np.mean(widths[name])) for name in covered}
    return result | {"error": {name: np.mean(each) / spread for name, each in errors.items()}}


def candidates(targets, predicted, classes):
    """({name: (low, high)}, the jackknife's standard error) of one set in which every class has a row."""
    score = metrics.macro_f1(targets, predicted, classes)
    error = metrics.macro_f1_error(targets, predicted, classes)
    left_out = metrics.macro_f1_left_out(targets, predicted, classes)
    sizes = np.bincount(targets)
    most = classes**2 / (1 / sizes).sum()
    # The mean over all classes, of which one that lost its only row counts as 0.
    zeroed = np.where(sizes[targets] == 1, left_out * (classes - 1) / classes, left_out)
    n = len(targets)
    zeroed_variance = (n - 1) / n * ((zeroed - zeroed.mean()) ** 2).sum()
    # A jackknife within classes, whose sizes are then taken as given.
    off = left_out - (np.bincount(targets, left_out) / sizes)[targets]
    within_variance = (off**2 * ((sizes - 1) / sizes)[targets]).sum()
    inner = min(max(score, 1e-9), 1 - 1e-9)
    odds, reach = math.log(inner / (1 - inner)), Z * error / (inner * (1 - inner))
    return {
        "jackknife ± 1.96": (score - Z * error, score + Z * error),
        "jackknife, of log odds": (logistic(odds - reach), logistic(odds + reach)),
        "Wilson, within classes": wilson(score, within_variance, most),
        "Wilson, lost class 0": wilson(score, zeroed_variance, most),
        "Wilson": wilson(score, error**2, most),
        "Agresti-Coull": agresti_coull(score, error**2, most),
        CHOSEN: metrics.macro_f1_interval(targets, predicted, classes),
    }, error


def logistic(x):
    return 1 / (1 + math.exp(-min(max(x, -700), 700)))


def agresti_coull(score, variance, most):
    """Theirs of a proportion, among as many rows as would have this variance, at most `most`."""
    more = rows_for(score, variance, most) + Z**2
    centre = score + (0.5 - score) * Z**2 / more
    half = Z * math.sqrt(centre * (1 - centre) / more)
    return centre - half, centre + half


def rows_for(score, variance, most):
    return max(min(score * (1 - score) / variance, most), 1e-9) if variance else most


def wilson(score, variance, most):
    """Wilson's of the same."""
    rows = rows_for(score, variance, most)
    middle = score + Z**2 / (2 * rows)
    half = Z * math.sqrt(score * (1 - score) / rows + (Z / (2 * rows)) ** 2)
    return (middle - half) / (1 + Z**2 / rows), (middle + half) / (1 + Z**2 / rows)


def resampled(targets, predicted, classes, n, rng):
    """Macro F1 [n] of resamples of the rows; a class that a resample misses counts as 0."""
    times = rng.multinomial(len(targets), np.full(len(targets), 1 / len(targets)), size=n).astype(float)
    one_hot = np.eye(classes)
    support, named = times @ one_hot[targets], times @ one_hot[predicted]
    hits = times @ (one_hot[targets] * (targets == predicted)[:, None])
    return (2 * hits / np.maximum(support + named, 1)).mean(1)


def report(found, args):
    """The three tables, as Markdown."""
    names = ["percentile bootstrap", *(name for name in next(iter(found.values())) if name not in NOT_A_ROW)]
    print(
        f"{len(RIGHT) * len(WRONG)} situations for each column, {args.trials} sets each ({args.trials // 20} for the "
        "bootstrap): lowest coverage, mean width\n"
    )
    print("| interval | " + " | ".join(SIZES) + " |\n| --- " + "| --- " * len(SIZES) + "|")
    for name in names:
        cells = []
        for sizes in SIZES:
            rows = [each[name] for (of, *_), each in found.items() if of == sizes]
            cells.append(f"{min(row[0] for row in rows):.3f}, {np.mean([row[1] for row in rows]):.4f}")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"\n{CHOSEN} by share of right answers: lowest coverage, mean width\n")
    print("| right | " + " | ".join(SIZES) + " |\n| --- " + "| --- " * len(SIZES) + "|")
    for right in RIGHT:
        cells = []
        for sizes in SIZES:
            rows = [each[CHOSEN] for (of, share, _), each in found.items() if (of, share) == (sizes, right)]
            cells.append(f"{min(row[0] for row in rows):.3f}, {np.mean([row[1] for row in rows]):.3f}")
        print(f"| {right} | " + " | ".join(cells) + " |")
    print("\nmean standard error by the true one, smallest to largest over the situations from 0.1 to 0.9\n")
    print("| standard error | " + " | ".join(SIZES) + " |\n| --- " + "| --- " * len(SIZES) + "|")
    for name in ("bootstrap", "jackknife"):
        cells = []
        for sizes in SIZES:
            rows = [e["error"][name] for (of, share, _), e in found.items() if of == sizes and 0.1 <= share <= 0.9]
            cells.append(f"{min(rows):.2f} to {max(rows):.2f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


NOT_A_ROW = ("error", "percentile bootstrap")  # of `measure`: no candidate, and the first row


if __name__ == "__main__":
    sys.exit(main())
