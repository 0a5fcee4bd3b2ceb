"""Structure files to a Foldseek database: one process against several.

    python benchmarks/createdb.py ../shared/fixtures/foldseek/structures/plain      # a folder; its files are copied ten times over
"""
import os, shutil, sys, tempfile, time
from pathlib import Path
os.environ.setdefault('OMP_NUM_THREADS', '1')
from structure_search.create_db import create_db

with tempfile.TemporaryDirectory() as folder:
    given = Path(folder)/'in'; given.mkdir()
    for f in Path(sys.argv[1]).iterdir():
        for i in range(10): shutil.copy(f, given/f'{i}_{f.name}')
    seconds = {}
    for processes in sorted({1, os.cpu_count()}):
        t = time.perf_counter(); report = create_db(Path(folder)/'db', given, processes); seconds[processes] = time.perf_counter()-t
        print(f'{processes} processes: {report.files/seconds[processes]:.0f} files, {report.proteins/seconds[processes]:.0f} chains a second')
    print(f'{report.files} files, {report.proteins} chains; {processes} processes: {seconds[1]/seconds[processes]:.2f} x as fast as one')
