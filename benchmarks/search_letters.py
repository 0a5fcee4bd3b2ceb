"""How many relatives are found with predicted 3Di letters, beside true letters and beside residues alone.

    python benchmarks/search_letters.py                   # the demo database's held-out chains against the others; some minutes

Queries: the 59 chains of the demo database that the embedded 3Di model was not trained on. Targets: the other chains, with their true letters. Every query is aligned with every
target by the stand-in of the tests (local alignments of 3Di letters and residues together, by biotite, with the published 3Di matrix); no foldseek is needed. A relative is a target
whose true structure lies on the query's: at least half of the shorter chain is aligned by true letters, with an RMSD of at most 5 angstrom.
"""
import argparse, importlib.util, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from biotite.sequence.align import align_optimal
from structure_search.dataset import select
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.metrics import rmsd
from structure_search.predict import Predictor

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--model', default='3di', help='embedded model or folder; the queries must be held out from its training')
p.add_argument('--queries', type=int, default=59, help='at most')
a = p.parse_args()
spec = importlib.util.spec_from_file_location('stand_in', Path(__file__).parents[1]/'tests'/'foldseek_stand_in.py')
stand_in = importlib.util.module_from_spec(spec); spec.loader.exec_module(stand_in)

db = PairedFoldseekDB(demo_db())
held = select(db, '3di', f'{demo_db()}.clusters.tsv', 0.05)[1].keys.tolist()
queries = [db[k] for k in held[:a.queries]]
targets = [q for q in db if q.key not in held]
predicted = Predictor.from_pretrained(a.model)([q.aa for q in queries])
alphabet, both = stand_in.matrix()
residues = stand_in.matrix(letters=0.0)[1]
codes = [stand_in.coded(t, alphabet) for t in targets]
scores, relatives = {k:[] for k in ('true letters', 'predicted letters', 'residues alone')}, []
for q,g in zip(queries, predicted):
    kinds = {'true letters':(stand_in.coded(q, alphabet), both), 'predicted letters':(stand_in.coded(replace(q, ss=g.ss), alphabet), both), 'residues alone':(stand_in.coded(q, alphabet), residues)}
    rows = {k:[] for k in kinds}
    near = []
    for t,code in zip(targets, codes):
        for k,(x,m) in kinds.items():
            al = align_optimal(x, code, m, gap_penalty=(-21, -3), local=True, max_number=1)[0]
            rows[k].append(al.score)
            if k=='true letters':
                i, j = al.trace[(al.trace>=0).all(1)].T
                near.append(len(i)>=0.5*min(len(q), len(t)) and rmsd(q.ca[i], t.ca[j])<=5)
    relatives.append(np.array(near))
    for k in kinds: scores[k].append(np.array(rows[k]))
with_any = [r for r in range(len(queries)) if relatives[r].any()]
print(f'{len(queries)} queries, {len(targets):,} targets; {len(with_any)} queries have relatives, {sum(relatives[r].sum() for r in with_any)} in all')
for k,s in scores.items():
    first = np.mean([relatives[r][np.argmax(s[r])] for r in with_any])
    ten = np.mean([relatives[r][np.argsort(-s[r])[:10]].any() for r in with_any])
    share = np.mean([relatives[r][np.argsort(-s[r])[:relatives[r].sum()]].mean() for r in with_any])
    print(f'{k:18} best hit is a relative: {first:.0%} of queries; one among the best ten: {ten:.0%}; of as many hits as there are relatives, relatives: {share:.0%}')
chance = np.mean([relatives[r].mean() for r in with_any])
print(f'chance: {chance:.1%}')
