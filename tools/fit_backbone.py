"""Fit the coefficients of `rebuild_backbone` to structures with all backbone atoms, write them to the package, and measure 3Di letters on a database.

    python tools/fit_backbone.py ../shared/fixtures/foldseek/structures/plain ../shared/corpus/pdb
"""
import sys
from pathlib import Path
import numpy as np
import structure_search
from structure_search import structure
from structure_search.foldseek_db import PairedFoldseekDB

def fit(folder):
    "Least squares of N, C and CB in the frame of each residue; residues with a whole neighbourhood only"
    terms, atoms = [], []
    for f in sorted(Path(folder).iterdir()):
        for chain in structure._parsed(f, structure._bytes(f))[0][0]:
            aa, xyz = structure._residues(chain)
            if len(aa)<20: continue
            n, ca, c, cb = xyz.transpose(1, 0, 2)
            frames, t = structure._around(ca)
            y = np.einsum('lij,lai->laj', frames, np.stack([n, c, cb], 1)-ca[:,None]).reshape(-1, 9)
            ok = np.isfinite(y).all(1); ok[[0, 1, -2, -1]] = False
            terms.append(t[ok]); atoms.append(y[ok])
    t, y = np.concatenate(terms), np.concatenate(atoms)
    w = np.linalg.solve(t.T@t+0.1*np.eye(t.shape[1]), t.T@y)
    print(f'{len(terms)} chains, {len(t):,} residues; distance to the true atom (median, angstrom):', {a:float(d.round(3)) for a,d in zip(('N', 'C', 'CB'), np.median(np.linalg.norm((t@w-y).reshape(-1, 3, 3), axis=-1), axis=0))})
    return w.astype(np.float32)

if __name__=='__main__':
    folder, path = sys.argv[1:]
    np.save(Path(structure_search.__file__).parent/'assets'/'backbone.npy', fit(folder))
    structure._coefficients.cache_clear()
    some = PairedFoldseekDB(path).at(slice(None, None, 10), ('ss', 'ca'))
    same = np.frombuffer(''.join(structure.trace_3di(p.ca) for p in some).encode(), np.uint8)==some.ss
    print(f'{Path(path).name}: {same.mean():.1%} of {len(same):,} 3Di letters of {len(some):,} chains are the same')
