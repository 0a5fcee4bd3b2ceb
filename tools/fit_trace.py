"""Fit the codebooks of `TraceTokenizer` to the training clusters of a database, write them to the package, and measure them on the held-out ones.

    python tools/fit_trace.py ../shared/corpus/pdb              # with ../shared/corpus/pdb.clusters.tsv; two minutes
"""
import sys, time
import numpy as np
from structure_search.dataset import in_validation, read_clusters
from structure_search.foldseek_db import PairedFoldseekDB
from structure_search.kanzi_measure import code_usage, token_agreement
from structure_search.kanzi_tokenizer import KanziTokenizer
from structure_search.metrics import rmsd, superpose
from structure_search.pose import random_rotation
from structure_search.trace import EMBEDDED, TraceTokenizer, fit_codebook, local_vectors, nearest

def open_loop(tok, ca)->np.ndarray: return np.concatenate([tok.encode(ca)[:3], nearest(local_vectors(ca), tok.codes)])

def measure(tok, cas)->str:
    "A row of the table: closed and open loop, median and 90th percentile of the RMSD, perplexity of the closed loop"
    tokens = tok.encode(cas)
    ways = {way:[rmsd(y, x) for x,y in zip(cas, tok.decode(t))] for way,t in dict(open=[open_loop(tok, x) for x in cas], closed=tokens).items()}
    return f'| {tok.n_codes} | '+' | '.join(f'{np.median(r):.2f} ({np.percentile(r, 90):.2f})' for r in ways.values())+f' | {code_usage(tokens, tok.n_codes)[1]:.0f} |'

def rewritten(tok, cas)->str:
    "Turned copies: as they are, and with coordinates rounded to 0.001 angstrom, as a file has them"
    rng = np.random.default_rng(0)
    moved = [np.round(x@random_rotation(rng).T+rng.normal(size=3)*20, 3).astype(np.float32) for x in cas]
    same = np.concatenate(tok.encode(cas))==np.concatenate(tok.encode(moved))
    return f'tokens that stay: turned {token_agreement(tok, cas):.2%}, turned and rounded to 0.001 angstrom {same.mean():.1%}'

def cut(tok, cas, gap:int)->str:
    "Residues missing in the middle: RMSD of the whole, and distance to the truth some residues after the break"
    r, off, far = [], [], []
    for x in cas:
        if len(x)<120: continue
        h = len(x)//2-gap//2
        y = np.concatenate([x[:h], x[h+gap:]])
        z = tok.decode(tok.encode(y))
        r.append(rmsd(z, y)); far.append(np.linalg.norm(y[h]-y[h-1])); off.append(np.linalg.norm(superpose(z, y)-y, axis=1)[h:h+21])
    return f'| {gap} | {np.median(far):.1f} | {np.median(r):.2f} ({np.percentile(r, 90):.2f}) | '+' | '.join(f'{np.mean(off, 0)[i]:.1f}' for i in (0, 3, 8, 20))+' |'

if __name__=='__main__':
    path, = sys.argv[1:]
    db = PairedFoldseekDB(path)
    held = in_validation(read_clusters(f'{path}.clusters.tsv', db.keys), 0.05)
    train = [p.ca for p in db.batch(db.keys[~held], ('ca',))]
    test = [p.ca for p in db.batch(db.keys[held], ('ca',)) if 40<=len(p.ca)<=512]
    print(f'fitted to {len(train):,} chains, {sum(map(len, train)):,} residues; measured on {len(test):,} chains of held-out clusters')
    print('| K | open loop: median RMSD (90th percentile) | closed loop | perplexity |\n|---|---|---|---|')
    for K in (20, 64, 256, 1000):
        tok = TraceTokenizer(fit_codebook(train, K))
        if f'trace-{K}' in EMBEDDED: tok.save(EMBEDDED[f'trace-{K}'])
        print(measure(tok, test), flush=True)
    for name in EMBEDDED:
        tok, begin = TraceTokenizer.from_pretrained(name), time.process_time()
        tokens = tok.encode(train[:4000])
        print(f'{name}: {sum(map(len, tokens))/(time.process_time()-begin):,.0f} residues encoded in a second of one core; mirror images come back at {np.median([rmsd(tok.decode(tok.encode(-x)), -x) for x in test[::4]]):.2f} angstrom; {rewritten(tok, test)}')
        print('| residues cut out | gap (angstrom) | RMSD (90th percentile) | distance at the break | 3 after | 8 after | 20 after |\n|---|---|---|---|---|---|---|')
        for gap in (0, 1, 5, 20): print(cut(tok, test, gap), flush=True)
    print(f'mini: {rewritten(KanziTokenizer.from_pretrained("mini"), [x for x in test[::4] if len(x)<=256])}')
