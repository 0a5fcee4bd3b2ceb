"Edge cases of `structure_search.references` that would be dull in its notebook, and its figures on real chains."
from types import SimpleNamespace
import numpy as np
import pytest, torch
from conftest import shared
from structure_search.dataset import ProteinRows, read_clusters, select
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.metrics import _prior_strength, most_common_accuracy, unigram_entropy
from structure_search.references import (KINDS, OUTSIDE, _expected, _strength, bootstrap_interval, examples, fit_linear, fit_references,
                                         fit_table, protein_scores, reference_table, score_reference, windows)
from structure_search.vocab import RESIDUES, minimal_vocab

def protein(aa): return SimpleNamespace(aa=aa)

def random_pairs(n, count, seed=0):
    "Proteins of random residues (some of no residue, some of one) and random tokens"
    rng = np.random.default_rng(seed)
    lengths = [0, 1, 2, *rng.integers(3, 60, count)]
    return [(protein(''.join(rng.choice([*RESIDUES+'uboz*'], L))), rng.integers(n, size=L)) for L in lengths]

def halves(path, fraction, n=None):
    "Training pairs, held-out pairs and clusters of the held-out ones"
    db = PairedFoldseekDB(path)
    train, val, _ = select(db, '3di', f'{path}.clusters.tsv', fraction)
    rows, clusters = ProteinRows(db, minimal_vocab('3di')), read_clusters(f'{path}.clusters.tsv', db.keys)
    known, held = rows.proteins((train if n is None else train.some(n)).keys, whole=False), rows.proteins(val.keys, whole=False)
    return known, held, clusters[np.searchsorted(db.keys, [p.key for p,_ in held])]

@pytest.mark.parametrize('width', [0, 1, 3, 15])
def test_windows_one_by_one(width):
    for p,_ in random_pairs(5, 20):
        aa = p.aa.upper().translate(str.maketrans('UOBZJ*', 'CKDELX'))
        slow = [[RESIDUES.index(aa[j]) if 0<=j<len(aa) else OUTSIDE for j in range(i-width//2, i+width//2+(width>0))] for i in range(len(aa))]
        assert windows(p.aa, width).tolist() == slow

@pytest.mark.parametrize('n', [2, 20, 64, 1000])
def test_any_alphabet(n):
    pairs = random_pairs(n, 30)
    refs = fit_references(pairs, n, linear=True, steps=5, batch=256)
    assert [*refs] == ['most common', 'by residue', '3-mer', 'linear +-7'] and ('linear +-7' in fit_references(pairs, n, steps=1)) == (n<=64)
    for name,r in refs.items():
        for aa in ('', 'M', 'mkv', 'UBZJO*X', 'W'*50):
            logs = r.log_probs(aa)
            assert (logs.shape, logs.dtype, r.n, r.name) == ((len(aa), n), np.float32, n, name)
            assert np.isfinite(logs).all() and np.exp(logs.astype(float)).sum(1) == pytest.approx(1, abs=1e-4)

def test_tokens_that_are_noise_are_scored_as_noise():
    "A reference that learns chance by heart would do worse on held-out noise than uniform guessing does"
    known, held = random_pairs(20, 1000, seed=1), random_pairs(20, 300, seed=2)
    for name,s in reference_table(known, held, 20, steps=150, batch=4096).items():
        assert s['nats'] == pytest.approx(np.log(20), abs=0.08 if name.startswith('linear') else 0.01), name

def test_equal_to_metrics():
    known, held = (random_pairs(7, 40, seed) for seed in (3, 4))
    s, (a, b) = score_reference(fit_references(known, 7, linear=False)['most common'], held), ([x for _,x in pairs if len(x)] for pairs in (known, held))
    assert s['accuracy'] == most_common_accuracy(a, b, 7) and s['nats'] == pytest.approx(unigram_entropy(a, b, 7), abs=1e-6)
    counts = np.random.default_rng(0).integers(0, 9, (30, 30))
    p = (counts.sum(0)+1)/(counts.sum()+30)
    assert _strength(counts, np.tile(p, (30, 1))) == _prior_strength(counts, p)

def test_expected_is_the_product_of_single_residues():
    x, y = examples(random_pairs(4, 50), 4, 3)
    q, single, common = _expected(x, y, 4), [np.exp(fit_table('', x[:,d:d+1], y, 4).table) for d in range(3)], np.exp(fit_table('', x[:,:0], y, 4).table[0])
    for a,b,c in ((0, 5, 19), (OUTSIDE, 3, OUTSIDE), (20, 20, 20)):
        slow = common*single[0][a]/common*single[1][b]/common*single[2][c]/common
        assert q[a+KINDS*b+KINDS**2*c] == pytest.approx(slow/slow.sum(), rel=1e-4)

def test_fits_within_no_grad_and_leaves_the_random_state_alone():
    x, y = examples(random_pairs(4, 50), 4, 5)
    state = torch.get_rng_state()
    with torch.no_grad(): a = fit_linear('', x, y, 4, steps=20)
    b = fit_linear('', x, y, 4, steps=20)
    assert np.array_equal(a.weights, b.weights) and a.weights.any() and torch.equal(state, torch.get_rng_state())

def test_refusals():
    pairs = random_pairs(4, 3)
    for bad,match in (([], 'one protein at least'), ([(protein(''), np.array([], int))], 'one protein at least'), ([(protein('MK'), np.array([1]))], 'pair 0: 2 residues but 1'),
                      ([(protein('MK'), np.array([1, -1]))], 'pair 0: structure tokens are 0 to 3, here are -1 to 1'), ([(protein('M-'), np.array([1, 1]))], 'not a residue')):
        with pytest.raises(ValueError, match=match): fit_references(bad, 4)
        with pytest.raises(ValueError, match=match): reference_table(pairs, bad, 4, steps=1)
    with pytest.raises(ValueError, match='too large'): fit_table('', *examples(pairs, 4, 7), 4)

def test_bootstrap_interval_covers():
    "95 % intervals of means of clusters of unequal size hold the truth about 95 times in 100"
    rng, hits = np.random.default_rng(5), 0
    for i in range(200):
        groups = np.repeat(np.arange(60), rng.integers(1, 5, 60))
        values = rng.normal(size=60)[groups]+0.1*rng.normal(size=len(groups))
        low, high = bootstrap_interval(values, groups=groups, draws=300, seed=i)
        hits += low<=0<=high
    assert 178 <= hits <= 199

def test_demo_database():
    known, held, groups = halves(demo_db(), 0.1)
    nats = [s['nats'] for s in reference_table(known, held, 20, groups, steps=200).values()]
    assert 2.3<nats[3]<nats[2]-0.1 and nats[2]<nats[1]-0.05 and nats[1]<nats[0]-0.03 and nats[0]<np.log(20)

def test_a_corpus():
    "Chains of the PDB: on a wider corpus the four were measured at 0.183, 0.192, 0.227 and 0.251 (2.456 nats)"
    path = shared('corpus/pdb')
    known, held, groups = halves(path, 0.05, n=4000)
    table = reference_table(known, held, 20, groups, steps=200)
    for (name,s),(accuracy,nats) in zip(table.items(), ((0.196, 2.72), (0.204, 2.66), (0.236, 2.56), (0.263, 2.42))):
        assert (s['accuracy'], s['nats']) == (pytest.approx(accuracy, abs=0.008), pytest.approx(nats, abs=0.03)), name
        assert s['accuracy_interval'][0]<s['accuracy']<s['accuracy_interval'][1]<s['accuracy_interval'][0]+0.03
