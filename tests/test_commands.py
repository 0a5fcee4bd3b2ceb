"The commands as people type them, in processes of their own, on a linked database."
import json, os, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest, torch
from structure_search.checkpoint import newest
from structure_search.foldseek_db import demo_db
from structure_search.kanzi_model import read_metadata

ROOT = Path(__file__).resolve().parents[1]
OWNER_KANZI = 'python -m structure_search.train_kanzi --no-flash-attn --batch-size 4 --gradient-accumulation-steps 4 --learning-rate 1e-4 --log-interval 50 --eval-interval 500 --rmsd-eval-interval 1000 --rmsd-eval-samples 20'
OWNER_3DI = ('accelerate launch --config_file configs/accelerate_config.yaml -m structure_search.train --model-name TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T '
             '--db-path data/foldseek/afdb50/afdb50 --output-dir outputs/structure_predictor --batch-size 4 --gradient-accumulation-steps 8 --learning-rate 2e-4 --num-epochs 3')
SMALL = '--model-name nano --max-steps 2 --eval-samples 20 --rmsd-eval-samples 3'

def call(words:str, cwd:Path, **env)->subprocess.CompletedProcess:
    "Run a command line with the python of the tests first on the PATH"
    env = os.environ|{'PATH':f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'OMP_NUM_THREADS':'1', 'HF_HUB_OFFLINE':'1', 'COLUMNS':'100'}|env
    return subprocess.run(words.split(), cwd=cwd, env=env, capture_output=True, text=True, timeout=300)

@pytest.fixture
def home(tmp_path)->Path:
    "A working folder with configs/, and data/foldseek a link, as the README says"
    (tmp_path/'elsewhere'/'afdb50').mkdir(parents=True)
    for f in demo_db().parent.glob('demo*'): shutil.copy(f, tmp_path/'elsewhere'/'afdb50'/f.name.replace('demo', 'afdb50', 1))
    (tmp_path/'home'/'data').mkdir(parents=True)
    (tmp_path/'home'/'data'/'foldseek').symlink_to(tmp_path/'elsewhere')
    shutil.copytree(ROOT/'configs', tmp_path/'home'/'configs')
    return tmp_path/'home'

def test_owners_kanzi_line(home):
    "A key that is no key: one warning, and the run goes on offline"
    r = call(f'{OWNER_KANZI} {SMALL} --kanzi-checkpoint mini', home, WANDB_API_KEY='your_key', WANDB_PROJECT='structure-search', WANDB_MODE='')
    assert r.returncode==0, r.stderr
    assert r.stderr.count('wandb refuses the key or cannot be reached')==1
    figures = {k:v for line in open(home/'outputs/kanzi_predictor/metrics.jsonl') for k,v in json.loads(line).items()}
    assert figures['step']==2 and figures['sample_valid']==1 and figures['rmsd_median']>0
    assert [*(home/'outputs/kanzi_predictor/wandb').glob('offline-run-*')]

def test_owners_3di_line(home):
    r = call(f'{OWNER_3DI} {SMALL}', home, WANDB_MODE='disabled')
    assert r.returncode==0, r.stderr
    assert (home/'outputs/structure_predictor/model.safetensors').is_file()
    assert (home/'outputs/structure_predictor/samples/step-000002/best.png').is_file()

def test_missing_checkpoint_and_database(home):
    r = call(f'{OWNER_KANZI} {SMALL}', home)
    assert r.returncode==2 and 'cleaned_model.pt' in r.stderr and '--kanzi-checkpoint mini' in r.stderr and 'Traceback' not in r.stderr
    r = call(f'{OWNER_KANZI} {SMALL} --kanzi-checkpoint mini --db-path data/foldseek/nowhere', home)
    assert r.returncode==2 and 'no Foldseek database there' in r.stderr and 'Traceback' not in r.stderr

def test_ctrl_c_leaves_a_resumable_state(home):
    "SIGINT in the middle: exit code 130, a checkpoint; --resume reaches the end"
    words = f'python -m structure_search.train --model-name nano --max-steps 40 --log-interval 1 --eval-samples 5 --rmsd-eval-samples 2 --batch-size 1 --gradient-accumulation-steps 1'.split()
    env = os.environ|{'PATH':f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'OMP_NUM_THREADS':'1', 'WANDB_MODE':'disabled'}
    metrics = home/'outputs/structure_predictor/metrics.jsonl'
    with subprocess.Popen(words, cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        while p.poll() is None and not (metrics.exists() and metrics.read_text()): time.sleep(0.05)
        p.send_signal(signal.SIGINT)
        said = p.communicate(timeout=120)[0]
    assert p.returncode==130 and 'go on with --resume' in said, said
    step = newest(home/'outputs/structure_predictor/checkpoints')[1]['step']
    assert 1<=step<40
    r = call(' '.join([*words, '--resume']), home, WANDB_MODE='disabled')
    assert r.returncode==0, r.stderr
    steps = [json.loads(l)['step'] for l in open(metrics) if 'learning_rate' in l]
    assert steps==list(range(1, 41))

def test_tokenizer_training_stops_and_goes_on(home):
    "SIGINT in the middle: exit code 130, a checkpoint; --resume goes on from its step and ends with a tokenizer"
    out = home/'t.safetensors'
    words = f'python -m structure_search.train_tokenizer --db-path data/foldseek/afdb50/afdb50 --output {out} --width 16 --residues 256'.split()
    env = os.environ|{'PATH':f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'OMP_NUM_THREADS':'1'}
    with subprocess.Popen([*words, '--minutes', '10', '--eval-minutes', '0.1'], cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        while p.poll() is None and not Path(f'{out}.state').exists(): time.sleep(0.05)
        p.send_signal(signal.SIGINT)
        said = p.communicate(timeout=120)[0]
    assert p.returncode==130 and 'go on with --resume' in said, said
    before = torch.load(f'{out}.state', weights_only=True)
    minutes = before['seconds']/60+0.02
    r = call(' '.join([*words, '--minutes', str(minutes), '--resume']), home)
    assert r.returncode==0, r.stderr
    after = torch.load(f'{out}.state', weights_only=True)
    assert after['step']>before['step']>0 and after['log'][:len(before['log'])]==before['log'] and before['log']
    assert read_metadata(out)['card']['steps']==after['step']

@pytest.mark.parametrize('module', ['train', 'train_kanzi', 'train_tokenizer', 'demo', 'doctor', 'plot_run', 'predict_cli', 'evaluate_cli', 'search'])
def test_help_needs_nothing_heavy(module):
    r = subprocess.run([sys.executable, '-X', 'importtime', '-m', f'structure_search.{module}', '--help'], capture_output=True, text=True)
    assert r.returncode==0 and r.stdout.startswith('usage: ')
    assert not [l for l in r.stderr.splitlines() if l.split('|')[-1].strip() in ('torch','numpy','transformers')]
