"Our Kanzi against outputs of the original code, for weights made by a recipe (../shared/fixtures/kanzi)"
import json
import numpy as np, pytest, torch
from conftest import shared, load_module
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.kanzi_model import KanziConfig, KanziModel, load_kanzi, centre
from structure_search.kanzi_tokenizer import KanziTokenizer

SMALL = ['nopair', 'pair16', 'share_gpt', 'qknorm_fullwin']

def made_by_recipe(name:str):
    "(model filled by the recipe, what the original gave, input chains in nanometres)"
    folder = shared('fixtures/kanzi')
    meta = json.loads((folder/'meta_full.json').read_text()) if name=='full' else json.loads((folder/'meta_small.json').read_text())[name]
    model = KanziModel(KanziConfig(**meta['model_cfg']))
    shapes = {k:(v[0] if name=='full' else v) for k,v in meta['keys'].items()}
    assert {k:list(v.shape) for k,v in model.state_dict().items()}==shapes
    assert sum(p.numel() for p in model.parameters())==meta['n_params']
    load_module(folder/'recipe.py').fill(model, meta['model_cfg']['share_adaLN'])
    chains = {k:(torch.tensor(v)-torch.tensor(v).mean(0))[None]/10 for k,v in np.load(folder/'inputs.npz').items()}
    return model, np.load(folder/f'{name}.npz'), chains

def normal(seed:int, L:int)->torch.Tensor:
    return torch.tensor(np.random.RandomState(seed).standard_normal((1,L,3)).astype(np.float32))

def close(a, b, atol): np.testing.assert_allclose(a.detach().numpy(), b, atol=atol, rtol=0)

@pytest.mark.parametrize('name', SMALL)
def test_small_configurations(name):
    model, truth, chains = made_by_recipe(name)
    checked = 0
    for n,x in chains.items():
        L = x.shape[1]
        with torch.no_grad(): hidden, codes, idx = model.encode(x)
        assert (idx[0].numpy()==truth[f'{n}/idx']).all()
        close(hidden[0], truth[f'{n}/hidden'], 1e-4); close(codes[0], truth[f'{n}/codes'], 1e-4)
        for t in (0.0, 0.37, 0.995): close(model.velocity(normal(1000+L, L), t, codes)[0], truth[f'{n}/v_t{t}'].reshape(L,3), 1e-4)
        decodes = {k.split('/')[1]:v for k,v in truth.items() if k.startswith(f'{n}/decode')}
        for key,y in decodes.items():
            args = dict(n_steps=int(key.split('_')[1][1:]), noise_weight=0.45 if '0.45' in key else 0, x0=normal(2000+L, L),
                        score_weight=0 if key.endswith('score0') else 1, cfg_weight=2 if key.endswith('cfg2') else 1,
                        noise=lambda k: normal(3000+L+k, L))
            close(model.decode(idx, **args)[0], y.reshape(L,3), 1e-3); checked += 1
    assert checked>=16

def test_full_size():
    model, truth, chains = made_by_recipe('full')
    for n,x in chains.items():
        L = x.shape[1]
        with torch.no_grad():
            hidden, codes, idx = model.encode(x)
            v = model.velocity(normal(1000+L, L), 0.37, codes)
        assert (idx[0].numpy()==truth[f'{n}/idx']).all() and torch.equal(model.encode_plain(x)[2], idx)
        close(hidden[0,:,:8], truth[f'{n}/hidden_first8'], 1e-4); close(codes[0,:,:8], truth[f'{n}/codes_first8'], 1e-4)
        close(hidden[0].double().sum(-1), truth[f'{n}/hidden_rowsum'], 1e-2); close(v[0], truth[f'{n}/v_t0.37'].reshape(L,3), 1e-4)
    n = '1s7mB01'; L = chains[n].shape[1]
    idx = torch.tensor(truth[f'{n}/idx'])[None]
    close(model.decode(idx, n_steps=5, noise_weight=0, x0=normal(2000+L, L))[0], truth[f'{n}/decode_n5_noise0'].reshape(L,3), 1e-3)

def test_checkpoint_file_of_the_published_layout():
    folder = shared('fixtures/kanzi')
    model, truth = load_kanzi(folder/'pair16_ckpt.pt'), np.load(folder/'pair16.npz')
    _, _, chains = made_by_recipe('pair16')
    for n,x in chains.items():
        with torch.no_grad(): assert (model.encode(x)[2][0].numpy()==truth[f'{n}/idx']).all()

@pytest.mark.parametrize('name', ['pair16', 'qknorm_fullwin'])
def test_padded_batch_equals_one_by_one(name):
    "Encoding, velocity and decoding of chains of 39 to 250 residues in one padded batch; the originals as the reference"
    model, truth, chains = made_by_recipe(name)
    lengths = torch.tensor([x.shape[1] for x in chains.values()])
    x, mask = torch.zeros(len(lengths), int(lengths.max()), 3), torch.arange(int(lengths.max()))<lengths[:,None]
    for i,c in enumerate(chains.values()): x[i,:lengths[i]] = c[0]
    with torch.no_grad(): hidden, codes, idx = model.encode(x, mask)
    for i,n in enumerate(chains): assert (idx[i,:lengths[i]].numpy()==truth[f'{n}/idx']).all()
    x0 = torch.zeros_like(x)
    for i,L in enumerate(lengths.tolist()): x0[i,:L] = centre(normal(2000+L, L))[0]
    y = model.decode(idx, n_steps=50, noise_weight=0, x0=x0, mask=mask)
    for i,n in enumerate(chains):
        if f'{n}/decode_n50_noise0' in truth: close(y[i,:lengths[i]], truth[f'{n}/decode_n50_noise0'].reshape(-1,3), 1e-3)

@pytest.mark.parametrize('name', SMALL)
def test_fast_equals_plain(name):
    "Encoding in blocks against all pairs: tokens, hidden, and the gradients of a training step"
    model, _, chains = made_by_recipe(name)
    for x in chains.values():
        with torch.no_grad(): fast, plain = model.encode(x), model.encode_plain(x)
        assert (fast[2]==plain[2]).all()
        torch.testing.assert_close(fast[0], plain[0], atol=1e-5, rtol=0)
    grads = []
    for encode in (model.encode, model.encode_plain):
        model.zero_grad(); encode(x)[0].square().mean().backward()
        grads.append({k:p.grad.clone() for k,p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys()==grads[1].keys() and len(grads[0])>10
    for k in grads[0]: torch.testing.assert_close(grads[0][k], grads[1][k], atol=1e-6, rtol=1e-3, msg=k)

@pytest.mark.parametrize('window,pair', [(1,-1), (3,16), (8,16), (40,16), (200,-1), (10000,16)])
def test_windows_and_padding(window, pair):
    "Windows from one residue to all, in a padded batch with a chain of one residue; no gradient is lost in the padding"
    torch.manual_seed(window)
    cfg = KanziConfig(n_channels_decoder=32, n_channels_encoder=32, n_layers_encoder=2, n_layers_decoder=1, n_heads=4, levels=(8,5,5,5), window_size=window, n_channels_pair=pair)
    model, lengths = KanziModel(cfg), [1, 15, 16, 17, 90, 133]
    x = [torch.randn(1, L, 3).cumsum(1)*0.2 for L in lengths]
    batch, mask = torch.zeros(6, 140, 3), torch.arange(140)<torch.tensor(lengths)[:,None]
    for i,c in enumerate(x): batch[i,:lengths[i]] = c[0]
    hidden, _, idx = model.encode(batch, mask)
    for i,c in enumerate(x):
        plain = model.encode_plain(c)
        torch.testing.assert_close(hidden[i,:lengths[i]], plain[0][0], atol=1e-5, rtol=0)
        assert (idx[i,:lengths[i]]==plain[2][0]).all()
    (hidden*mask[...,None]).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

def test_tokens_alone_and_in_batches():
    "The demo's 181,833 residues: at most one token in 100,000 may depend on the company"
    db, tok = PairedFoldseekDB(demo_db()), KanziTokenizer.from_pretrained('mini')
    b = db.batch(db.keys, ('ca',))
    together, tok.budget = tok.encode_ragged(b.ca, b.offsets), 1
    assert (together!=tok.encode_ragged(b.ca, b.offsets)).sum()<=1

@pytest.mark.parametrize('decode', [dict(sampler='flow', n_steps=3), dict(sampler='flow', n_steps=4, start='noise'), dict(sampler='published', n_steps=60), dict(sampler='published', n_steps=10, stable=True, cfg_weight=1.5)])
@pytest.mark.parametrize('name', ['mini', 'share_gpt'])
def test_a_seed_gives_a_structure_alone_and_in_a_batch(name, decode):
    model = KanziTokenizer.from_pretrained('mini').model if name=='mini' else made_by_recipe(name)[0]
    tok = KanziTokenizer(model, settings=dict(decode=decode))
    tokens = [np.random.default_rng(L).integers(0, tok.n_codes, L) for L in (5, 61, 40, 90)]
    for t,y in zip(tokens, tok.decode(tokens, seed=3)):
        np.testing.assert_allclose(tok.decode(t, seed=3), y, atol=0.01)
        if decode['sampler']=='published' or 'start' in decode: assert abs(tok.decode(t, seed=4)-y).max()>0.01

def test_a_conversion_keeps_tokens_and_identity(tmp_path, capsys):
    from structure_search.convert_kanzi import main
    source, target = shared('fixtures/kanzi/pair16_ckpt.pt'), tmp_path/'k.safetensors'
    assert main([str(source), str(target)])==2 and 'SHA-256' in capsys.readouterr().err and not target.exists()
    assert main([str(source), str(target), '--sha256', 'any'])==0
    a, b = KanziTokenizer.from_pretrained(source), KanziTokenizer.from_pretrained(target)
    assert a.identity==b.identity and a.settings==b.settings
    for x in np.load(source.parent/'inputs.npz').values(): assert np.array_equal(a.encode(x), b.encode(x))

def test_changed_weights_are_noticed():
    "The remembered pair-bias tables are made again after any change of weights"
    model, _, chains = made_by_recipe('pair16')
    x = next(iter(chains.values()))
    with torch.no_grad():
        before = model.encode(x)[0]
        model.encoder.blocks[0].proj_pair_bias.weight.mul_(-3)
        assert not torch.allclose(before, model.encode(x)[0])
        model.encoder.blocks[0].proj_pair_bias.weight.mul_(-1/3)
        torch.testing.assert_close(before, model.encode(x)[0], atol=1e-5, rtol=0)

def test_longer_than_the_original_takes():
    model, _, _ = made_by_recipe('nopair')
    x = torch.randn(1, 400, 3, generator=torch.Generator().manual_seed(0)).cumsum(1)*0.1
    with torch.no_grad(): idx = model.encode(x)[2]
    assert idx.shape==(1,400) and idx.min()>=0 and idx.max()<1000

class Malicious:
    def __reduce__(self): return (print, ('code in a checkpoint ran',))

@pytest.mark.parametrize('content', [b'', b'hello', {'model':{}}, ['list'], {'model':{'a':torch.zeros(1)}, 'model_cfg':{'levels':[9]*20}}, Malicious()])
def test_what_is_not_a_checkpoint_is_refused(tmp_path, content, capsys):
    path = tmp_path/'x.pt'
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match='x.pt'): load_kanzi(path)
    assert 'ran' not in capsys.readouterr().out

def test_against_the_original_package():
    DAE = getattr(pytest.importorskip('kanzi', reason='the original Kanzi package is not installed (the PyPI name is another project)'), 'DAE', None)
    if DAE is None: pytest.skip('the installed package `kanzi` is not the flow autoencoder')
    ours, _, chains = made_by_recipe('pair16')
    import inspect
    module = inspect.getmodule(DAE)
    Config = next(v for k,v in vars(module).items() if k.endswith('Config') and hasattr(v, '__dataclass_fields__'))
    from dataclasses import asdict
    theirs = DAE(Config(**{k:v for k,v in asdict(ours.cfg).items() if k in Config.__dataclass_fields__})).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for x in chains.values():
        with torch.no_grad(): assert (theirs.encode(x*10, preprocess=True)[2]==ours.encode(x)[2]).all()
