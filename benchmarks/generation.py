"""Batched generation with a key-value cache, against one protein at a time, and against the slow reference that reads the whole row again for every token.

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
    t = time.perf_counter(); out = f()
    return time.perf_counter()-t, out

generate(model, vocab, sequences[:2])
(batched, a), (single, b), (slow, c) = (timed(f) for f in (lambda: generate(model, vocab, sequences)[0], lambda: [generate(model, vocab, [s])[0][0] for s in sequences], lambda: [slowly(s) for s in sequences]))
agree = np.mean([np.array_equal(x, z) for x,z in zip(a, c)])
n = sum(map(len, sequences))
print(f'{len(sequences)} proteins, {n} residues, {torch.get_num_threads()} threads: batch {n/batched:,.0f} residues/s; one at a time {n/single:,.0f} ({single/batched:.1f} x slower); whole row for each token {n/slow:,.0f} ({slow/batched:.1f} x slower); same tokens in {agree:.0%} of proteins')
