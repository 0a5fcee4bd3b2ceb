"""Into which structure code does a small language model read a sequence best? The same model on Kanzi tokens and on those of a trace, in equal core-minutes, judged by coordinates.

    python benchmarks/which_code.py ../shared/corpus/pdb --output outputs/codes --minutes 12 --seeds 0 1
    python benchmarks/which_code.py ../shared/corpus/pdb --output outputs/codes --collect benchmarks/results/codes.jsonl

Proteins of at most 256 residues, as Kanzi's. Each model is judged beside its code's ceiling and floor and the wrong-sequence null, on the same held-out proteins for all. Runs that are done are not repeated.
"""
import argparse, json, subprocess, sys
from pathlib import Path
from what_learns_best import BEST, PLAIN, collect, run_all

ECHO = dict(sequence_attention='bidirectional', residue_echo=True)
FIRST = BEST|dict(read_first=0.5)
EXPERIMENTS = {
    'kanzi, written':                 dict(kanzi_checkpoint='mini'),
    'kanzi, written, echo':           ECHO|dict(kanzi_checkpoint='mini'),
    'kanzi, written, echo, digits':   ECHO|dict(kanzi_checkpoint='mini', digit_loss=1.0),
    'kanzi, read first':              FIRST|dict(kanzi_checkpoint='mini'),
    'trace-64, written, echo':        ECHO|dict(kanzi_checkpoint='trace-64'),
    'trace-64, read first':           FIRST|dict(kanzi_checkpoint='trace-64'),
}

def tokens(name:str, a)->Path:
    "Tokens of the database, made once"
    out = a.output/'tokens'/name
    out.parent.mkdir(parents=True, exist_ok=True)
    if not Path(f'{out}.json').exists(): subprocess.run([sys.executable, '-m', 'structure_search.tokenize_kanzi', '--db-path', a.path, '--kanzi-checkpoint', name, '--output', out], check=True)
    return out

def judged(folder:Path, options:dict, a)->dict:
    "Figures of a trained model on held-out proteins, by each way of predicting, beside ceiling, floor and null"
    import torch
    from structure_search.dataset import ProteinRows, select
    from structure_search.evaluate import compare, summary, teacher_forced, with_wrong_sequences
    from structure_search.foldseek_db import PairedFoldseekDB
    from structure_search.kanzi_sidecar import KanziTokens
    from structure_search.metrics import bigram_entropy, unigram_entropy
    from structure_search.model import form_of
    from structure_search.predict import Predictor
    torch.set_num_threads(1)
    p, db = Predictor.from_pretrained(folder), PairedFoldseekDB(a.path)
    train_, val, _ = select(db, p.vocab.alphabet, f'{a.path}.clusters.tsv', a.val_fraction, 256)
    rows = ProteinRows(db, p.vocab, p.tokenizer, tokens=KanziTokens(tokens(options['kanzi_checkpoint'], a)))
    pairs, known = rows.proteins(val.some(a.samples).keys), [x for _,x in rows.proteins(train_.some(2000).keys)]
    truth, n = [x for _,x in pairs], p.vocab.n_structure
    out = dict(proteins=len(pairs), unigram_nats=unigram_entropy(known, truth, n), bigram_nats=bigram_entropy(known, truth, n), parameters=sum(x.numel() for x in p.model.parameters()))
    for wrong,some in (('', pairs), ('wrong_', with_wrong_sequences(pairs))): out |= {wrong+k:v for k,v in teacher_forced(p.model, p.vocab, some, p.positions).items()}
    ways = (dict(read=dict(method='read')) if form_of(p.model.config)['objective']!='write' else {})|dict(greedy=dict(method='write'), sampled=dict(method='write', temperature=1.0))
    for way,how in ways.items():
        for kind,found in compare(p, pairs, known, **how)[0].items():
            name = {'prediction':way, 'wrong sequence':f'{way}_wrong', 'ceiling (tokenizer)':'ceiling', 'floor (random tokens)':'floor'}[kind]
            out |= {f'{name}_{k}':v for k,v in summary(found).items() if k in ('rmsd_median','rmsd_mean','tm','lddt','token_accuracy','nats','failed')}
    return out

COLUMNS = 'nats', 'bigram_nats', 'wrong_nats', 'read_nats', 'wrong_read_nats', 'ceiling_rmsd_median', 'floor_rmsd_median', 'read_rmsd_median', 'read_wrong_rmsd_median', 'greedy_rmsd_median', 'sampled_rmsd_median', 'sampled_wrong_rmsd_median', 'floor_lddt', 'read_lddt', 'read_wrong_lddt', 'sampled_lddt', 'floor_tm', 'read_tm', 'read_wrong_tm', 'sampled_tm'

def table(rows:list[dict])->str:
    names = list(dict.fromkeys(r['name'] for r in rows))
    def cell(n, k): x = [r[k] for r in rows if r['name']==n and k in r]; return f'{sum(x)/len(x):.3f}' if x else '-'
    return '\n'.join(['| figure | '+' | '.join(names)+' |', '|---'*(len(names)+1)+'|', *(f'| {k} | '+' | '.join(cell(n, k) for n in names)+' |' for k in COLUMNS)])

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('path', help='Foldseek database with C-alphas, its name without ending')
    p.add_argument('--output', type=Path, required=True, help='folder of all runs')
    p.add_argument('--minutes', type=float, default=12, help='core-minutes of each run')
    p.add_argument('--seeds', type=int, nargs='+', default=[0])
    p.add_argument('--only', nargs='+', help='names of experiments; default: all')
    p.add_argument('--model-name', default='4x128')
    p.add_argument('--learning-rate', type=float, default=1e-3)
    p.add_argument('--val-fraction', type=float, default=0.05)
    p.add_argument('--samples', type=int, default=150, help='held-out proteins to judge by')
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--judge', type=Path, help='no training: judge the model of this folder')
    p.add_argument('--collect', help='no training: write all runs that are there to this file, a line each')
    a = p.parse_args()
    if a.judge: (a.judge/'judged.json').write_text(json.dumps(judged(a.judge, json.loads((a.judge/'experiment.json').read_text())['options'], a), indent=1)); return
    if a.collect: collect(a.output, a.collect); return
    todo = {k:PLAIN|dict(db_path=a.path, clusters=f'{a.path}.clusters.tsv', val_fraction=a.val_fraction, max_protein_length=256, model_name=a.model_name, learning_rate=a.learning_rate, batch_size=4, gradient_accumulation_steps=1)|v|dict(kanzi_tokens=tokens(v['kanzi_checkpoint'], a)) for k,v in EXPERIMENTS.items() if a.only is None or k in a.only}
    rows = run_all(todo, a, script=__file__, command='train_kanzi')
    print(table(rows))

if __name__=='__main__': main()
