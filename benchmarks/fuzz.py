"""Databases of hostile bytes, found by coverage-guided fuzzing: what the readers give, one by one and in batches, against the reference reader of tests/test_foldseek_fuzz.py.

    pip install atheris
    python benchmarks/fuzz.py --minutes 10           # exit code 1 if something was found; each finding is printed with the files that show it
"""
import argparse, importlib.util, mmap, os, shutil, subprocess, sys, tempfile, time, traceback
os.environ.setdefault('OMP_NUM_THREADS', '1')
from pathlib import Path
try: import atheris
except ImportError: sys.exit(print('this needs atheris, a fuzzer for Python: pip install atheris', file=sys.stderr) or 2)

with atheris.instrument_imports(include=['structure_search']):
    from structure_search import foldseek_db, foldseek_format, foldseek_index
spec = importlib.util.spec_from_file_location('reference', Path(__file__).resolve().parents[1]/'tests/test_foldseek_fuzz.py')
reference = importlib.util.module_from_spec(spec); spec.loader.exec_module(reference)

KINDS = 'text', 'coordinates', 'whole database', 'lookup'
PARTS = {0:[''], 1:[''], 2:['', '_ss', '_ca', '_h'], 3:['']}
PLAIN = 0xFFFF          # a cut that says: one data file

def unpack(raw):
    "Input of the fuzzer -> kind, tables: (index, dbtype, data, where the data files are cut)"
    f = atheris.FuzzedDataProvider(raw)
    kind = f.ConsumeIntInRange(0, 255)%len(KINDS)
    sizes = [[f.ConsumeIntInRange(0, most) for most in (0xFFFF, 255, 0xFFFF, 0xFFFF, 0xFFFF)] for _ in PARTS[kind]]
    return kind, [(*(f.ConsumeBytes(n) for n in s[:3]), *s[3:]) for s in sizes]

def pack(kind, tables):
    "The input that `unpack` takes apart: bytes at its front, numbers from its end on"
    numbers = bytes([kind])+b''.join(len(i).to_bytes(2)+bytes([len(t)])+len(d).to_bytes(2)+a.to_bytes(2)+b.to_bytes(2) for i,t,d,a,b in tables)
    return b''.join(i+t+d for i,t,d,_,_ in tables)+numbers[::-1]

def files_of(kind, tables):
    "Files of an input"
    if kind==3: return {'x.lookup': tables[0][0]}
    files = {}
    for end,(index,dbtype,data,a,b) in zip(PARTS[kind], tables):
        if end and not index and not data: continue             # a part that is not there
        files |= {f'x{end}.index':index, f'x{end}.dbtype':dbtype}
        files |= {f'x{end}':data} if a==PLAIN else {f'x{end}.0':data[:a], f'x{end}.1':data[a:max(a, b)], f'x{end}.2':data[max(a, b):]}
    return files

def seeds():
    "Small valid databases of every form"
    from structure_search.foldseek_format import CA
    entries = {0: [b'ACDEF\n', b'\n', b'WY'*40+b'\n', b'vlx\n'], 1: [reference.coordinates(form, n, bytes(range(1, 90))) for form,n in ((0, 5), (1, 2), (0, 1), (1, 0))], 'padded': [bytes([0, 20, 33]), b'', bytes(range(21)), bytes([52])]}
    for kind in (0, 1):
        for form in reference.FORMS[:2]+reference.FORMS[2+kind:]:
            for keys in (range(4), (3, 7, 8, 2**32-1)):
                files = reference.table(keys, entries.get(form, entries[kind]), form, CA*kind, lambda x: x[::-1], (0, 2), newline=keys==range(4), raw=2)
                data = [files.get(f'x.{i}', b'') for i in range(3)]
                cuts = (len(data[0]), len(data[0]+data[1])) if 'x.0' in files else (PLAIN, 0)
                yield pack(kind, [(files['x.index'], files['x.dbtype'], files.get('x', b''.join(data)), *cuts)])
    for header in (b'd1asha_ ', b'sp|P69905|HBA ', b'\xff'):
        files = reference.protein_files([0, 1, 5], [4, 1, 3], header)
        yield pack(2, [(files[f'x{e}.index'], files[f'x{e}.dbtype'], files[f'x{e}'], PLAIN, 0) for e in PARTS[2]])
    for text in (files['x.lookup'], b'5 two words\n\n\t6\tname\t0\r\n'): yield pack(3, [(text, b'', b'', PLAIN, 0)])

def mutate(raw, most, seed):
    "Change one field of an input, and now and then its kind"
    kind, tables = unpack(raw)
    tables = [list(t) for t in tables]
    t, field = tables[seed%len(tables)], (0, 0, 0, 1, 2, 2, 3)[seed//8%7]
    if field<3: t[field] = atheris.Mutate(t[field] or b'0', (600, 6, 600)[field])
    else: t[3:] = (PLAIN, 0) if seed//64%3==0 else (seed//64%(len(t[2])+1), seed//4096%(len(t[2])+1))
    if seed//2**20%50==0 and kind<2: kind = 1-kind
    return pack(kind, tables)[:most]

def work(folder, seconds):
    "Fuzz; count the inputs in folder/count, leave findings in folder/found"
    with open(folder/'count', 'r+b') as f: count = mmap.mmap(f.fileno(), 8)
    place = folder/'db'
    def run(raw):
        kind, tables = unpack(raw)
        files = files_of(kind, tables)
        try:
            if kind==3: reference.check_lookup(place, files['x.lookup'])
            else:
                reference.place(place, files)
                reference.check_paired(place, files) if kind==2 else reference.check(place, files, foldseek_db.FoldseekCaDB if kind else foldseek_db.FoldseekDB)
        except Exception as e:
            at = [f'{Path(f.filename).name}-{f.lineno}' for f in traceback.extract_tb(e.__traceback__)]
            found = folder/'found'/f'{type(e).__name__}-{at[-1]}-{at[min(2, len(at)-1)]}'       # one of a sort
            if not found.exists(): found.write_text(f'{KINDS[kind]}: {files!r}\n{traceback.format_exc()}')
        for name in files: (place/name).unlink(missing_ok=True)
        count[:8] = (int.from_bytes(count[:8])+1).to_bytes(8)
    atheris.Setup([sys.argv[0], f'-max_total_time={seconds}', '-max_len=4096', '-timeout=20', '-rss_limit_mb=4096', f'-artifact_prefix={folder}/hard-', str(folder/'corpus')], run, custom_mutator=mutate)
    atheris.Fuzz()

def main(minutes):
    "Fuzz for some minutes in other processes, which a crash of the interpreter, too much memory or a hang may end"
    folder, began = Path(tempfile.mkdtemp(prefix='fuzz-', dir=reference.ROOT)), time.monotonic()
    try:
        for name in ('corpus', 'found', 'db'): (folder/name).mkdir()
        (folder/'count').write_bytes(bytes(8))
        for i,raw in enumerate(seeds()):
            assert pack(*unpack(raw))==raw
            (folder/'corpus'/f'seed{i}').write_bytes(raw)
        with open(folder/'log', 'wb') as log:
            while (left := round(60*minutes-(time.monotonic()-began)))>0:
                if subprocess.run([sys.executable, __file__, '--worker', str(folder), '--minutes', str(left/60)], stdout=log, stderr=log).returncode and not list(folder.glob('hard-*')): break
                for i,f in enumerate(sorted(folder.glob('hard-*'))):
                    kind, tables = unpack(f.read_bytes())
                    (folder/'found'/f.name).write_text(f'{f.name}: {KINDS[kind]}: {files_of(kind, tables)!r}\n'); f.unlink()
        text = (folder/'log').read_text(errors='replace')
        n, found, seconds = int.from_bytes((folder/'count').read_bytes()), sorted((folder/'found').iterdir()), time.monotonic()-began
        if seconds<60*minutes-5: print(text[-3000:], '\nthe fuzzer ended early', sep='')
        for f in found: print(f.read_text(), end='\n\n')
        covered = text.rpartition(' cov: ')[2].split(' ')[0]
        print(f'{n:,} inputs in {seconds:,.0f} s ({n/max(seconds, 1):,.0f} a second), {covered} branches reached: {len(found)} crashes or wrong values found')
        return int(bool(found) or not n)
    finally: shutil.rmtree(folder, ignore_errors=True)

if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=10)
    parser.add_argument('--worker', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker: work(args.worker, max(1, round(60*args.minutes)))
    else: sys.exit(main(args.minutes))
