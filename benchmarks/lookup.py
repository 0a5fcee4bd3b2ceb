"""Rows of token numbers: the byte lookup of `Vocab.encode` against the Hugging Face tokenizer of the same vocabulary.

    python benchmarks/lookup.py
"""
import time
import numpy as np
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.vocab import hf_tokenizer, minimal_vocab

def best(f, n=5):
    "Shortest time of n runs, seconds"
    times = []
    for _ in range(n): t = time.perf_counter(); f(); times.append(time.perf_counter()-t)
    return min(times)

db, vocab = PairedFoldseekDB(demo_db()), minimal_vocab('3di')
proteins = [db[int(k)] for k in db.keys]
hf, lines = hf_tokenizer(vocab), [f'<AA>{p.aa}<SEP><3Di>{p.ss.lower()}<EOS>' for p in proteins]
assert all(np.array_equal(vocab.encode(p.aa, p.ss), ids) for p,ids in zip(proteins, hf(lines)['input_ids']))
fast, slow = best(lambda: [vocab.encode(p.aa, p.ss) for p in proteins]), best(lambda: hf(lines)['input_ids'])
print(f'{len(proteins):,} proteins: lookup {fast*1e3:.1f} ms, Hugging Face tokenizer (a batch at once) {slow*1e3:.1f} ms: {slow/fast:.1f} x')
