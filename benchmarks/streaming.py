"""ss_predict on ten times as many sequences: peak memory and rate, each in a process of its own, with a model that was never trained.

    python benchmarks/streaming.py                    # 20,000 and 200,000 sequences; some minutes
"""
import argparse, resource, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--sequences', type=int, default=20_000, help='in the smaller run')
p.add_argument('--one', nargs=2, help=argparse.SUPPRESS)
a = p.parse_args()

if a.one:
    from structure_search.model import build_model
    from structure_search.outputs import predict_files
    from structure_search.predict import Predictor
    from structure_search.vocab import minimal_vocab
    vocab = minimal_vocab('3di')
    predictor = Predictor(build_model('1x64', vocab, form=dict(objective='read')).eval(), vocab)
    began = time.perf_counter()
    s = predict_files(predictor, *a.one, formats=('3di', 'db'), progress=False)
    print(s['predicted'], time.perf_counter()-began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)
    sys.exit()

found = []
for n in (a.sequences, 10*a.sequences):
    with tempfile.TemporaryDirectory() as d:
        rng, letters = np.random.default_rng(0), np.frombuffer(b'ACDEFGHIKLMNPQRSTVWY', np.uint8)
        with open(f'{d}/all.fasta', 'wb') as f:
            for i in range(n): f.write(b'>protein_%d some words\n%b\n' % (i, rng.choice(letters, int(rng.integers(20, 60))).tobytes()))
        out = subprocess.run([sys.executable, __file__, '--one', f'{d}/all.fasta', f'{d}/out'], capture_output=True, text=True, check=True)
        found.append([float(x) for x in out.stdout.split()[-3:]])
        size = sum(f.stat().st_size for f in Path(d, 'out').rglob('*') if f.is_file())
        print(f'{n:,} sequences: {found[-1][0]:,.0f} predicted, {n/found[-1][1]:,.0f} a second, {found[-1][2]:,.0f} MB of memory at the peak, {size/1e6:,.0f} MB written', flush=True)
print(f'ten times as many sequences: {found[1][2]/found[0][2]:.2f} x the memory')
