"Edge cases of `structure_search.neighbours` that would be dull in its notebook, each fast step against an obvious one, and its figures on real chains."
import numpy as np
import pytest
from conftest import shared
from structure_search.dataset import select
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.metrics import lddt
from structure_search.neighbours import ALIKE, WORD, Neighbour, _align, _blosum62, _Known, _read, copy_coordinates, copy_tokens, nearest
from structure_search.vocab import RESIDUES, SS_LETTERS

SCORES = _blosum62().score_matrix().astype(int)

def random_sequences(lengths, seed=0, letters=RESIDUES):
    rng = np.random.default_rng(seed)
    return [''.join(rng.choice([*letters], L)) for L in lengths]

def gotoh(x, y):
    "Score of the best local alignment, cell by cell: a gap costs 11, and 1 more for each residue after its first"
    best, previous, down = 0, [0]*(len(y)+1), [-99]*(len(y)+1)
    for a in x:
        row, right = [0], -99
        for j,b in enumerate(y):
            right = max(row[j]-11, right-1)
            down[j+1] = max(previous[j+1]-11, down[j+1]-1)
            row.append(max(0, previous[j]+SCORES[a,b], right, down[j+1]))
        best, previous = max(best, *row), row
    return best

def rescored(n, x, y):
    "Score of an alignment by its pairs and gaps"
    total = SCORES[x[n.query],y[n.known]].sum()
    for steps in (np.diff(n.query), np.diff(n.known)): total -= (steps[steps>1]-1+10).sum()
    return total

def halves(path, fraction=0.05):
    "Known and held-out proteins with 3Di letters and coordinates"
    db = PairedFoldseekDB(path)
    return [[*db.batch(s.keys, ('ss','ca'))] for s in select(db, '3di', f'{path}.clusters.tsv', fraction)[:2]]

def letters_right(found, held, known):
    "Accuracy of copied 3Di letters, of the most common one, and the identities"
    numbers = lambda p: np.array([SS_LETTERS.index(a) for a in p.ss])
    fill = np.bincount(np.concatenate([numbers(p) for p in known])).argmax()
    right = sum((copy_tokens(n, numbers(known[n.index]), len(p.aa), fill)==numbers(p)).sum() for n,p in zip(found, held))
    total = sum(len(p.aa) for p in held)
    return right/total, sum((numbers(p)==fill).sum() for p in held)/total, np.array([n.identity for n in found])

def test_matrix():
    "A few entries of BLOSUM62 as printed (Henikoff and Henikoff, 1992)"
    for pair,score in (('AA', 4), ('WW', 11), ('CC', 9), ('IV', 3), ('DE', 2), ('GW', -2), ('PF', -4), ('XX', -1), ('XA', 0)):
        assert SCORES[RESIDUES.index(pair[0]),RESIDUES.index(pair[1])]==SCORES[RESIDUES.index(pair[1]),RESIDUES.index(pair[0])]==score

def test_scores_cell_by_cell():
    numbers = _read(random_sequences([1, 2, 5, 6, 30, 45, 60, 60]), 'query')
    numbers += [np.delete(numbers[-1], range(20, 27)), np.insert(numbers[-2], 30, numbers[0].repeat(3))]
    gaps = 0
    for x in numbers:
        for y in numbers:
            n = _align(x, y)
            assert n.score==gotoh(x, y)==rescored(n, x, y)
            assert n.query.dtype==n.known.dtype==np.int64 and len(n.query)==len(n.known)
            gaps += len(n.query)>0 and n.query[-1]-n.query[0]!=n.known[-1]-n.known[0]
            assert n.identity==sum(x[i]==y[j]!=20 for i,j in zip(n.query, n.known))/len(x)
    assert gaps>=4

@pytest.mark.parametrize('seed', range(5))
def test_words_diagonals_and_their_scores_one_by_one(seed):
    rng = np.random.default_rng(seed)
    known = _read(random_sequences([*rng.integers(1, 40, 12), 1, 5, 6], seed), 'known')
    x = np.concatenate([known[0], known[3][::-1], known[5], known[5]])[:rng.integers(3, 90)]
    base, places = _Known(known), [i for i,c in enumerate(WORD) if c=='1']
    words = {(i, k, j) for k,y in enumerate(known) for i in range(len(x)-5) for j in range(len(y)-5) if sum(SCORES[x[i+d],y[j+d]] for d in places)>=ALIKE}
    found = base.words(x).tolist()
    assert len(found)==len(words) and set(map(tuple, found))==words
    index, shift = base.diagonals(x)
    assert sorted(zip(index.tolist(), shift.tolist()))==sorted({(k, j-i) for i,k,j in words})
    for k,s,score in zip(index, shift, base.ungapped(x, index, shift)):
        pairs = [SCORES[x[i],known[k][i+s]] for i in range(len(x)) if 0<=i+s<len(known[k])]
        assert score==max(sum(pairs[a:b]) for a in range(len(pairs)) for b in range(a, len(pairs)+1))

def test_no_more_diagonals_than_stated_and_those_with_most_words(monkeypatch):
    known = random_sequences([80]*30)
    x, = _read([known[4]+known[9][:20]], 'query')
    base, count = _Known(_read(known, 'known')), {}
    for i,k,j in base.words(x).tolist(): count[k,j-i] = count.get((k, j-i), 0)+1
    monkeypatch.setattr('structure_search.neighbours.DIAGONALS', 5)
    got = [count[k,s] for k,s in zip(*(a.tolist() for a in base.diagonals(x)))]
    assert got==sorted(count.values(), reverse=True)[:5]

def test_all_candidates_are_the_full_search():
    known, queries = (random_sequences(np.random.default_rng(s).integers(5, 60, 25), s) for s in (1, 2))
    for n,x in zip(nearest(queries, known, candidates=25), _read(queries, 'query')):
        scores = [_align(x, y).score for y in _read(known, 'known')]
        assert n.score==max(scores)==scores[n.index]

def test_itself_and_known_changes():
    known = random_sequences([40, 60, 100, 150, 400], letters=RESIDUES[:20])
    for i,(aa,n) in enumerate(zip(known, nearest(known, known))):
        assert (n.index, n.identity, n.score)==(i, 1, sum(SCORES[RESIDUES.index(a),RESIDUES.index(a)] for a in aa))
        assert n.query.tolist()==n.known.tolist()==[*range(len(aa))]
    for count in (1, 5, 15):
        rng, aa = np.random.default_rng(count), [*known[2]]
        for i in rng.choice(np.arange(5, 95), count, replace=False): aa[i] = RESIDUES[(RESIDUES.index(aa[i])+1)%20]
        n, = nearest([''.join(aa)], known)
        assert n.index==2 and n.identity==pytest.approx(1-count/100) and len(n.query)==100
    aa = known[3]
    for query,i,j in ((aa[:70]+'WWWWWWW'+aa[70:], [*range(70), *range(77, 157)], [*range(150)]), (aa[:60]+aa[72:], [*range(138)], [*range(60), *range(72, 150)])):
        n, = nearest([query], known)
        moved = (n.query!=i).sum()+(n.known!=j).sum() if len(n.query)==len(i) else np.inf
        assert n.index==3 and n.score==rescored(n, *_read([query, aa], 'query')) and moved<=4     # a gap may slide by residues that happen to be equal
        assert n.identity==pytest.approx(len(i)/len(query), abs=0.02)

def test_any_letters():
    known = random_sequences([50, 70, 90], letters=RESIDUES[:20])
    swap = str.maketrans('CKDELX', 'UOBZJ*')
    for i,aa in enumerate(known):
        for text in (aa.lower(), aa.translate(swap), aa.translate(swap).lower()):
            assert [(n.index, n.identity) for n in nearest([text], known)+nearest([text], [k.translate(swap) for k in known])]==[(i, 1)]*2
    n, = nearest(['X'*5+known[0]+'X'*5], known)
    assert n.index==0 and n.identity==pytest.approx(50/60)

def test_there_always_is_a_neighbour():
    known = ['W'*9, 'G', 'A'*30, 'C'*3, 'X'*40]
    assert [n.index for n in nearest(['X'*39, 'X', 'X'*5, 'X'*28], known)]==[4, 1, 3, 2]        # nothing aligns: the nearest length
    n, = nearest(['W'], ['W'])
    assert (n.identity, n.score, n.query.tolist(), n.known.tolist())==(1, 11, [0], [0])
    for n in nearest(['W', 'XX', 'P'*200, 'ACDEF', 'ACDEFG'], known):
        assert 0<=n.index<5 and 0<=n.identity<=1 and n.score>=0 and type(n.index)==type(n.score)==int and type(n.identity)==float
    assert nearest(['HHHHH'], ['PPPPP'])[0].score==0
    assert [n.index for n in nearest(['ACDEFGHIK'], ['ACDEFGHIK']*20)]==[0]                 # of equals the first

def test_refusals():
    for queries,known,match in ((['MK'], [], 'no known sequences'), (['MK', ''], ['MK'], 'query sequence 1 is empty'), (['MK'], ['MK', ''], 'known sequence 1 is empty'),
                                (['M-K'], ['MK'], "query sequence 0: '-' at position 2"), (['MK'], ['MK', 'M K'], "known sequence 1: ' ' at position 2"),
                                ('MK', ['MK'], 'give a list'), (['MK'], 'MK', 'give a list')):
        with pytest.raises(ValueError, match=match): nearest(queries, known)
    with pytest.raises(ValueError, match='0 candidates'): nearest(['MK'], ['MK'], candidates=0)
    n = Neighbour(0, 0., 0, np.array([1, 3]), np.array([0, 4]))
    for tokens,L,match in ((np.arange(4), 9, 'the known protein has 4'), (np.arange(5), 3, 'the query has 3'), (np.zeros((5, 2), int), 9, r'\(5, 2\)'), (np.zeros(5), 9, 'float64')):
        with pytest.raises(ValueError, match=match): copy_tokens(n, tokens, L, 0)
    for ca,L,match in ((np.zeros((4, 3)), 9, 'the known protein has 4'), (np.zeros((5, 3)), 3, 'the query has 3'), (np.zeros((5, 2)), 9, r'\(5, 2\)'), (np.full((5, 3), np.nan), 9, 'not finite at 2')):
        with pytest.raises(ValueError, match=match): copy_coordinates(n, ca, L)

@pytest.mark.parametrize('count', [0, 1, 2, 3, 10, 40])
def test_coordinates_of_any_alignment(count):
    rng = np.random.default_rng(count)
    for _ in range(20):
        query, known = (np.sort(rng.choice(40, count, replace=False)).astype(np.int64) for _ in range(2))
        ca = rng.normal(scale=10, size=(40, 3)).astype(np.float32)
        out = copy_coordinates(Neighbour(0, 0., 0, query, known), ca, 40)
        assert out.shape==(40, 3) and out.dtype==np.float64 and np.isfinite(out).all() and np.array_equal(out[query], ca[known].astype(float))
        if not count: assert np.linalg.norm(np.diff(out, axis=0), axis=1)==pytest.approx(3.83, abs=0.01); continue
        before, after = min(query[0], known[0]), min(40-query[-1], 40-known[-1])        # the neighbour's own chain beyond the alignment
        assert np.array_equal(out[query[0]-before:query[0]], ca[known[0]-before:known[0]].astype(float)) and np.array_equal(out[query[-1]:query[-1]+after], ca[known[-1]:known[-1]+after].astype(float))
        for a,b in zip(query, query[1:]): assert np.diff(out, axis=0)[a:b]==pytest.approx(np.tile((out[b]-out[a])/(b-a), (b-a, 1)))
        for end,inside in ((out[:query[0]-before+1][::-1], query[0]-before), (out[query[-1]+after-1:], query[-1]+after-1)):       # beyond that, a helix
            assert np.linalg.norm(np.diff(end, axis=0), axis=1)==pytest.approx(3.83, abs=0.01)
            if len(end)>5: assert np.linalg.norm(end[5]-end[1])==pytest.approx(6.2, abs=0.2)        # a turn

def test_coordinates_where_the_ends_are_the_centre():
    "A ring closes where it begins; three residues in one place have no direction at all"
    n = Neighbour(0, 0., 0, np.arange(1, 4), np.arange(3))
    out = copy_coordinates(n, np.ones((3, 3)), 5)
    assert np.isfinite(out).all() and out[1:4]==pytest.approx(np.ones((3, 3))) and np.linalg.norm(out[0]-out[1])==pytest.approx(3.83, abs=0.01) and out[4,0]==pytest.approx(2.5)

def test_demo_database():
    known, held = halves(demo_db())
    aa = [p.aa for p in known]
    found = nearest([p.aa for p in held], aa)
    copied, common, identity = letters_right(found, held, known)
    assert len(held)==59 and (identity<0.3).sum()>=54 and copied>common+0.03
    best = max(found, key=lambda n: n.score)
    p = held[found.index(best)]
    assert lddt(copy_coordinates(best, known[best.index].ca, len(p.aa)), p.ca)>0.6
    strong = [i for i,n in enumerate(found) if n.score>140][:3]     # the full search, all known chains
    for i in strong:
        x, = _read([held[i].aa], 'query')
        assert found[i].score==max(_align(x, y).score for y in _read(aa, 'known'))

def test_a_corpus():
    "Chains of the PDB: neighbours of the full search, by another program (Opal), have 0.2935 of the letters right; guessing the most common one 0.2017"
    known, held = halves(shared('corpus/pdb'))
    known, held = known[::4], held[::10]
    copied, common, identity = letters_right(nearest([p.aa for p in held], [p.aa for p in known]), held, known)
    assert copied==pytest.approx(0.2935, abs=0.005) and common==pytest.approx(0.2017, abs=1e-4) and np.median(identity)<0.25
