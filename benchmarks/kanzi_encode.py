"""How fast coordinates become Kanzi tokens, on one CPU thread: the library's way against the plain one, in one run.

    python benchmarks/kanzi_encode.py [DB]        # a Foldseek database with _ca; default: the demo

The published shape (41 million parameters, 2 million of them in the encoder) with random weights; its tokens must be the same both ways. Prints times and ratios, what memory grows with, agreement alone and in batches, in float32 and bfloat16, and what
poses cost. `--compile` tries torch.compile too.
"""
import argparse, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, torch
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.kanzi_model import KanziModel
from structure_search.kanzi_tokenizer import KanziTokenizer
from structure_search.kanzi_sidecar import begin_job, join_parts, work
from structure_search.pose import canonical_pose, canonical_poses
from structure_search.tokenizer_training import published_config

def best(f, n=5):
    f(); times = []
    for _ in range(n): begin = time.perf_counter(); f(); times.append(time.perf_counter()-begin)
    return min(times)

def published(): torch.manual_seed(0); return KanziModel(published_config())

def chain(L:int, B:int=1): # nanometres, a random walk in steps of 0.38
    x = torch.randn(B, L, 3, generator=torch.Generator().manual_seed(L))
    return (0.38*x/x.norm(dim=-1, keepdim=True)).cumsum(1)

def peak(L:int, way:str)->float: # MB that an encoding takes on top of what there was, in a process of its own (Linux)
    code = f"""import sys, torch; sys.path.insert(0, {str(Path(__file__).parent)!r})
import kanzi_encode as k
torch.set_num_threads(1); m = k.published(); x = k.chain({L})
mb = lambda what: int(next(l for l in open('/proc/self/status') if l.startswith(what)).split()[1])/1024
with torch.no_grad():
    m.encode(k.chain(64)); open('/proc/self/clear_refs', 'w').write('5'); before = mb('VmRSS'); m.{way}(x)
print(mb('VmHWM')-before)"""
    return float(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout)

def speed(m):
    for L in (100, 200):
        x, many = chain(L), chain(L, 16)
        with torch.no_grad():
            plain, fast, batch = best(lambda: m.encode_plain(x), 2), best(lambda: m.encode(x), 10), best(lambda: m.encode(many), 3)/16
            same = (m.encode(x)[2]==m.encode_plain(x)[2]).float().mean()
        print(f'{L} residues: plain {plain*1e3:7.1f} ms, library {fast*1e3:5.2f} ms: {plain/fast:5.1f} x; in a batch of 16 {batch*1e3:5.2f} ms: {plain/batch:5.1f} x; {same:.2%} of the tokens are the same')

def memory():
    for L in (250, 500, 1000, 2000, 4000, 8000): print(f'{L} residues: memory on top of the model {peak(L, "encode"):7.0f} MB'+(f', plain {peak(L, "encode_plain"):7.0f} MB' if L<=500 else ''))

def agreement(name, tok, cas):
    together = tok.encode(cas)
    alone = np.concatenate([tok.encode(x) for x in cas])
    half = KanziTokenizer(tok.model, tok.pose, tok.settings, dtype='bfloat16').encode(cas)
    print(f'{name}: {(alone!=np.concatenate(together)).sum()} of {len(alone):,} tokens differ between alone and in batches; {(np.concatenate(half)!=np.concatenate(together)).mean():.2%} in bfloat16')
    seconds = best(lambda: tok.encode(cas), 1)
    print(f'{name}: {len(cas)/seconds:,.0f} proteins a second, {len(alone)/seconds:,.0f} residues, poses and batches included')

def around(db):
    "All of ss_tokenize_kanzi but the network"
    tok = KanziTokenizer.from_pretrained('mini', device='cpu')
    tok.budget, tok._run, residues = 1<<17, lambda x, mask: (None, None, torch.zeros(x.shape[:2], dtype=torch.int32)), int(db.residues().sum())
    with tempfile.TemporaryDirectory() as d:
        output = Path(d)/'tokens'
        begin_job(tok, db, output)
        begin = time.perf_counter(); work(tok, db, output, show=False); worked = time.perf_counter()-begin
        begin = time.perf_counter(); join_parts(tok, db, output, show=False); joined = time.perf_counter()-begin
    print(f'around the network: {len(db)/worked:,.0f} proteins of {residues/len(db):.0f} residues a second, {residues/worked:,.0f} residues; joining {len(db)/joined:,.0f} proteins a second')

if __name__=='__main__':
    p = argparse.ArgumentParser(); p.add_argument('db', nargs='?', default=str(demo_db())); p.add_argument('--proteins', type=int, default=400); p.add_argument('--compile', action='store_true'); a = p.parse_args()
    torch.set_num_threads(1)
    m, db = published(), PairedFoldseekDB(a.db)
    speed(m); memory()
    around(db)
    b = db.batch(db.keys[:4096], ('ca',))
    cas = np.split(b.ca, b.offsets[1:-1])
    many, single = best(lambda: canonical_poses(b.ca, b.offsets), 3)/len(b), best(lambda: [canonical_pose(x) for x in cas[:200]], 2)/200
    print(f'poses: {1/many:,.0f} a second together ({many*1e6:.0f} microseconds each), one by one {single/many:.1f} x slower')
    agreement('published shape', KanziTokenizer(m), cas[:a.proteins]); agreement('mini', KanziTokenizer.from_pretrained('mini', device='cpu'), cas[:a.proteins])
    if a.compile:
        x, run = chain(200, 16), torch.compile(m.encode, dynamic=True)
        with torch.no_grad():
            begin = time.perf_counter(); run(x); run(chain(100, 16)); made = time.perf_counter()-begin
            print(f'torch.compile: {made:.0f} s to compile, then {best(lambda: m.encode(x))/best(lambda: run(x)):.2f} x the speed of eager')
