"The trace: batches equal an obvious walk, whatever the chain; odd chains, odd files, both commands, and the codebooks of the package from the corpus"
import hashlib, json, warnings
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from safetensors.numpy import save, save_file
from structure_search import kanzi_report, tokenize_kanzi
from structure_search.foldseek_db import PairedFoldseekDB, demo_db, write_db
from structure_search.kanzi_measure import measure_tokenizer, token_agreement
from structure_search.kanzi_sidecar import KanziTokens
from structure_search.kanzi_tokenizer import MINI, KanziTokenizer
from structure_search.metrics import mirrored, rmsd
from structure_search.pose import random_rotation
from structure_search.trace import EMBEDDED, TraceTokenizer, _laid, fit_codebook, load_tokenizer, nearest
from conftest import shared

@pytest.fixture(scope='module', params=EMBEDDED)
def tok(request): return TraceTokenizer.from_pretrained(request.param)

@pytest.fixture(scope='module')
def cas(): return [p.ca for p in PairedFoldseekDB(demo_db())]

def walk(tok, ca)->tuple: # tokens, points
    "One protein, its frames made anew from the last three points"
    x = _laid(np.asarray(ca, np.float64).T[:,:,None], tok._moves)[:,:,0].T
    points, tokens = [np.array([-1.,-1,0]), np.array([-1.,0,0]), np.zeros(3)], []
    for true in x:
        a, b, c = points[-3:]
        e = (c-b)/np.linalg.norm(c-b)
        f = (b-a)-((b-a)@e)*e
        f /= np.linalg.norm(f)
        frame = np.stack([e, f, np.cross(e, f)])
        tokens.append(int(nearest((frame@(true-c))[None], tok.codes)[0]))
        points.append(c+tok.codes[tokens[-1]].astype(np.float64)@frame)
    return np.array(tokens), np.array(points[3:])

def test_batches_equal_the_walk_of_one(tok, cas):
    together = tok.encode(cas)
    assert all(t.dtype==np.int32 and t.min()>=0 and t.max()<tok.n_codes for t in together)
    back = tok.decode(together)
    for i in range(0, len(cas), 4):
        t, points = walk(tok, cas[i])
        assert np.array_equal(together[i], t) and np.array_equal(together[i], tok.encode(cas[i])) and np.array_equal(back[i], tok.decode(t))
        np.testing.assert_allclose(back[i], points-points.mean(0), atol=1e-4)
        assert rmsd(points, cas[i])==pytest.approx(rmsd(back[i], cas[i]), abs=1e-4)

def test_small_batches_equal_large_ones(cas):
    tok = TraceTokenizer.from_pretrained('trace-64')
    some, offsets = np.concatenate(cas[:80]), np.cumsum([0]+[len(x) for x in cas[:80]])
    whole = tok.encode_ragged(some, offsets)
    for tok.budget in (1, 1000, 5000): assert np.array_equal(tok.encode_ragged(some, offsets), whole)
    assert tok.encode_ragged(np.zeros((0,3), np.float32), np.array([0])).shape==(0,)

def test_the_nearest_code_in_any_company(tok):
    x = np.random.default_rng(0).normal(size=(20_000,3))*4
    t = nearest(x, tok.codes)
    assert all(np.array_equal(nearest(x[i:i+1], tok.codes), t[i:i+1]) for i in range(0, 20_000, 997)) and np.array_equal(nearest(x[:777], tok.codes), t[:777])
    far = np.linalg.norm(x[:2000,None]-tok.codes, axis=2)
    np.testing.assert_allclose(far[range(2000), t[:2000]], far.min(1), atol=1e-5)

def test_what_it_is_worth(tok, cas):
    m = measure_tokenizer(tok, cas[::10])
    assert m['rmsd_median']<{64:0.62, 256:0.27}[tok.n_codes] and m['rmsd_p90']<{64:0.75, 256:0.32}[tok.n_codes] and m['rotation_agreement']>0.98
    assert m['parameters']==3*tok.n_codes and m['pose']=='invariant' and m['dtype']=='float32' and json.dumps(m)

def test_turned_copies(tok, cas):
    assert token_agreement(tok, cas[::5], seed=3)>0.98            # all but those where float32 tips a step between two codes

def test_exact_turns(tok, cas):
    "Turns that lose no digit: not a single token changes"
    for x in cas[::25]:
        t = tok.encode(x)
        for y in (x[:,[1,2,0]], x*np.float32([-1,-1,1]), x[:,[1,0,2]]*np.float32([1,1,-1])): assert np.array_equal(tok.encode(y), t)

def test_mirror_images_have_other_tokens(tok, cas):
    for x in cas[::50]:
        m = x*np.float32([1,1,-1])
        assert (tok.encode(m)!=tok.encode(x)).mean()>0.5 and not mirrored(tok.decode(tok.encode(m)), m) and not mirrored(tok.decode(tok.encode(x)), x)

def test_short_chains(tok, cas):
    for x in cas[::100]:
        for n in range(1, 8):
            t = tok.encode(x[:n])
            assert t.shape==(n,) and rmsd(tok.decode(t), x[:n])<1 and np.array_equal(t[:2], tok.encode(x)[:n][:2])

ODD = dict(point=np.ones((9,3)), line=np.arange(30)[:,None]*[0,3.8,0], there_and_back=np.r_[np.arange(9), np.arange(9)[::-1]][:,None]*[3.8,0,0], late_corner=np.r_[np.arange(9)[:,None]*[3.8,0,0], [[30.4,3.8,0]]],
           twice=np.repeat(np.random.default_rng(0).normal(size=(9,3)).cumsum(0)*3, 2, 0), far=np.random.default_rng(1).normal(size=(20,3))*1e5, huge=np.full((5,3), 3e38)*np.array([[1,-1,1]]), tiny=np.random.default_rng(2).normal(size=(20,3))*1e-30,
           grid=np.stack(np.unravel_index(np.arange(64), (4,4,4)), 1)*3.8)

@pytest.mark.parametrize('name', ODD)
def test_odd_chains(tok, name):
    x = ODD[name].astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        t = tok.encode(x)
        y = tok.decode(t)
    assert t.shape==(len(x),) and t.min()>=0 and t.max()<tok.n_codes and np.isfinite(y).all() and y.shape==x.shape
    if name in ('line', 'late_corner', 'there_and_back', 'point'):
        rng = np.random.default_rng(0)
        for _ in range(5): assert np.array_equal(tok.encode((x@random_rotation(rng).T).astype(np.float32)), t) or rmsd(tok.decode(tok.encode(x@random_rotation(rng).T)), x)<rmsd(y, x)+1

@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.floats(width=32, allow_nan=True, allow_infinity=True)]*3), min_size=1, max_size=12))
def test_any_numbers(rows):
    tok, x = TraceTokenizer.from_pretrained('trace-64'), np.array(rows, np.float32)
    t = tok.encode_ragged(x, np.array([0, len(x)]))
    assert t.min()>=0 and t.max()<64 and np.isfinite(tok.decode(t)).all()

def test_residues_without_coordinates(tok, cas):
    x = cas[3].copy()
    x[20:25] = np.nan
    x[0,1] = np.inf
    with pytest.warns(UserWarning, match='6 residues of 1 proteins'): t, other = tok.encode([x, cas[4]])
    y = tok.decode(t)
    assert np.isfinite(y).all() and rmsd(y[40:], cas[3][40:])<1 and np.array_equal(other, tok.encode(cas[4]))
    with pytest.raises(ValueError, match='no residue'): tok.encode(np.full((4,3), np.nan))

def test_the_walk_catches_up_after_a_break(tok, cas):
    for x in [x for x in cas if len(x)>150][:40]:
        x = np.concatenate([x[:60], x[70:]])
        y = tok.decode(tok.encode(x))
        assert rmsd(y[:60], x[:60])<1 and rmsd(y[100:], x[100:])<1

def test_calls(tok, cas):
    x = cas[0]
    t = tok.encode(x)
    assert np.array_equal(tok.encode(torch.from_numpy(x)), t) and tok.encode([])==[] and np.array_equal(tok.encode([x])[0], t)
    for form in (t.tolist(), torch.from_numpy(t), t.astype(np.int64), t.astype(np.uint16)): assert np.array_equal(tok.decode(form), tok.decode(t, seed=5))
    assert tok.decode(t).dtype==np.float32 and abs(tok.decode(t).mean(0)).max()<1e-4 and len(tok.decode([t, t[:1]]))==2
    for bad in ([], [-1], [tok.n_codes], [0.5], [t, []]):
        with pytest.raises(ValueError, match='whole numbers'): tok.decode(bad)
    for bad in (np.zeros((0,3)), np.zeros((3,2)), np.zeros(3)):
        with pytest.raises(ValueError, match='shape'): tok.encode(bad)
    assert (tok.levels, tok.pose, tok.dtype, tok.settings)==(None, 'invariant', 'float32', dict(max_length=None, decode=dict(sampler='trace')))

def test_files(tok, tmp_path):
    f = tmp_path/'a.safetensors'
    tok.save(f)
    again = TraceTokenizer.from_pretrained(f)
    assert again.identity==tok.identity==hashlib.sha256(f.read_bytes()).hexdigest() and np.array_equal(again.codes, tok.codes) and load_tokenizer(f).identity==tok.identity
    meta, codes = dict(structure_search=json.dumps(dict(kind='trace'))), tok.codes
    zero, nan = codes.copy(), codes.copy()
    zero[3], nan[3,1] = 0, np.nan
    for bad,match in ((dict(codes=zero), 'steps of 0'), (dict(codes=nan), 'not finite'), (dict(codes=codes*1000), 'steps of'), (dict(codes=codes[:1]), 'K from 2'), (dict(codes=codes[:,:2].copy()), 'K from 2'), (dict(codes=codes.ravel()), 'K from 2'),
                      (dict(codes=codes.astype(np.float64)), 'of float32'), (dict(other=codes), 'one tensor'), (dict(codes=codes, other=codes), 'one tensor'), (dict(codes=np.ones((100_000,3), np.float32)), 'no codebook')):
        save_file(bad, f, meta)
        with pytest.raises(ValueError, match=match): load_tokenizer(f)
    f.write_bytes(save(dict(codes=codes)))
    with pytest.raises(ValueError, match='does not say'): TraceTokenizer.from_pretrained(f)
    for raw in (b'', b'nonsense', tok._file()[:-100], tok._file()[:50]):
        f.write_bytes(raw)
        with pytest.raises(ValueError, match='safetensors'): load_tokenizer(f)
    with pytest.raises(FileNotFoundError, match='embedded'): TraceTokenizer.from_pretrained(tmp_path/'nowhere.safetensors')

def test_load_tokenizer():
    assert isinstance(load_tokenizer('mini'), KanziTokenizer) and isinstance(load_tokenizer(MINI, pose='as-is'), KanziTokenizer) and load_tokenizer('mini').levels==(10,10,10)
    assert load_tokenizer('trace-64').n_codes==64 and load_tokenizer(EMBEDDED['trace-256']).n_codes==256
    with pytest.raises(ValueError, match='--pose as-is'): load_tokenizer('trace-64', 'as-is')
    with pytest.raises(ValueError, match='--dtype bfloat16'): load_tokenizer('trace-64', dtype='bfloat16')
    with pytest.raises(ValueError, match='--compile'): load_tokenizer('trace-64', compiled=True)
    with pytest.raises(FileNotFoundError, match='trace-64 and trace-256'): load_tokenizer('trace-100')
    with pytest.raises(FileNotFoundError, match='--kanzi-checkpoint mini'): load_tokenizer('nowhere.safetensors')

def test_a_codebook_of_straight_steps(cas):
    "Codes that leave the plane of the frame open, the first one too"
    codes = np.float32([[3.8,0,0], [-3.8,0,0], [0.5,0.5,0], *fit_codebook(cas[:100], 20, sample=5000)])
    tok = TraceTokenizer(codes)
    back = tok.decode(tok.encode(cas[:50]))
    assert np.isfinite(np.concatenate(back)).all() and np.median([rmsd(y, x) for x,y in zip(cas, back)])<2
    assert np.array_equal(tok.encode(cas[0][:,[1,2,0]]), tok.encode(cas[0]))

def test_fitting_needs_chains(cas):
    for few in ([], [cas[0][:3]], [cas[0]*2], [np.full((9,3), np.nan)]):
        with pytest.raises(ValueError, match='unbroken'): fit_codebook(few, 4)
    with pytest.raises(ValueError, match='too few'): fit_codebook([cas[0]], 4096)
    assert np.array_equal(fit_codebook(cas[:50], 16, sample=2000), fit_codebook(cas[:50], 16, sample=2000))

def test_both_commands(tmp_path, capsys):
    demo = PairedFoldseekDB(demo_db())
    db, flags = write_db(tmp_path/'few', [demo[int(k)] for k in demo.keys[:60]]), ['--db-path', str(tmp_path/'few'), '--kanzi-checkpoint', 'trace-64']
    assert tokenize_kanzi.main([*flags, '--batch-residues', '500'])==0
    tokens, tok = KanziTokens(tmp_path/'few_kanzi'), load_tokenizer('trace-64')
    tokens.check(tok, db)
    assert tokens.manifest['pose']=='invariant' and tokens.manifest['n_codes']==64 and all(np.array_equal(tokens[int(k)], tok.encode(db[int(k)].ca)) for k in db.keys)
    with pytest.raises(ValueError, match='another checkpoint'): tokens.check(load_tokenizer('trace-256'), db)
    assert tokenize_kanzi.main([*flags[:2], '--kanzi-checkpoint', 'mini'])==2
    capsys.readouterr()
    assert kanzi_report.main([*flags, '--samples', '10', '--output', str(tmp_path/'r')])==0
    assert '192 parameters, invariant pose' in capsys.readouterr().out and json.loads((tmp_path/'r.json').read_text())['n_codes']==64 and (tmp_path/'r.png').exists()
    for flag in ('--pose as-is', '--dtype bfloat16', '--samplers'):
        assert kanzi_report.main([*flags, *flag.split()])==2
        assert flag in capsys.readouterr().err

def test_codebooks_of_the_package_come_from_the_corpus():
    "tools/fit_trace.py, for the smaller one"
    from structure_search.dataset import in_validation, read_clusters
    path = shared('corpus')/'pdb'
    db = PairedFoldseekDB(path)
    held = in_validation(read_clusters(f'{path}.clusters.tsv', db.keys), 0.05)
    tok = TraceTokenizer(fit_codebook([p.ca for p in db.batch(db.keys[~held], ('ca',))], 64))
    np.testing.assert_allclose(tok.codes, TraceTokenizer.from_pretrained('trace-64').codes, atol=1e-3)
    test = [p.ca for p in db.batch(db.keys[held], ('ca',)) if 40<=len(p.ca)<=512]
    assert np.median([rmsd(y, x) for x,y in zip(test, tok.decode(tok.encode(test)))])<0.6
