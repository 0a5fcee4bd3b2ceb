"Edge cases of `structure_search.metrics` that would be dull in its notebook."
import biotite.structure as struc
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from structure_search.metrics import (bigram_entropy, gdt_ts, kabsch, lddt, mirrored, most_common_accuracy, rmsd,
                                      summarize_rmsd, superpose, tm_score, token_accuracy, unigram_entropy)

seeds = st.integers(0, 2**32-1)


def trace(n, rng):
    "A random walk with steps of 3.8 angstrom, (n,3)"
    steps = rng.normal(size=(n, 3))
    return np.cumsum(3.8*steps/np.linalg.norm(steps, axis=1, keepdims=True), axis=0)


def rotation(rng):
    "A random proper rotation, (3,3)"
    Q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return Q*np.sign(np.linalg.det(Q))


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=st.integers(1, 40))
def test_scores_do_not_depend_on_the_pose(seed, n):
    rng = np.random.default_rng(seed)
    b = trace(n, rng)
    a = b + rng.normal(0, 1.5, b.shape)
    moved = a @ rotation(rng).T + rng.normal(0, 50, 3)
    assert rmsd(moved, b) == pytest.approx(rmsd(a, b), abs=1e-9)
    assert rmsd(b, a) == pytest.approx(rmsd(a, b), abs=1e-9)
    assert np.linalg.det(kabsch(moved, b)[0]) == pytest.approx(1)
    assert 0 <= gdt_ts(moved, b) <= 1
    # the search is heuristic, and close calls may fall either way after rounding
    assert tm_score(moved, b) == pytest.approx(tm_score(a, b), abs=0.02)
    if n > 1: assert lddt(moved, b) == pytest.approx(lddt(a, b), abs=0.01)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=st.integers(3, 60))
def test_rmsd_is_biotites_and_the_smallest(seed, n):
    rng = np.random.default_rng(seed)
    a, b = trace(n, rng), trace(n, rng)
    assert rmsd(a, b) == pytest.approx(struc.rmsd(b, struc.superimpose(b, a)[0]), rel=1e-5)   # biotite superposes in float32
    other = a @ rotation(rng).T
    other += b.mean(axis=0) - other.mean(axis=0)
    assert rmsd(a, b) <= np.sqrt(((other-b)**2).sum(axis=1).mean()) + 1e-9


def test_identical_scores_are_perfect():
    rng = np.random.default_rng(0)
    for n in (2, 3, 4, 5, 16, 90, 300):
        b = trace(n, rng)
        a = (b @ rotation(rng).T + 1000).astype(np.float32)
        assert rmsd(a, b) < 1e-3
        assert tm_score(a, b) == pytest.approx(1, abs=1e-5)
        assert gdt_ts(a, b) == lddt(a, b) == 1
        assert not mirrored(a, b)


def test_one_domain_of_two_scores_half():
    rng = np.random.default_rng(1)
    b = trace(120, rng)
    a = b.copy()
    a[60:] = b[60:] @ rotation(rng).T + 200
    assert gdt_ts(a, b) == pytest.approx(0.5, abs=0.02)
    assert tm_score(a, b) == pytest.approx(0.5, abs=0.02)
    assert rmsd(a, b) > 50


def test_a_mirror_image_is_wrong():
    b = trace(100, np.random.default_rng(2))
    a = b*[1, 1, -1]
    assert rmsd(a, b) > 5 and mirrored(a, b) and lddt(a, b) == 1
    flat = b*[1, 1, 0]
    assert not mirrored(flat, flat) and rmsd(flat*[-1, 1, 1], flat) < 1e-9


def test_degenerate_shapes_superpose():
    point, pair, line = np.zeros((1, 3)), np.eye(3)[:2], np.outer(np.arange(9), [1, 2, 2])
    for x in (point, pair, line, np.zeros((5, 3))):
        R, t = kabsch(x, x + 7)
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(superpose(x, x + 7), x + 7, atol=1e-9)
        np.testing.assert_array_equal(kabsch(x, x + 7)[0], R)


@pytest.mark.parametrize('f', [rmsd, tm_score, gdt_ts, lddt, mirrored, kabsch, superpose])
@pytest.mark.parametrize('a, b, message', [
    (np.zeros((3, 3)), np.zeros((4, 3)), '3 predicted residues against 4 true ones'),
    (np.zeros((0, 3)), np.zeros((4, 3)), 'predicted coordinates are empty'),
    (np.zeros((4, 3)), np.full((4, 3), np.nan), 'true coordinates are not finite'),
    (np.full((4, 3), np.inf), np.zeros((4, 3)), 'predicted coordinates are not finite'),
    (np.zeros((4, 2)), np.zeros((4, 3)), r'shape \(4, 2\)'),
    (np.zeros((1, 4, 3)), np.zeros((4, 3)), r'shape \(1, 4, 3\)'),
])
def test_bad_coordinates_are_refused(f, a, b, message):
    with pytest.raises(ValueError, match=message): f(a, b)


def test_tokens_of_the_wrong_shape_are_refused():
    for pred, true in (([1], [1, 2]), ([], []), ([[1]], [[1]])):
        with pytest.raises(ValueError): token_accuracy(pred, true)


@pytest.mark.parametrize('f', [most_common_accuracy, unigram_entropy, bigram_entropy])
@pytest.mark.parametrize('train', [[], [[]], [[0, 9]], [[-1]], [[0.5]], [[[1]]]])
def test_bad_training_tokens_are_refused(f, train):
    with pytest.raises(ValueError): f(train, [[0, 1]], vocab_size=4)


def test_baselines_of_tiny_sets_are_finite():
    for train, held_out in (([[0]], [[1]]), ([[0], []], [[1, 2]]), ([[0, 1]], [[3, 3, 3], [2]]),
                            ([np.uint16([0, 65])], [np.uint16([65, 65])])):
        assert np.isfinite(unigram_entropy(train, held_out, vocab_size=66))
        assert np.isfinite(bigram_entropy(train, held_out, vocab_size=66))
    assert bigram_entropy([[0]], [[1]], vocab_size=4) == pytest.approx(unigram_entropy([[0]], [[1]], vocab_size=4))


def test_summary_keeps_failures_in_sight():
    s = summarize_rmsd([np.float32(1.5), 2.0, None, float('nan')])
    assert (s['n'], s['failed'], s['under_2'], s['under_4']) == (4, 2, 0.25, 0.5)
    s = summarize_rmsd([None])
    assert (s['n'], s['failed'], s['under_4']) == (1, 1, 0) and np.isnan(s['mean'])
    for bad in ([], [-1.], [float('inf')]):
        with pytest.raises(ValueError): summarize_rmsd(bad)
