"""Losses of models of several sizes, trained for several times in the default form of `ss_train`: the points of a scaling curve (see the page on what learns best).

    python benchmarks/scaling_points.py ../shared/corpus/pdb --output outputs/scaling
    python benchmarks/scaling_points.py ../shared/corpus/pdb --output outputs/scaling --collect benchmarks/results/scaling.jsonl

Each run has so many core-minutes, whatever its size, and is judged on held-out proteins. Runs that are done are not repeated.
"""
import argparse
from pathlib import Path
from what_learns_best import BEST, PLAIN, collect, run_all, table

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('path', help='Foldseek database with 3Di, its name without ending')
    p.add_argument('--output', type=Path, required=True, help='folder of all runs')
    p.add_argument('--sizes', nargs='+', default=['2x64', '2x128', '4x128', 'tiny'], help='shapes of models')
    p.add_argument('--minutes', type=float, nargs='+', default=[1.5, 3, 6], help='core-minutes of runs')
    p.add_argument('--seeds', type=int, nargs='+', default=[0])
    p.add_argument('--learning-rate', type=float, default=1e-3)
    p.add_argument('--val-fraction', type=float, default=0.05)
    p.add_argument('--samples', type=int, default=300, help='held-out proteins to judge by')
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--collect', help='no training: write all runs that are there to this file, a line each')
    a = p.parse_args()
    if a.collect: collect(a.output, a.collect); return
    common, rows = PLAIN|BEST|dict(read_first=0.5, db_path=a.path, clusters=f'{a.path}.clusters.tsv', val_fraction=a.val_fraction, max_protein_length=400, learning_rate=a.learning_rate, batch_size=4, gradient_accumulation_steps=1), []
    for minutes in a.minutes:
        a.minutes = minutes
        rows += run_all({f'{s}, {minutes:g} minutes':common|dict(model_name=s) for s in a.sizes}, a, more=('--written', '4', '--consensus', '2'))
    print(table(rows))

if __name__=='__main__': main()
