"""Judge a trained 3Di model on all held-out proteins of a database, and put it into the package with its card.

    python tools/ship_3di.py outputs/best_3di ../shared/corpus/pdb --command 'ss_train ...' --encoder outputs/encoder      # with ../shared/corpus/pdb.clusters.tsv; ten minutes
"""
import os
os.environ.setdefault('OMP_NUM_THREADS', '1')
import argparse, json, shutil
from pathlib import Path
import numpy as np, torch
from structure_search.dataset import ProteinRows, read_clusters, select
from structure_search.evaluate import compare_letters, free_running, summary
from structure_search.foldseek_db import PairedFoldseekDB
from structure_search.model import form_words
from structure_search.predict import MODELS, Predictor
from structure_search.references import bootstrap_interval

def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model', type=Path, help='output folder of ss_train')
    p.add_argument('database', help='Foldseek database with 3Di that it was trained on, its name without ending')
    p.add_argument('--command', required=True, help='that trained it, for the card')
    p.add_argument('--encoder', type=Path, help='model of the same shape that only reads, to compare with')
    p.add_argument('--val-fraction', type=float, default=0.05, help='share of clusters held out, as in the training')
    p.add_argument('--samples', type=int, default=0, help='of a consensus, which takes so many times as long as writing; default: none')
    p.add_argument('--proteins', type=int, help='held-out proteins to judge by; default: all')
    return p.parse_args()

CARD = """---
license: mit
tags: [biology, protein, 3Di, Foldseek]
---
# 3Di letters from a sequence

`Predictor.from_pretrained('3di')` of structure_search: {parameters:.1f} million parameters; {form}. Trained from random weights on {training} PDB chains of at most {longest} residues, in {minutes:.0f} minutes on two cores of an AMD EPYC (Zen 5), {core_minutes:.0f} core-minutes:

```sh
{command}
```

Judged by `tools/ship_3di.py` on {proteins} held-out chains of {clusters} other 30 % sequence-identity clusters. Accuracy is the share of letters that are right; nats are the mean of -log p of the true letter; in brackets, 95 % of bootstraps over clusters.

{table}

*Free-running*: from the sequence alone. *Teacher-forced*: each letter given the true letters before it; only the bigram compares with it. *Wrong sequence*: the same model given another protein's sequence.

**Use**: letters to search a Foldseek database with, of single protein chains. Probabilities are those of the model; they have not been calibrated. Longer chains than those of the training bring a warning.

**Limits**: the same held-out clusters served to choose its form, learning rate and order of training (of models half as large; 300 chains), so its figures may be a little too good. A small model of few proteins, far below what alignments or large language models reach. It knows chains of the PDB, soluble ones for the most part.
"""

def row(name:str, figures:dict)->str:
    accuracy = '-' if figures['accuracy'] is None else f'{figures["accuracy"]:.3f}'
    if 'accuracy_interval' in figures: accuracy += ' ({:.3f} to {:.3f})'.format(*figures['accuracy_interval'])
    return f'| {name} | {accuracy} | {figures["nats"]:.3f} |'

def last(folder:Path)->dict: return [r for r in map(json.loads, open(folder/'metrics.jsonl')) if 'cpu_seconds' in r][-1]

def beside_encoder(predictor, folder:Path, held:list, groups)->dict[str,dict]:
    "The encoder's figures, and how far the model is above it, protein by protein"
    mine, other = (free_running(p, held, progress=True, method='read')[0] for p in (predictor, Predictor.from_pretrained(folder)))
    (ours, n), (theirs, _) = (([r['accuracy'] for r in rows], [r['residues'] for r in rows]) for rows in (mine, other))
    s, d = summary(other), np.subtract(ours, theirs)
    return {f'encoder of the same shape, {last(folder)["cpu_seconds"]/60:.0f} core-minutes':dict(accuracy=s['token_accuracy'], nats=s['nats'], accuracy_interval=bootstrap_interval(theirs, n, groups)),
            'read, minus encoder':dict(accuracy=float(np.average(d, weights=n)), nats=summary(mine)['nats']-s['nats'], accuracy_interval=bootstrap_interval(d, n, groups))}

def main():
    a = parse()
    torch.set_num_threads(1)
    db, clusters = PairedFoldseekDB(a.database), f'{a.database}.clusters.tsv'
    predictor = Predictor.from_pretrained(a.model)
    longest, out = predictor.max_protein_length, MODELS['3di']
    train, val, words = select(db, '3di', clusters, a.val_fraction, longest)
    print(words)
    rows, keys = ProteinRows(db, predictor.vocab), val.keys if a.proteins is None else val.some(a.proteins).keys
    known, held = rows.proteins(train.keys), rows.proteins(keys)
    groups = read_clusters(clusters, db.keys)[np.searchsorted(db.keys, [p.key for p,_ in held])]
    judged = a.model/f'judged_{len(held)}_{a.samples}.json'                # the longest part, done once
    if not judged.exists() or judged.stat().st_mtime<(a.model/'model.safetensors').stat().st_mtime: judged.write_text(json.dumps(compare_letters(predictor, held, known, progress=True, samples=a.samples, groups=groups)))
    table = json.loads(judged.read_text())
    if a.encoder: table |= beside_encoder(predictor, a.encoder, held, groups)
    for figures in table.values(): figures['accuracy'] = None if np.isnan(figures['accuracy']) else figures['accuracy']      # NaN is no JSON
    lines = '\n'.join(['| | accuracy | nats a letter |', '|---|---|---|', *(row(k, v) for k,v in table.items())])
    print(lines)
    took = last(a.model)
    card = dict(parameters=sum(x.numel() for x in predictor.model.parameters())/1e6, form=form_words(predictor.model.config.translator), training=f'{len(train):,}', longest=longest, minutes=took['seconds']/60, core_minutes=took['cpu_seconds']/60, proteins=len(held), clusters=len(set(groups.tolist())))
    out.mkdir(parents=True, exist_ok=True)
    for name in ('config.json', 'model.safetensors', 'vocab.json'): shutil.copyfile(a.model/name, out/name)
    about = json.loads((a.model/'translator.json').read_text())|dict(card=card|dict(command=a.command, figures=table))
    (out/'translator.json').write_text(json.dumps(about, indent=1)+'\n')
    (out/'README.md').write_text(CARD.format(**card, command=a.command, table=lines))
    print(f'{out}: {sum(f.stat().st_size for f in out.iterdir())/1e6:.1f} MB')

if __name__=='__main__': main()
