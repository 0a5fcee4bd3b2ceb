"Edge cases of `structure_search.metrics` that would be dull in its notebook, and every score against biotite or another way to compute it."
from itertools import combinations
import biotite.structure as struc
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from structure_search import metrics
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.metrics import (bigram_entropy, gdt_ts, kabsch, lddt, mirror_share, mirrored, most_common_accuracy, rmsd, rmsds,
                                      summarize_rmsd, superpose, tm_score, token_accuracy, unigram_entropy)
from structure_search.structure import rebuild_backbone

seeds = st.integers(0, 2**32-1)


def trace(n, rng):
    "A random walk with steps of 3.8 angstrom, (n,3)"
    steps = rng.normal(size=(n, 3))
    return np.cumsum(3.8*steps/np.linalg.norm(steps, axis=1, keepdims=True), axis=0)


def rotation(rng):
    "A random proper rotation, (3,3)"
    Q = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return Q*np.sign(np.linalg.det(Q))


@pytest.fixture(scope='module')
def chains():
    "C-alpha traces of the demo database, of 40 to 256 residues"
    db = PairedFoldseekDB(demo_db())
    return [db[int(k)].ca for k in db.keys[::50]]


def drifted(ca, size, rng):
    "A prediction that is right near by and wrong far off"
    return ca + size*rng.normal(size=ca.shape).cumsum(axis=0)


def laid(a, b):
    "`a` on `b` by Horn's quaternion (1987), another way than the singular values, centred in long double"
    a, b = ((x - x.mean(axis=0)).astype(np.float64) for x in (np.asarray(y, np.longdouble) for y in (a, b)))
    S = a.T @ b
    K = np.empty((4, 4))
    K[0,0], K[0,1:] = np.trace(S), [S[1,2]-S[2,1], S[2,0]-S[0,2], S[0,1]-S[1,0]]
    K[1:,0], K[1:,1:] = K[0,1:], S + S.T - np.trace(S)*np.eye(3)
    w, *v = np.linalg.eigh(K)[1][:,-1]
    v = np.array(v)
    return a + 2*np.cross(v, np.cross(v, a) + w*a), b


def slow_rmsd(a, b):
    a, b = laid(a, b)
    return np.sqrt(((a-b)**2).sum(axis=1).mean())


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


def hard_pairs(chains):
    "Predicted and true coordinates, named: what breaks a superposition"
    rng = np.random.default_rng(0)
    line, flat = np.outer(np.arange(9), [1, 2, 2]), trace(30, rng)*[1, 1, 0]
    for n in (1, 2, 3, 4, 7, 60, 700): yield f'random, {n}', trace(n, rng), trace(n, rng)
    for i,x in enumerate(chains):
        yield f'noisy chain {i}', x + rng.normal(size=x.shape), x
        yield f'mirror image {i}', x*[1, -1, 1], x
        yield f'another chain {i}', chains[i-1][:min(len(x), len(chains[i-1]))], x[:len(chains[i-1])]
    x = trace(300, rng)
    for size in (0, 1e-9, 1e-6, 1e-3): yield f'almost the same, {size}', x @ rotation(rng).T + size*rng.normal(size=x.shape), x
    for far in (1e3, 1e6): yield f'far off, {far:g}', x + rng.normal(size=x.shape) + far*np.array([1, -2, 3]), x - 3*far
    yield 'far off, the same', np.round(x) + 1e6, np.round(x)
    yield 'collinear', line + rng.normal(size=line.shape), line
    yield 'both collinear', line*1.1, -line
    yield 'flat', flat @ rotation(rng).T, flat
    yield 'flat mirror image', flat*[-1, 1, 1] + 1, flat
    yield 'one point', np.zeros((5, 3)), np.ones((5, 3))
    yield 'one residue far off', [[1e6, 0, 0]], [[0, 0, 1]]
    yield 'two residues', [[0, 0, 0], [3.8, 0, 0]], [[9, 9, 9], [9, 9, 5]]
    yield 'small', 1e-6*trace(20, rng), 1e-6*trace(20, rng)
    yield 'large', 1e5*trace(20, rng), 1e5*trace(20, rng)


def test_rmsds_are_exact_at_once_and_one_by_one(chains):
    names, pred, true = zip(*hard_pairs(chains))
    kept = [np.array(x) for x in pred]
    slow = [slow_rmsd(a, b) for a,b in zip(pred, true)]
    for found in (rmsds(pred, true), [rmsd(a, b) for a,b in zip(pred, true)]):
        for name,x,y in zip(names, found, slow): assert x == pytest.approx(y, abs=1e-9, rel=1e-12), name
    for x,a,b in zip(rmsds(pred, true), pred, true):
        if np.abs(a).max() < 1e4: assert x == pytest.approx(np.sqrt(((superpose(a, b)-b)**2).sum(axis=1).mean()), abs=1e-9)
    assert rmsds(pred, true).dtype == np.float64 and rmsds(pred, true).shape == (len(pred),)
    same = [i for i,n in enumerate(names) if n in ('almost the same, 0', 'far off, the same', 'one point', 'flat')]
    assert len(same) == 4 and (rmsds(pred, true)[same] < 1e-12).all()     # the sum of singular values gives 1e-6 here
    for axis in range(3):
        turned = [np.asarray(a)*np.where(np.arange(3)==axis, -1, 1) for a in pred]
        np.testing.assert_allclose(rmsds(pred, true, mirror=True), [slow_rmsd(a, b) for a,b in zip(turned, true)], rtol=1e-12, atol=1e-9)
    for a,b in zip(pred, kept): np.testing.assert_array_equal(a, b)       # the caller's arrays are left as they were


@settings(max_examples=25, deadline=None)
@given(seed=seeds, lengths=st.lists(st.integers(1, 30), max_size=12))
def test_what_rmsd_refuses_is_nan_among_others(seed, lengths):
    rng = np.random.default_rng(seed)
    true = [trace(n, rng) for n in lengths]
    pred = [x + rng.normal(size=x.shape) for x in true]
    for i in range(len(pred)):
        match rng.integers(8):
            case 0: pred[i] = np.append(pred[i], [[0, 0, 0]], axis=0)
            case 1: pred[i] = np.zeros((0, 3))
            case 2: pred[i][rng.integers(len(pred[i])),rng.integers(3)] = rng.choice([np.nan, np.inf, -np.inf, 1e200])
            case 3: true[i][rng.integers(len(true[i]))] = np.nan
            case 4: pred[i] = true[i] = np.zeros((0, 3))
            case 5: pred[i], true[i] = pred[i].astype(np.float32), true[i].tolist()
    expected = []
    for a,b in zip(pred, true):
        try: expected.append((rmsd(a, b), rmsd(np.asarray(a)*[-1, 1, 1], b), mirrored(a, b)))
        except ValueError: expected.append((np.nan, np.nan, np.nan))
    plain, mirror, left = np.array(expected, dtype=float).reshape(-1, 3).T
    np.testing.assert_allclose(rmsds(pred, true), plain, atol=1e-9)
    np.testing.assert_allclose(rmsds(pred, true, mirror=True), mirror, atol=1e-9)
    share = mirror_share(pred, true)
    assert share == pytest.approx(np.nanmean(left)) if np.isfinite(left).any() else np.isnan(share)
    if lengths: assert summarize_rmsd(rmsds(pred, true))['failed'] == np.isnan(plain).sum()


@pytest.mark.parametrize('f', [rmsds, mirror_share])
@pytest.mark.parametrize('pred, true, message', [
    ([np.zeros((3, 3))], [], '1 predicted structures against 0 true ones'),
    ([np.zeros((3, 3)), np.zeros((4, 2))], [np.zeros((3, 3))]*2, r'predicted coordinates of pair 1 have shape \(4, 2\)'),
    ([np.zeros((3, 3))], [np.zeros((1, 3, 3))], r'true coordinates of pair 0 have shape \(1, 3, 3\)'),
    ([None], [np.zeros((3, 3))], r'predicted coordinates of pair 0 have shape \(\)'),
    (np.zeros((3, 3)), np.zeros((3, 3)), r'predicted coordinates of pair 0 have shape \(3,\)'),
])
def test_lists_that_do_not_belong_together_are_refused(f, pred, true, message):
    with pytest.raises(ValueError, match=message): f(pred, true)


def test_no_pairs_no_rmsds():
    assert rmsds([], []).shape == (0,) and rmsds([], []).dtype == np.float64
    assert np.isnan(mirror_share([], [])) and np.isnan(mirror_share([np.zeros((2, 3))], [np.zeros((3, 3))]))


def test_mirror_share_counts_what_mirrored_says(chains):
    rng = np.random.default_rng(0)
    pred = [drifted(x, rng.uniform(0, 3), rng)*([-1, 1, 1] if i%3==0 else 1) for i,x in enumerate(chains)]
    for ratio in (0.5, 0.8, 1):
        share = mirror_share(pred, chains, ratio)
        assert 0 < share < 1 and share == np.mean([mirrored(a, b, ratio) for a,b in zip(pred, chains)])
    assert mirror_share([pred[0], pred[0][:-1]], [chains[0]]*2) == float(mirrored(pred[0], chains[0]))


def test_rmsds_are_biotites(chains):
    "Noisy chains, mirror images and unrelated chains"
    rng = np.random.default_rng(0)
    pairs = [(x + rng.normal(size=x.shape), x) for x in chains] + [(x*[-1, 1, 1], x) for x in chains]
    pairs += [(a[:min(len(a), len(b))], b[:len(a)]) for a,b in combinations(chains, 2)]
    theirs = [struc.rmsd(b, struc.superimpose(b, np.float32(a))[0]) for a,b in pairs]
    np.testing.assert_allclose(rmsds(*zip(*pairs)), theirs, rtol=1e-6)     # biotite superposes in float32


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


def atoms(ca):
    "A biotite chain of N, CA, C and CB around a C-alpha trace; its first and last residue have CA alone"
    n, c, cb = rebuild_backbone(ca)
    x = struc.AtomArray(4*len(ca))
    x.coord, x.res_id = np.float32(np.stack([n, ca, c, cb], axis=1).reshape(-1, 3)), np.repeat(np.arange(len(ca)), 4)
    x.atom_name, x.element = np.tile(['N', 'CA', 'C', 'CB'], len(ca)), np.tile(['N', 'C', 'C', 'C'], len(ca))
    x.res_name[:], x.chain_id[:] = 'ALA', 'A'
    return x[np.isfinite(x.coord).all(axis=1)]


def biotite_tm(moved, true):
    "biotite's TM-score of residue i against residue i, as they lie"
    pair = []
    for ca in (true, moved):
        x = struc.AtomArray(len(ca))
        x.coord, x.res_id = np.float32(ca), np.arange(len(ca))
        x.atom_name[:], x.res_name[:], x.chain_id[:], x.element[:] = 'CA', 'ALA', 'A', 'C'
        pair.append(x)
    return struc.tm_score(*pair, np.arange(len(true)), np.arange(len(true)), len(true))


@pytest.mark.parametrize('n', [1, 3, 12, 16, 22, 60, 300])
def test_tm_score_is_biotites_at_the_superposition_found(monkeypatch, n):
    rng, moved, scores, kabsch_, search = np.random.default_rng(n), [], [], metrics._kabsch, metrics._best_score
    def spy_kabsch(w, a, b):
        R, t = kabsch_(w, a, b)
        moved.extend((a @ r.T + s, b) for r,s in zip(R, t))
        return R, t
    def spy_search(a, b, score, cutoff):
        def kept(d): scores.extend(score(d)); return score(d)
        return search(a, b, kept, cutoff)
    monkeypatch.setattr(metrics, '_kabsch', spy_kabsch)
    monkeypatch.setattr(metrics, '_best_score', spy_search)
    b = trace(n, rng)
    ours = tm_score(drifted(b, 0.5, rng), b)
    assert len(moved) == len(scores) and max(scores) == ours
    for i in {int(np.argmax(scores)), *rng.integers(len(moved), size=20).tolist()}: assert biotite_tm(*moved[i]) == pytest.approx(scores[i], abs=1e-6)


def test_tm_score_finds_what_biotite_finds(chains):
    "At least the score of the Kabsch superposition, and that of biotite's search, which may align other residues but is scored on these"
    rng = np.random.default_rng(0)
    for ca in chains[::2]:
        for size in (0, 0.3, 1):
            a = drifted(ca, size, rng)
            ours, here = tm_score(a, ca), atoms(ca)
            assert ours >= biotite_tm(struc.superimpose(ca, np.float32(a))[0], ca) - 1e-6
            found = struc.superimpose_structural_homologs(here, atoms(a), max_iterations=20)[1].apply(np.float32(a))
            assert ours >= biotite_tm(found, ca) - 1e-3                   # both searches are heuristic
            if not size: assert ours == 1


def slow_lddt(a, b):
    "lDDT by its definition: all distances of all residues"
    d, true = (np.linalg.norm(x[:,None]-x, axis=-1) for x in (a, b))
    near = (true < 15) & ~np.eye(len(b), dtype=bool)
    return np.mean([(np.abs(d-true)[near] < cut).mean() for cut in (0.5, 1, 2, 4)])


def test_lddt_is_the_definition_and_biotites(chains):
    rng = np.random.default_rng(0)
    for ca in chains:
        for a in (drifted(ca, 0.3, rng), ca + rng.normal(size=ca.shape), ca*[-1, 1, 1]):
            here = atoms(ca)
            assert lddt(a, ca) == pytest.approx(slow_lddt(a, np.float64(ca)), abs=1e-4)     # a distance on a bound may fall either way
            assert lddt(a, ca) == pytest.approx(struc.lddt(here[here.atom_name=='CA'], np.float32(a)), abs=1e-4)


def slow_gdt_ts(a, b):
    "GDT-TS over the superpositions on every set of three or more residues"
    near = []
    for k in range(3, len(a)+1):
        for some in map(list, combinations(range(len(a)), k)):
            x, y = a[some], b[some]
            x, y = x - x.mean(axis=0), y - y.mean(axis=0)
            U, _, Vt = np.linalg.svd(y.T @ x)
            R = U @ np.diag([1, 1, np.linalg.det(U@Vt)]) @ Vt
            d = np.linalg.norm((a - a[some].mean(axis=0)) @ R.T - (b - b[some].mean(axis=0)), axis=1)
            near.append([(d <= cut).mean() for cut in (1, 2, 4, 8)])
    return np.max(near, axis=0).mean()


def test_gdt_ts_against_every_superposition():
    "Never more than can be had; less by a residue or two of some cutoff, as the search tries neighbours in the chain first"
    rng, short = np.random.default_rng(0), []
    for n in (3, 4, 5, 6, 7, 8, 9):
        for _ in range(6):
            b = trace(n, rng)
            a = drifted(b, 1.5, rng)
            short.append(n*4*(slow_gdt_ts(a, b) - gdt_ts(a, b)))          # in residues within a cutoff
    assert min(short) > -1e-9 and max(short) < 3 + 1e-9 and np.mean(short) < 1 and np.median(short) == pytest.approx(0, abs=1e-9)


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
