"""What is known of 3Di letters without a model: the reference predictors, fitted on the training proteins of a database and scored on all held-out ones.

    python benchmarks/references.py                      # the embedded database
    python benchmarks/references.py ../shared/corpus/pdb # splits by ../shared/corpus/pdb.clusters.tsv, where it is there
"""
import os
os.environ.setdefault('OMP_NUM_THREADS', '1')
import argparse, time
from pathlib import Path
import numpy as np
from structure_search.dataset import ProteinRows, read_clusters, select
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.references import reference_table
from structure_search.vocab import minimal_vocab

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument('database', nargs='?', default=str(demo_db()), help='with `_ss`; clusters are read from DATABASE.clusters.tsv')
parser.add_argument('--val-fraction', type=float, default=0.05, help='share of clusters held out')
parser.add_argument('--max-protein-length', type=int, default=400, help='residues; longer proteins are left out')
a = parser.parse_args()

db, path, vocab = PairedFoldseekDB(a.database), Path(f'{a.database}.clusters.tsv'), minimal_vocab('3di')
clusters = read_clusters(path, db.keys) if path.is_file() else np.asarray(db.keys)
train, val, words = select(db, '3di', path if path.is_file() else None, a.val_fraction, a.max_protein_length)
print(words if path.is_file() else f'{words} (no {path.name}: each protein is its own cluster)')
rows, start = ProteinRows(db, vocab), time.perf_counter()
known, held = rows.proteins(train.keys), rows.proteins(val.keys)
groups = clusters[np.searchsorted(db.keys, [p.key for p,_ in held])]
table = reference_table(known, held, vocab.n_structure, groups, progress=True)
print(f'fitted on {sum(len(x) for _,x in known):,} letters, scored on {sum(len(x) for _,x in held):,} of {len(set(groups.tolist())):,} clusters; {time.perf_counter()-start:.0f} s\n')
print(f'{"":14}{"accuracy":>8}  {"(95 %)":16}{"nats":>6}  (95 %)')
for name,s in table.items():
    (a0, a1), (n0, n1) = s['accuracy_interval'], s['nats_interval']
    print(f'{name:14}{s["accuracy"]:8.4f}  {f"{a0:.4f} to {a1:.4f}":16}{s["nats"]:6.3f}  {n0:.3f} to {n1:.3f}')
