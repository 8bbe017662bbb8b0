"""Values that other people's code gives for fixed data: run once, by hand, and kept in oracles.json.

    pip install scikit-learn quapy relplot crepes
    python tests/oracles.py

The tests compare with the file, so that they need none of these packages.
"""

import importlib.metadata
import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("oracles.json")
CLASSES = 8
SHIFT = 1.5  # of the mean of the feature of the true class, in standard deviations


def judged(n: int = 1500, temperature: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(log posteriors [n, CLASSES] times `temperature`, targets [n], prior [CLASSES]) of a known world."""
    generator = np.random.default_rng(seed)
    prior = 0.7 ** np.arange(CLASSES)
    prior /= prior.sum()
    targets = np.searchsorted(prior.cumsum(), generator.random(n)).clip(0, CLASSES - 1)
    # Normal noise of uniform draws (Box & Muller), which of a Generator's are the surest to stay as they are.
    first, second = generator.random((2, n, CLASSES))
    features = np.sqrt(-2 * np.log(1 - first)) * np.cos(2 * np.pi * second)
    features[np.arange(n), targets] += SHIFT
    logits = SHIFT * features + np.log(prior)  # Bayes' rule for features that are normal with variance 1
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    return temperature * logits, targets, prior


def main() -> None:
    import relplot
    from crepes import ConformalClassifier
    from quapy.method.aggregative import EMQ
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Fixed(ClassifierMixin, BaseEstimator):
        """A classifier whose decision function is its input."""

        def fit(self, x, y):
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, x):
            return x

        def predict(self, x):
            return x.argmax(1)

    found = {"temperature": [], "prior": [], "smooth_ece": []}
    for temperature in (0.6, 1.0, 1.7):
        logits, targets, prior = judged(temperature=temperature)
        frozen = FrozenEstimator(Fixed().fit(logits, targets))
        calibrated = CalibratedClassifierCV(frozen, method="temperature").fit(logits, targets)
        beta = calibrated.calibrated_classifiers_[0].calibrators[0].beta_
        found["temperature"].append([temperature, 1 / float(beta)])
        posterior = np.exp(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
        # Pictures in which the last classes are as frequent as the first.
        shifted = np.concatenate([np.flatnonzero(targets == c)[:40] for c in range(CLASSES)])
        estimated, _ = EMQ.EM(prior, posterior[shifted], epsilon=1e-10)
        found["prior"].append([temperature, [float(p) for p in estimated]])
        hits = (posterior.argmax(1) == targets).astype(float)
        found["smooth_ece"].append([temperature, float(relplot.smECE(posterior.max(1), hits))])
    # Sets of classes at 90% by p / prior, of rows 300 on; the others are known.
    logits, targets, prior = judged(n=400)
    against = -np.exp(logits) / prior
    known = against[np.arange(300), targets[:300]]
    conformal = ConformalClassifier()
    conformal.fit(known)
    sets = conformal.predict_set(against[300:], confidence=0.9, smoothing=False)
    found["sets"] = " ".join("".join(map(str, np.flatnonzero(row))) for row in sets)
    packages = ("scikit-learn", "quapy", "relplot", "crepes", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    FILE.write_text(json.dumps(dict(versions=versions, **found), indent=1) + "\n")


if __name__ == "__main__":
    main()
