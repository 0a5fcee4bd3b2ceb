"""What each process of tests/test_engines.py does: `python worker_engines.py out.json [the out.json of another run]`, alone or started by `accelerate launch`.

Three steps, each of four micro-batches of unequal numbers of tokens, dealt out to the processes; before them, with what another run saved, that run's third step.
"""
import json, os, sys
from pathlib import Path
import torch, torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from structure_search.engines import all_agree, engine, load_whole, make_accelerator, plain_copy, whole_moments, whole_weights
from structure_search.model import build_model
from structure_search.vocab import minimal_vocab

VOCAB, MOMENTS = minimal_vocab('3di'), ('exp_avg', 'exp_avg_sq')

def micro_batch(i:int)->tuple:
    "Tokens and labels (2,T); the second half is asked for"
    ids = torch.randint(VOCAB.size, (2, (12, 31, 7, 21)[i%4]), generator=torch.Generator().manual_seed(i))
    return ids, ids.masked_fill(torch.arange(ids.shape[1])<ids.shape[1]//2, -100)

def make_optimizer(model)->torch.optim.AdamW:
    "Two groups, as in training"
    groups = [dict(params=[p for p in model.parameters() if (p.ndim>1)==decays], weight_decay=0.1 if decays else 0.0) for decays in (True, False)]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)

def step(acc, model, opt, n:int)->dict:
    "One step as in training: the loss is that of the global batch, whoever has more tokens"
    batches = [micro_batch(4*n+i) for i in range(4)][acc.process_index::acc.num_processes]
    asked = int(acc.reduce(torch.tensor([sum(int((l>=0).sum()) for _,l in batches)], device=acc.device), 'sum'))
    for g in opt.param_groups: g['lr'] = 3e-3*(n+1)
    nats, norm, acc.step = torch.zeros(1, device=acc.device), None, 0
    for ids,labels in batches:
        with acc.accumulate(model):
            ids, labels = ids.to(acc.device), labels.to(acc.device)
            logits = model(input_ids=ids, use_cache=False).logits
            loss = F.cross_entropy(logits[:,:-1].flatten(0, 1).float(), labels[:,1:].flatten(), reduction='sum')
            acc.backward(loss*len(batches)*acc.num_processes/asked)
            if acc.sync_gradients: norm = acc.clip_grad_norm_(model.parameters(), 1.0)
            opt.step(); opt.zero_grad()
        nats += loss.detach()
    return dict(loss=float(acc.reduce(nats, 'sum'))/asked, grad_norm=float(norm.full_tensor() if isinstance(norm, DTensor) else norm), norm_is=type(norm).__name__)

def whole(acc, model, opt)->dict:
    "All that a run needs to go on: name -> tensor"
    x = {f'weight.{n}':w.clone() for n,w in whole_weights(acc, model)}
    for n,m in whole_moments(acc, model, opt): x |= {f'{k}.{n}':m[k].clone() for k in MOMENTS}|{f'step.{n}':torch.tensor(m['step'])}
    return x

def load(acc, model, opt, file:Path):
    with safe_open(file, 'pt') as f:
        load_whole(acc, model, opt, lambda n: f.get_tensor(f'weight.{n}'), lambda n: {k:f.get_tensor(f'{k}.{n}') for k in MOMENTS}|dict(step=float(f.get_tensor(f'step.{n}'))))
        return all(t.equal(f.get_tensor(n)) for n,t in whole(acc, model, opt).items())

def main(out:Path, given:Path|None=None):
    acc = make_accelerator(4//int(os.environ.get('WORLD_SIZE', 1)))
    model = build_model('nano', VOCAB, kernel='each', seed=0)
    model, opt = acc.prepare(model, make_optimizer(model))
    model.train()
    said = dict(engine=engine(acc), processes=acc.num_processes, groups=len(opt.param_groups), names=[n for n,_ in whole_weights(acc, model)]==[n for n,_ in build_model('nano', VOCAB).named_parameters()])
    def save(name):
        x = whole(acc, model, opt)
        if acc.is_main_process: save_file(x, out.with_suffix(f'.{name}'))
        acc.wait_for_everyone()
    save('begin')
    if given:       # a fresh optimizer takes up where the other run was after two steps, then both begin anew
        said['loads what it was given'] = load(acc, model, opt, given.with_suffix('.two'))
        said['third'] = step(acc, model, opt, 2)
        load(acc, model, opt, given.with_suffix('.begin'))
    said['steps'] = []
    for n in range(3):
        said['steps'].append(step(acc, model, opt, n))
        if n==1: save('two')
    save('end')
    load(acc, model, opt, out.with_suffix('.two'))
    step(acc, model, opt, 2)
    with safe_open(out.with_suffix('.end'), 'pt') as f: said['goes on to the bit'] = all(t.equal(f.get_tensor(n)) for n,t in whole(acc, model, opt).items())
    ids = micro_batch(0)[0].to(acc.device)
    def logits(m):
        with torch.no_grad(): return m(input_ids=ids, use_cache=False).logits
    sharded, before = logits(model), whole(acc, model, opt)
    after = whole(acc, model, opt)
    said['whole after an evaluation'] = before.keys()==after.keys() and all(before[n].equal(after[n]) for n in after)
    plain = plain_copy(acc, model, lambda: build_model('nano', VOCAB, kernel='each', seed=5))
    for _ in range(3+2*acc.process_index): alone = logits(plain)       # another number of calls in each process
    said['plain copy'] = float((alone-sharded).abs().max())
    model.train()       # of DeepSpeed's, this returns None
    said['still trains'] = step(acc, model, opt, 3)
    said['errors'] = [all_agree(acc, None), all_agree(acc, f'process {acc.process_index} fails' if acc.process_index==acc.num_processes-1 else None)]
    if acc.is_main_process: out.write_text(json.dumps(said))
    acc.wait_for_everyone()     # and no `end_training`: with gloo, destroying the process group aborts about one run in eight as it exits

if __name__=='__main__': main(*map(Path, sys.argv[1:]))
