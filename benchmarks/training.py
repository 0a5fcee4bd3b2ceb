"""Training on packed rows, in one run on one core, against the plain way, against the machine's own matmul, and against nothing at all.

    python benchmarks/training.py                          # the demo database that is in the package
    python benchmarks/training.py ../shared/corpus/pdb     # another one

1. The plain way: four proteins a batch, each padded to 1,024 tokens, an attention mask over the padding, logits and loss at every place. The same model and proteins.
   Beside it, batches of proteins of near-equal length, padded to their longest.
2. FLOP/s of a whole step (forward, backward, clipping, AdamW) against those of matrix products alone, at the model's own shapes. Operations are counted by `step_flop`, only for tokens of proteins.
3. Reading, packing and laying out the same kind of batches for a GPU, without a model: tokens a second.
Rounds alternate, and each figure is the median of their ratios: the machine may have other work.
"""
import sys, time
import numpy as np, torch, torch.nn.functional as F
from structure_search.batches import StepPlan, micro_batches, pack
from structure_search.dataset import ProteinRows, collate, select
from structure_search.engines import make_accelerator
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.kanzi_tokenizer import length_groups
from structure_search.model import build_model
from structure_search.plan import step_flop
from structure_search.step import make_optimizer, optimizer_step, token_losses
from structure_search.vocab import minimal_vocab

PRESET, MAX_LENGTH, ROWS, ROUNDS = 'mini', 1024, 4, 3
torch.set_num_threads(1)
db, vocab = PairedFoldseekDB(sys.argv[1] if len(sys.argv)>1 else demo_db()), minimal_vocab('3di')
train, _, _ = select(db, '3di', max_protein_length=400)
rows, model, plan = ProteinRows(db, vocab), build_model(PRESET, vocab), StepPlan(train.lengths, ROWS, MAX_LENGTH)
steps = [s for (_,s),_ in zip(plan.run(1), range(2))]
proteins = [rows(train.keys[micro_batches(s, 1)[0]]) for s in steps]
flat = [r for p in proteins for r in p]
useful, flop = sum(len(r)-1 for r in flat), step_flop(model.config, np.array([len(r)//2-2 for r in flat]))
acc = make_accelerator()
model, opt = acc.prepare(model, make_optimizer(model))

def seconds(work)->float:
    t = time.perf_counter(); work()
    return time.perf_counter()-t

def packed():
    for p in proteins: token_losses(model, pack(p, vocab)).sum().backward()

def whole_steps():
    for p in proteins: optimizer_step(acc, model, opt, [pack(p, vocab)], 0.0, vocab.EOS)

def loss_everywhere(batch, labels): F.cross_entropy(model(**batch, use_cache=False).logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction='sum').backward()

def plain():
    for i in range(0, len(flat), 4):
        b = collate(flat[i:i+4], vocab)
        n, b['attention_mask'] = b['input_ids'].shape[1], (b['input_ids']!=vocab.PAD).long()
        b = {k:F.pad(v, (0, MAX_LENGTH-n), value=dict(input_ids=vocab.PAD, labels=-100).get(k, 0)) for k,v in b.items()}
        loss_everywhere({k:v for k,v in b.items() if k!='labels'}, b['labels'])

def bucketed():
    for group in length_groups([len(r) for r in flat], ROWS*MAX_LENGTH):
        b = collate([flat[i] for i in group], vocab)
        loss_everywhere({k:v for k,v in b.items() if k!='labels'}, b['labels'])

def matmul_flops()->float:
    "FLOP/s of the products of a layer, forward and backward, on as many tokens as a batch has"
    c = model.config
    d, kv, f, T, spent, done = c.hidden_size, c.hidden_size*c.num_key_value_heads//c.num_attention_heads, c.intermediate_size, useful//len(steps), 0.0, 0
    for i,o in ((d,d), (d,kv), (d,f), (f,d)):
        x, w, g = torch.randn(T, i), torch.randn(o, i), torch.randn(T, o)
        spent += seconds(lambda: [(F.linear(x, w), g@w, g.T@x) for _ in range(4)]); done += 4*6*T*i*o
    return done/spent

def median(x): return float(np.median(x))

for work in (packed, plain, bucketed, matmul_flops): work()
times = [[seconds(f) for f in (packed, plain, bucketed)] for _ in range(ROUNDS)]
model.zero_grad()
print(f'{len(flat)} proteins, {useful:,} tokens, preset {PRESET} ({sum(p.numel() for p in model.parameters())/1e6:.1f} million parameters), one thread')
print(f'1. packed {useful/median([t[0] for t in times]):,.0f} useful tokens/s: {median([t[1]/t[0] for t in times]):.2f} x the plain way ({min(t[1]/t[0] for t in times):.2f}-{max(t[1]/t[0] for t in times):.2f}), {median([t[2]/t[0] for t in times]):.2f} x batches of near-equal length')
shares = [flop/seconds(whole_steps)/matmul_flops() for _ in range(ROUNDS)]
print(f'2. a step runs at {100*median(shares):.0f} % of the FLOP/s of matmul at its shapes ({100*min(shares):.0f}-{100*max(shares):.0f} %)')

def read()->float:
    "Tokens a second"
    began, n = time.perf_counter(), 0
    for (_,step),_ in zip(StepPlan(train.lengths, 16, MAX_LENGTH).run(10), range(200)):
        for m in micro_batches(step, 4): n += pack(rows(train.keys[m]), vocab, size=4*MAX_LENGTH, slots=4*MAX_LENGTH//5+6, longest=803)['tokens']
    return n/(time.perf_counter()-began)
print(f'3. the input pipeline alone: {median([read() for _ in range(3)])/1e6:.2f} million tokens/s')
