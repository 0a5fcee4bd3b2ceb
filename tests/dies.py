"""A training that is killed (kill -9, by itself) when a function is called for the n-th time: `python dies.py structure_search.training:optimizer_step 5 FLAGS...`

With '-' for the function, it isn't.
"""
import importlib, os, signal, sys
from structure_search import train

where, n, *flags = sys.argv[1:]
if where!='-':
    module, name = where.split(':')
    module, count = importlib.import_module(module), [0]
    real = getattr(module, name)
    def deadly(*a, **kw):
        count[0] += 1
        if count[0]==int(n): os.kill(os.getpid(), signal.SIGKILL)
        return real(*a, **kw)
    setattr(module, name, deadly)
sys.exit(train.main(flags))
