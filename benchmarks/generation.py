"""Batched generation with a key-value cache, against one protein at a time, and against the slow reference that reads the whole row again for every token.
Then the embedded 3Di model on proteins of all lengths, in batches and one at a time. OMP_NUM_THREADS=1 for one core.

    python benchmarks/generation.py
"""
import time
import numpy as np, torch
from structure_search.dataset import collate
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.model import build_model
from structure_search.predict import generate
from structure_search.vocab import minimal_vocab

db, vocab = PairedFoldseekDB(demo_db()), minimal_vocab('kanzi')
model = build_model('tiny', vocab).eval()
with torch.no_grad(): model.lm_head.weight.mul_(20)
sequences = [db[int(k)].aa for k in db.keys[(db.residues()>=60)&(db.residues()<80)][:16]]

@torch.no_grad()
def slowly(aa):
    tokens = []
    for _ in aa:
        batch = collate([vocab.encode(aa, [*tokens, *[0]*(len(aa)-len(tokens))])], vocab); batch.pop('labels')
        tokens.append(int(model(**batch).logits[0, len(aa)+2+len(tokens), vocab.first:vocab.first+1000].argmax()))
    return tokens

def timed(f):
    t = time.process_time(); out = f()
    return time.process_time()-t, out

generate(model, vocab, sequences[:2])
(batched, a), (single, b), (slow, c) = (timed(f) for f in (lambda: generate(model, vocab, sequences)[0], lambda: [generate(model, vocab, [s])[0][0] for s in sequences], lambda: [slowly(s) for s in sequences]))
agree = np.mean([np.array_equal(x, z) for x,z in zip(a, c)])
n = sum(map(len, sequences))
print(f'{len(sequences)} proteins, {n} residues, {torch.get_num_threads()} threads: batch {n/batched:,.0f} residues/s; one at a time {n/single:,.0f} ({single/batched:.1f} x slower); whole row for each token {n/slow:,.0f} ({slow/batched:.1f} x slower); same tokens in {agree:.0%} of proteins')

# the embedded 3Di model on proteins of all lengths; one at a time, every sixth of them
from structure_search.predict import Predictor
predictor, sequences = Predictor.from_pretrained('3di'), [p.aa for p in db.at(slice(0, 192))]
some = sequences[::6]
for method in ('write', 'read'):
    predictor(sequences[:2], method=method)
    (batched, a), (single, b) = (timed(f) for f in (lambda: predictor(sequences, method=method), lambda: [predictor(s, method=method) for s in some]))
    together, alone, same = sum(map(len, sequences))/batched, sum(map(len, some))/single, np.mean([x.ss==y.ss for x,y in zip(a[::6], b)])
    print(f'embedded 3Di model, {method}, {len(sequences)} proteins of {min(map(len, sequences))} to {max(map(len, sequences))} residues: batch {together:,.0f} residues/s; one at a time {alone:,.0f} ({together/alone:.1f} x slower); same letters in {same:.0%} of proteins')
