"""Draw the embedded demo database from a larger Foldseek database with 3Di, C-alpha and a cluster table.

One chain a cluster, 40-256 residues, at most 5 % unknown residues, chosen by a hash of the key: the same input gives the same demo.
Keys and cluster numbers are kept, so that a split by cluster hash is the same in both databases.

    python tools/make_demo_db.py ../shared/corpus/pdb ../shared/corpus/pdb.clusters.tsv
"""
import argparse
from pathlib import Path
import numpy as np
from structure_search.dataset import read_clusters, unit_hash
from structure_search.foldseek_db import PairedFoldseekDB, write_db

def choose(db, clusters, n, shortest=40, longest=256):
    "Proteins of the demo, ascending by key"
    L = db.residues()
    usable = np.flatnonzero((L>=shortest)&(L<=longest)&db.having('ss')&db.having('ca'))
    order, seen, out = usable[np.argsort(unit_hash(db.keys[usable], salt=2), kind='stable')], set(), []
    for i in order:
        if int(clusters[i]) in seen: continue
        p = db[int(db.keys[i])]
        if p.aa.count('X')>0.05*len(p) or not np.isfinite(p.ca).all(): continue
        seen.add(int(clusters[i])); out.append((p, int(clusters[i])))
        if len(out)==n: break
    return sorted(out, key=lambda pc: pc[0].key)

def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument('db_path', help='Foldseek database to draw from')
    a.add_argument('clusters', help='text file: key<tab>cluster')
    a.add_argument('--n', type=int, default=1250, help='chains (default: %(default)s)')
    a.add_argument('--output', default='structure_search/assets/demo/demo', help='name of the database to write (default: %(default)s)')
    a = a.parse_args()
    db = PairedFoldseekDB(a.db_path)
    chosen = choose(db, read_clusters(a.clusters, db.keys), a.n)
    write_db(a.output, [p for p,_ in chosen])
    Path(f'{a.output}.clusters.tsv').write_text(''.join(f'{p.key}\t{c}\n' for p,c in chosen))
    size = sum(f.stat().st_size for f in Path(a.output).parent.glob(f'{Path(a.output).name}*'))
    print(f'{a.output}: {len(chosen):,} chains, {sum(len(p) for p,_ in chosen):,} residues, {size/1e6:.2f} MB')

if __name__=='__main__': main()
