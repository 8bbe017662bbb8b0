"""posterior/mistakes.py: against SciPy's clusters, known label errors, closed forms and simulated sets."""

import math

import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from scipy.stats import binomtest

from posterior.mistakes import cluster_order, f1_interval, segments, suspects


@pytest.mark.parametrize("hits, missed, wrongly", [(0, 3, 2), (4, 0, 0), (5, 3, 2), (1, 0, 30)])
def test_f1_interval_is_wilsons_of_the_jaccard_share(hits, missed, wrongly):
    found = f1_interval(hits, missed, wrongly)
    n = hits + missed + wrongly
    wilson = binomtest(hits, n).proportion_ci(method="wilson")
    assert found.value == pytest.approx(2 * hits / (2 * hits + missed + wrongly))
    assert found.low == pytest.approx(2 * wilson.low / (1 + wilson.low), abs=1e-4)  # 1.96 stands for 1.95996...
    assert found.high == pytest.approx(2 * wilson.high / (1 + wilson.high), abs=1e-4)


def test_a_class_of_which_nothing_is_known_has_no_f1():
    assert math.isnan(f1_interval(0, 0, 0).value)


def test_f1_interval_holds_the_f1_of_ever_more_pictures():
    generator = np.random.default_rng(0)
    recall, wrong = 0.6, 0.02
    truth = 2 * 20 * recall / (20 + 20 * recall + 980 * wrong)
    held = 0
    for _ in range(1000):
        hits = generator.binomial(20, recall)
        found = f1_interval(hits, 20 - hits, generator.binomial(980, wrong))
        held += found.low <= truth <= found.high
    assert held >= 930  # of 1000; 950 less three standard errors


def test_clusters_stand_together():
    generator = np.random.default_rng(1)
    table = generator.integers(0, 30, (24, 24))
    order = cluster_order(table)
    assert sorted(order) == list(range(24))
    rates = table / table.sum(1, keepdims=True)
    distance = 2 - (rates + rates.T)
    np.fill_diagonal(distance, 0)
    tree = hierarchy.linkage(squareform(distance, checks=False), "average")
    for count in (2, 5, 11):
        cluster = hierarchy.fcluster(tree, count, "maxclust")[order]
        assert (np.diff(cluster) != 0).sum() == cluster.max() - 1  # each cluster in one piece


def test_classes_that_are_confused_are_neighbours():
    table = 10 * np.eye(6, dtype=int)
    table[0, 4], table[4, 1], table[5, 2] = 5, 4, 3
    order = cluster_order(table).tolist()
    place = {c: order.index(c) for c in range(6)}
    assert abs(place[0] - place[4]) == abs(place[4] - place[1]) == abs(place[5] - place[2]) == 1


@pytest.mark.parametrize("classes", [1, 2])
def test_an_order_of_few_classes(classes):
    assert sorted(cluster_order(np.zeros((classes, classes), int))) == list(range(classes))


def test_wrong_labels_are_found_in_frequent_and_rare_classes():
    generator = np.random.default_rng(0)
    counts = np.array([800, 300, 100, 40])
    true = np.repeat(np.arange(4), counts)
    feature = generator.normal(0, 1, (len(true), 4)) + 3.5 * np.eye(4)[true]
    log_posterior = 3.5 * feature + np.log(counts / counts.sum())  # Bayes' rule, up to a constant a row
    log_posterior -= np.log(np.exp(log_posterior).sum(1, keepdims=True))
    targets = true.copy()
    flipped = generator.choice(len(true), 60, replace=False)
    targets[flipped] = (true[flipped] + generator.integers(1, 4, 60)) % 4
    found = suspects(log_posterior, targets, np.bincount(targets))
    rows = [row for row, _, _ in found]
    assert len(set(rows) & set(flipped)) >= 50 and len(rows) <= 75
    assert all(seems != targets[row] for row, seems, _ in found)
    margins = [margin for *_, margin in found]
    assert margins == sorted(margins, reverse=True)


def test_nothing_is_suspect_where_every_answer_is_its_label():
    log_posterior = np.log(np.array([[0.8, 0.2], [0.3, 0.7]]))
    assert suspects(log_posterior, np.array([0, 1]), np.array([5, 5])) == []


def test_segments_part_the_pictures_and_see_a_weak_one():
    generator = np.random.default_rng(2)
    values = generator.random(2000)
    targets = generator.integers(0, 5, 2000)
    right = generator.random(2000) < np.where(values < 0.25, 0.4, 0.8)
    found = segments(values, targets, np.where(right, targets, (targets + 1) % 5))
    assert [each.n for each in found] == [500] * 4 and found[0].low == values.min() and found[3].high == values.max()
    assert found[0].p_value < 1e-6 and min(each.p_value for each in found[1:]) > 0.5
    assert found[0].expected == pytest.approx(0.8, abs=0.05)
    assert found[0].accuracy.value == pytest.approx(right[values < np.quantile(values, 0.25)].mean())


def test_a_segment_of_hard_classes_is_not_weak_itself():
    targets = np.repeat([0, 1], 400)
    generator = np.random.default_rng(3)
    right = generator.random(800) < np.where(targets == 0, 0.3, 0.9)
    values = np.where(generator.random(800) < 0.75, targets, 1 - targets) + generator.random(800)
    found = segments(values, targets, np.where(right, targets, 1 - targets))
    assert found[0].accuracy.value < 0.55 and min(each.p_value for each in found) > 0.005


def test_pictures_that_are_all_alike_are_one_segment():
    found = segments(np.ones(7), np.zeros(7, int), np.zeros(7, int))
    assert len(found) == 1 and found[0].n == 7
