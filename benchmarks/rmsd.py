"""RMSD of many pairs of structures: `rmsds`, all at once, against a loop of `rmsd`, by CPU time, the two taking turns.

    python benchmarks/rmsd.py
"""
import os, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.metrics import mirror_share, mirrored, rmsd, rmsds

def best(ways, n=7):
    "Shortest CPU time of each of `ways` in n rounds, seconds"
    times = []
    for _ in range(n):
        for f in ways: t = time.process_time(); f(); times.append(time.process_time()-t)
    return np.reshape(times, (n, len(ways))).min(axis=0)

db, rng = PairedFoldseekDB(demo_db()), np.random.default_rng(0)
true = [db[int(k)].ca for k in rng.permutation(db.keys)[:1000]]
pred = [x+rng.normal(size=x.shape) for x in true]
loop = np.array([rmsd(a, b) for a,b in zip(pred, true)])
apart = np.abs(rmsds(pred, true)-loop).max()
assert apart < 1e-9 and mirror_share(pred, true) == np.mean([mirrored(a, b) for a,b in zip(pred, true)])
fast, slow, share, each = best([lambda: rmsds(pred, true), lambda: [rmsd(a, b) for a,b in zip(pred, true)],
                                lambda: mirror_share(pred, true), lambda: [mirrored(a, b) for a,b in zip(pred, true)]])
print(f'{len(true):,} pairs of {np.mean([len(x) for x in true]):.0f} residues on average, {apart:.0e} angstrom apart at most')
print(f'rmsds {fast*1e3:.1f} ms, a loop of rmsd {slow*1e3:.1f} ms: {slow/fast:.1f} x')
print(f'mirror_share {share*1e3:.1f} ms, a loop of mirrored {each*1e3:.1f} ms: {each/share:.1f} x')
