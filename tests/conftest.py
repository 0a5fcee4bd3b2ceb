"Shared fixtures. `../shared` holds outputs of the real programs; where it is missing, the tests that need it skip and say so."
import importlib.util, os, warnings
from pathlib import Path
import pytest

os.environ.setdefault('WANDB_MODE', 'disabled')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
SHARED = Path(os.environ.get('STRUCTURE_SEARCH_SHARED', Path(__file__).resolve().parents[2]/'shared'))

def shared(part:str)->Path:
    "A folder of `../shared`, or a skip that names it"
    path = SHARED/part
    if not path.exists():
        warnings.warn(f'SKIPPED: {part} of the reference material is not beside this repository; the comparison with the real program did not run')
        pytest.skip(f'reference material {part} not found beside the repository')
    return path

def load_module(path:Path):
    "A python file that is no package, as a module"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
