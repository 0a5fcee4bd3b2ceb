"""Training on steps of near-equal length, against the plain way: one protein a row, each row padded to --max-length. The same proteins, the same model.

    python benchmarks/batches.py
"""
import time
import numpy as np, torch
from structure_search.dataset import ProteinRows, StepPlan, collate, select
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.model import build_model
from structure_search.training import token_losses
from structure_search.vocab import minimal_vocab

db, vocab, max_length = PairedFoldseekDB(demo_db()), minimal_vocab('3di'), 1024
train, _, _ = select(db, '3di', f'{demo_db()}.clusters.tsv', 0.1)
rows, model = ProteinRows(db, vocab), build_model('nano', vocab)
steps = [s for _,s in StepPlan(train.lengths, 4, max_length).run(1)][:12]
members = np.concatenate(steps)

def work(batches):
    "Forward and backward of all batches; seconds"
    t = time.perf_counter()
    for b in batches: token_losses(model, b)[0].sum().backward()
    return time.perf_counter()-t

def padded(batch):
    "Rows padded to max_length"
    fill = dict(input_ids=vocab.PAD, labels=-100, position_ids=0, attention_mask=1)
    return {k:torch.nn.functional.pad(v, (0, max_length-v.shape[1]), value=fill[k]) for k,v in batch.items()}

ours = [collate(rows(train.keys[s]), vocab) for s in steps]
plain = [padded(collate(rows(train.keys[m]), vocab)) for m in np.array_split(members, len(members)//4)]
work(ours[:1]); work(plain[:1])
fast, slow = (min(work(b) for _ in range(2)) for b in (ours, plain))
residues = int(train.lengths[members].sum())
print(f'{len(members)} proteins, {torch.get_num_threads()} threads: {residues/fast:,.0f} residues/s in steps of near-equal length, {residues/slow:,.0f} padded to {max_length}: {slow/fast:.1f} x')
