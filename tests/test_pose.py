"The canonical pose: the same for every turned and shifted copy of a shape, whatever the shape"
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.kanzi_tokenizer import KanziTokenizer
from structure_search.kanzi_measure import token_agreement
from structure_search.metrics import rmsd
from structure_search.pose import _any_axes, canonical_pose, canonical_poses, random_rotation

def turned(x, rng, far=30): return (np.asarray(x)@random_rotation(rng).T+rng.normal(size=3)*far).astype(np.float32)

def test_tokens_of_turned_copies():
    "All 1,250 chains of the demo, 181,833 tokens"
    db, tok = PairedFoldseekDB(demo_db()), KanziTokenizer.from_pretrained('mini')
    assert token_agreement(tok, [p.ca for p in db], seed=5)>=0.9999

def test_chains_of_the_demo_one_by_one_and_plainly():
    db = PairedFoldseekDB(demo_db())
    b = db.batch(db.keys, ('ca',))
    together = canonical_poses(b.ca, b.offsets)
    for i in range(0, len(b), 5):
        s = slice(b.offsets[i], b.offsets[i+1])
        x = b.ca[s]-b.ca[s].mean(0, dtype=np.float64)
        size, axes = np.linalg.eigh(x.T@x)
        assert np.array_equal(together[s], canonical_pose(b.ca[s]))
        np.testing.assert_allclose(together[s], x@_any_axes(x, size[::-1], axes[:,::-1]), atol=1e-3)

angle = lambda n: 2*np.pi*np.arange(n)/n
golden = (1+5**0.5)/2
SHAPES = dict(
    ring=np.stack([np.cos(angle(36)), np.sin(angle(36)), 0*angle(36)], 1)*25, star=np.stack([np.cos(angle(10)), np.sin(angle(10)), 0*angle(10)], 1)*np.where(np.arange(10)%2, 8, 20)[:,None],
    octahedron=np.concatenate([np.eye(3), -np.eye(3)])*10, icosahedron=np.array([p for a in (-1,1) for b in (-golden,golden) for p in ((0,a,b), (a,b,0), (b,0,a))])*8,
    barrel=np.stack([12*np.cos(angle(8)), 12*np.sin(angle(8)), np.arange(8)%2*12.], 1), line=np.arange(12)[:,None]*np.array([[1,2,3.]]), there_and_back=np.concatenate([np.arange(12), np.arange(12)[::-1]])[:,None]*np.array([[0,3.8,0]]),
    square=np.array([[0,0,0],[1,0,0],[1,1,0],[0,1,0.]])*5, cross=np.array([[1,0,0],[-1,0,0],[0,1,0],[0,-1,0.]])*5, point=np.zeros((7,3)), one=np.ones((1,3)), tiny=np.random.default_rng(0).normal(size=(5,3))*1e-2)

@pytest.mark.parametrize('name', SHAPES)
@pytest.mark.parametrize('noise', [0, 1e-6])
def test_symmetric_and_degenerate_shapes(name, noise):
    rng, x = np.random.default_rng(0), SHAPES[name]
    first = canonical_pose(x)
    assert np.isfinite(first).all() and first.shape==x.shape and rmsd(first, x)<1e-3
    for _ in range(50):
        again = canonical_pose(turned(x+rng.normal(size=x.shape)*noise, rng, far=10))
        np.testing.assert_allclose(again, first, atol=0.02)

@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**32-1), st.sampled_from([1, 1e-2, 1e-4, 0]), st.sampled_from([1, 1e-2, 1e-4, 0]))
def test_any_cloud(n, seed, second, third):
    "Clouds squeezed along one or two axes, to planes and lines too"
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n,3))*[20, 20*second, 20*third]
    pose = canonical_pose(x)
    assert rmsd(pose, x)<2e-3
    np.testing.assert_allclose(canonical_pose(turned(x, rng)), pose, atol=0.05)

def test_mirror_images_have_other_poses():
    db = PairedFoldseekDB(demo_db())
    x = db[int(db.keys[0])].ca
    assert rmsd(canonical_pose(x*np.float32([1,1,-1])), x)>1 and not np.allclose(canonical_pose(x*np.float32([1,1,-1])), canonical_pose(x), atol=1)

def test_nothing_is_an_error():
    assert canonical_poses(np.zeros((0,3)), np.array([0])).shape==(0,3)
    with pytest.raises(ValueError, match='without residues'): canonical_poses(np.ones((2,3)), np.array([0,2,2]))
