"""Opening a large index: ours the first time and later, against the fastest parsers of text columns, the plain ways and the C++ program.

    python benchmarks/opening.py                          # 20 million lines: 0.5 GB of text, as much of columns
    python benchmarks/opening.py --lines 67000000         # the size of AFDB50
    python benchmarks/opening.py --shuffled               # lines in no order
    python benchmarks/opening.py --names                  # a .lookup instead of an .index

Compared are polars and pyarrow where they are installed (`pip install polars pyarrow`), and mmseqs where it is on PATH. Each measurement is a process of its own; CPU time is user and system, the best of three.
"""
import argparse, json, os, resource, shutil, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np

WORK = {    # name: (imports, what is measured); p is the text's path, rows at most how many lines are read
    'polars, one thread': ('import polars as pl', "pl.read_csv(p, separator='\\t', has_header=False, schema=dict(zip('abc', TYPES)) if not NAMES else None, n_rows=rows)", "TYPES = pl.UInt32, pl.UInt64, pl.UInt32"),
    'pyarrow, one thread': ('import pyarrow as pa, pyarrow.csv as csv', "csv.read_csv(p, csv.ReadOptions(use_threads=False, column_names=list('abc')), csv.ParseOptions(delimiter='\\t'), csv.ConvertOptions(column_types=TYPES))", "TYPES = {} if NAMES else dict(a=pa.uint32(), b=pa.uint64(), c=pa.uint32())"),
    'np.loadtxt': ('import numpy as np', "np.loadtxt(p, np.uint64, delimiter='\\t', max_rows=rows)", ''),
    'lines to tuples': ('import itertools', "[tuple(map(int, line.split('\\t'))) for line in itertools.islice(open(p), rows)]", ''),
    'lines to a dict': ('import itertools', "{int(k):name for k,name,_ in (line.split('\\t') for line in itertools.islice(open(p), rows))}", ''),
    'ours, first': ('from structure_search.foldseek_index import *; from structure_search.foldseek_names import *', 'Lookup(p) if NAMES else open_index(p)', '[f.unlink() for f in cache_files(p) if f.exists()]'),
    'ours, later': ('from structure_search.foldseek_index import *; from structure_search.foldseek_names import *', 'Lookup(p) if NAMES else open_index(p)', ''),
}
CODE = '''
import json, os, resource, sys, time
from pathlib import Path
{imports}
p, rows, NAMES = Path({path!r}), {rows}, {names}
{before}
high = lambda: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmHWM'))*1024
rss = lambda: sum(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith(('RssAnon', 'RssFile')))*1024
cpu = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
r, c, t = rss(), cpu(), time.perf_counter()
kept = {work}
spent, wall, after = cpu()-c, time.perf_counter()-t, rss()-r
print(json.dumps(dict(cpu=spent, wall=wall, resident=after, peak=high()-r)))
'''

def measure(name:str, path:Path, rows:int, names:bool, repeat:int=3)->dict|None:
    "CPU seconds, wall seconds, bytes resident afterwards and at the peak; None where a library is missing"
    imports, work, before = WORK[name]
    found = []
    for _ in range(repeat):
        run = subprocess.run([sys.executable, '-c', CODE.format(imports=imports, work=work, before=before, path=str(path), rows=rows, names=names)], capture_output=True, text=True, env=os.environ|dict(POLARS_MAX_THREADS='1', OMP_NUM_THREADS='1'))
        if 'ModuleNotFoundError' in run.stderr: return None
        if run.returncode: sys.exit(f'{name}: {run.stderr}')
        found.append(json.loads(run.stdout.splitlines()[-1]))
    return min(found, key=lambda f: f['cpu'])

def write_text(path:Path, n:int, names:bool, shuffled:bool)->int:
    "An index or lookup of n lines; returns the size of the data that the index stands for"
    rng, end = np.random.default_rng(0), 0
    with open(path, 'w') as f:
        for first in range(0, n, 1<<20):
            keys = np.arange(first, min(n, first+(1<<20)))
            if names:
                letters = np.array(list('0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ'))[rng.integers(0, 36, (len(keys), 8))]
                f.writelines(f'{k}\tAF-A0{"".join(w)}-F1-model_v4\t{k}\n' for k,w in zip(keys, letters))
                continue
            lengths = np.clip(rng.lognormal(5.2, 0.6, len(keys)), 16, 2700).astype(np.int64)+2
            offsets = end+lengths.cumsum()-lengths; end += int(lengths.sum())
            f.writelines(map('%d\t%d\t%d\n'.__mod__, zip(keys.tolist(), offsets.tolist(), lengths.tolist())))
    if shuffled:
        lines = path.read_bytes().splitlines(True)
        path.write_bytes(b''.join(lines[i] for i in rng.permutation(len(lines))))
    return end

def mmseqs(db:Path, size:int)->float|None:
    "CPU seconds of the C++ program to open a database and show one entry; its data file is a hole"
    if not shutil.which('mmseqs'): return None
    db.touch(); os.truncate(db, size); Path(f'{db}.dbtype').write_bytes(bytes(4))
    spent = []
    for _ in range(3):
        before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        subprocess.run(['mmseqs', 'view', str(db), '--id-list', '0'], check=True, stdout=subprocess.DEVNULL)
        spent.append(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])-before)
    return min(spent)

if __name__=='__main__':
    a = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
    a.add_argument('--lines', type=int, default=20_000_000); a.add_argument('--folder', help='for the files, which are removed; default: the temporary folder')
    a.add_argument('--shuffled', action='store_true'); a.add_argument('--names', action='store_true')
    a = a.parse_args()
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        path = Path(folder)/('x.lookup' if a.names else 'x.index')
        size = write_text(path, a.lines, a.names, a.shuffled)
        few = min(a.lines, 1_000_000)
        print(f'{a.lines:,} lines, {path.stat().st_size:,} bytes')
        rows = {name:measure(name, path, few if 'lines' in name else a.lines, a.names) for name in WORK if name!=('lines to tuples' if a.names else 'lines to a dict') and not (a.names and 'np.' in name)}
        parsers = {k:v['cpu'] for k,v in rows.items() if 'thread' in k and v}
        fastest = min(parsers, key=parsers.get) if parsers else None
        print(f'{"":22}{"CPU s":>8}{"ratio":>8}{"bytes a line: peak":>20}{"afterwards":>12}')
        for name,r in rows.items():
            if r is None: print(f'{name:22} not installed'); continue
            n = few if 'lines' in name else a.lines
            print(f'{name:22}{r["cpu"]*a.lines/n:8.2f}{r["cpu"]*a.lines/n/parsers[fastest] if fastest else float("nan"):8.2f}{r["peak"]/n:20.1f}{r["resident"]/n:12.1f}{"" if n==a.lines else f"   ({n:,} lines, scaled)"}')
        if not a.names and (cpp := mmseqs(path.with_suffix(''), size)): print(f'{"mmseqs (C++)":22}{cpp:8.2f}{cpp/parsers[fastest] if fastest else float("nan"):8.2f}')
        columns = path.with_name(f'{path.name}.columns').stat().st_size
        print(f'first open: {rows["ours, first"]["cpu"]/parsers[fastest] if fastest else float("nan"):.2f} x the CPU time of {fastest}, {columns/a.lines:.1f} bytes a line on disk; later opens: {rows["ours, later"]["wall"]*1e3:.1f} ms, {rows["ours, later"]["resident"]/1e6:.1f} MB resident')
