"""What makes decoding fast, each against the plain way in one run, on one CPU thread.

    python benchmarks/kanzi_decode.py

The published shape (random weights) for the unconditional pass and the batches; the embedded tokenizer for the samplers.
"""
import time
import numpy as np, torch
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.kanzi_measure import TRIED, sampler_name, sampler_table
from structure_search.kanzi_model import KanziModel, centre
from structure_search.kanzi_tokenizer import KanziTokenizer
from structure_search.metrics import rmsd
from structure_search.tokenizer_training import published_config

def took(f):
    begin = time.perf_counter(); y = f()
    return time.perf_counter()-begin, y

@torch.no_grad()
def as_written(m, idx, n_steps:int, x0, noise):
    "The sampler as it is published: an unconditional pass in each step, whatever cfg_weight is"
    z, x, ts, k = m.quantize.indices_to_codes(idx), centre(x0), torch.linspace(0, 1, n_steps), 0
    for t in ts:
        v, v0 = (centre(m.net(x, t[None], c)) for c in (z, 0*z))
        v, score, dt = v0+(v-v0), lambda v: (t*v-x)/(1-t), ts[1]-ts[0]
        if t>=0.99: x = x+v*dt
        else:
            g = (1-t)/(t+0.01); s = score(v0)+(score(v)-score(v0))
            x, k = x+(v+g*s)*dt+(2*g*0.45*dt).sqrt()*centre(noise(k)), k+1
    return x

torch.set_num_threads(1); torch.manual_seed(0)
m = KanziModel(published_config())
L, n = 100, 20
idx, x0 = torch.randint(1000, (1, L)), torch.randn(1, L, 3)
noise = lambda k: torch.randn(1, L, 3, generator=torch.Generator().manual_seed(k))
m.decode(idx, n_steps=2)
plain, a = took(lambda: as_written(m, idx, n, x0, noise))
ours, b = took(lambda: m.decode(idx, n_steps=n, x0=x0, noise=noise))
print(f'published sampler, {L} residues, {n} steps: as written {plain:.2f} s, library {ours:.2f} s: {plain/ours:.2f} x; largest difference {(a-b).abs().max()/a.abs().max():.1e} of the largest coordinate')

calls = []
h = m.net.time_embedder.register_forward_hook(lambda mod, args, out: calls.append(len(args[0])))
m.decode(idx.expand(8, -1), n_steps=n); h.remove()
print(f'time embeddings of a batch of 8: {len(calls)} calls of {set(calls)} row for {n} steps')

tok, db = KanziTokenizer.from_pretrained('mini', device='cpu'), PairedFoldseekDB(demo_db())
cas = [db[int(k)].ca for k in db.keys[::10]]
tokens = tok.encode(cas)
one, ys = took(lambda: [tok.decode(t) for t in tokens]); many, zs = took(lambda: tok.decode(tokens))
print(f'mini, {len(cas)} proteins of {min(map(len, cas))}-{max(map(len, cas))} residues: one by one {len(cas)/one:,.0f} a second, in batches {len(cas)/many:,.0f}: {one/many:.2f} x; largest difference {max(abs(y-z).max() for y,z in zip(ys, zs)):.1e} angstrom')
noisy = KanziTokenizer(tok.model, settings=dict(decode=dict(sampler='published', n_steps=50)))
few = tokens[:12]
print(f'published sampler, 50 steps, the same seed alone and in a batch: largest difference {max(abs(noisy.decode(t, seed=3)-y).max() for t,y in zip(few, noisy.decode(few, seed=3))):.1e} angstrom')

print(f'\nsamplers of mini, {len(cas[::3])} proteins of the demo:\n{"":22} network calls   median RMSD   90 %   seconds of all')
for how in TRIED:
    seconds, (row,) = took(lambda: sampler_table(tok, cas[::3], [how]))
    print(f'{sampler_name(how):22} {row["calls"]:13} {np.median(row["rmsd"]):13.3f} {np.percentile(row["rmsd"], 90):6.2f} {seconds:10.1f}')
