"""Judge a trained model on the held-out proteins of the database that it was trained on, and put it into the package with its card.

    python tools/ship.py outputs/best_3di 3di ../shared/corpus/pdb --title '3Di letters from a sequence' --notes notes.md      # with ../shared/corpus/pdb.clusters.tsv
"""
import os
os.environ.setdefault('OMP_NUM_THREADS', '1')
import argparse, json, shutil, sys, tempfile
from pathlib import Path
from structure_search.card import data_identity
from structure_search.dataset import select
from structure_search.evaluate_cli import main as evaluate
from structure_search.foldseek_db import PairedFoldseekDB
from structure_search.model import load_model, write_about
from structure_search.predict import MODELS

def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model', type=Path, help='output folder of a training')
    p.add_argument('name', choices=sorted(MODELS), help='of the embedded model')
    p.add_argument('database', help='Foldseek database that it was trained on, its name without ending')
    p.add_argument('--title', required=True, help='of the card')
    p.add_argument('--notes', type=Path, help='Markdown to put at the end of the card')
    p.add_argument('--command', help='that trained it; default: as the folder says')
    p.add_argument('--val-fraction', type=float, default=0.05, help='share of clusters held out, as in the training')
    p.add_argument('--proteins', default='1000', help='held-out proteins to judge by, at most')
    p.add_argument('--output', help='folder for the report; default: none is kept')
    return p.parse_args()

def took(folder:Path)->dict:
    "Minutes of a training, from its log"
    if not (folder/'metrics.jsonl').exists(): return {}
    last = [r for r in map(json.loads, open(folder/'metrics.jsonl')) if 'cpu_seconds' in r][-1]
    return dict(training=dict(minutes=round(last['seconds']/60), core_minutes=round(last['cpu_seconds']/60)))

def main():
    a = parse()
    db, clusters = PairedFoldseekDB(a.database), f'{a.database}.clusters.tsv'
    model, vocab, about = load_model(a.model)
    longest = about['max_protein_length']
    train, _, words = select(db, vocab.alphabet, clusters, a.val_fraction, longest)
    data = data_identity(db, train, clusters, a.val_fraction, longest)
    if about.setdefault('data', data)!=data: sys.exit(f'{a.model} was trained on {about["data"]}, and this is {data}: give the training\'s database, table of clusters and --val-fraction')
    about |= took(a.model)|dict(name=a.name, title=a.title, license='mit')
    about |= {k:x for k,x in dict(command=a.command, notes=a.notes and a.notes.read_text().strip()).items() if x}
    about.pop('calibration', None); about.pop('measured', None)
    with tempfile.TemporaryDirectory() as d:
        judged = Path(d, a.name)
        shutil.copytree(a.model, judged, ignore=shutil.ignore_patterns('checkpoints', 'samples', 'previous-*', 'wandb', '.*'))
        write_about(judged, model, vocab, about)
        code = evaluate([str(judged), a.database, '--clusters', clusters, '--write', '--proteins', a.proteins, '--output', a.output or f'{d}/report'])
        if code: sys.exit(code)
        new = MODELS[a.name].with_name(f'.{a.name}.new')
        new.mkdir()
        for f in ('config.json', 'model.safetensors', 'vocab.json', 'translator.json', 'README.md'): shutil.copyfile(judged/f, new/f)
        shutil.rmtree(MODELS[a.name], ignore_errors=True)
        new.rename(MODELS[a.name])
    print(f'{MODELS[a.name]}: {sum(f.stat().st_size for f in MODELS[a.name].iterdir())/1e6:.1f} MB')

if __name__=='__main__': main()
