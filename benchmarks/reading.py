"""Proteins in a shuffled order from the page cache, on one core: batches against one protein at a time.

    python benchmarks/reading.py                     # the embedded database
    python benchmarks/reading.py ../shared/corpus/pdb
"""
import os, sys, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np
from structure_search.foldseek_db import PairedFoldseekDB, demo_db

def best(f, n=5):
    "Shortest CPU time of n runs, seconds"
    times = []
    for _ in range(n): t = time.process_time(); f(); times.append(time.process_time()-t)
    return min(times)

db = PairedFoldseekDB(sys.argv[1] if len(sys.argv)>1 else demo_db())
keys = np.random.default_rng(0).permutation(db.keys)
print(f'{db.path.name}: {len(db):,} proteins, {db.residues().mean():.0f} residues on average')
for what,parts in (('sequence, 3Di', ('ss',)), ('sequence, 3Di, C-alpha', ('ss','ca'))):
    plain = best(lambda: [db.read(k, parts) for k in keys.tolist()], 3)
    for size in (256, 1024, 4096):
        fast = best(lambda: [db.batch(keys[i:i+size], parts) for i in range(0, len(keys), size)])
        print(f'{what}: {len(keys)/fast:,.0f} proteins a second in batches of {size:,}, {len(keys)/plain:,.0f} one at a time: {plain/fast:.1f} x')
