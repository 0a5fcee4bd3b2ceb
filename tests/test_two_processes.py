"""Training with several processes: `accelerate launch` starts two, which share the CPU (gloo), and they do what one process does.

A step has 8 rows throughout: 2 processes x batches of 2 x accumulation 2, or 1 x 2 x 4, or 1 x 8 x 1.
"""
import json, os, signal, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from accelerate.state import AcceleratorState
from safetensors.numpy import load_file
from structure_search import train
from structure_search.dataset import ProteinRows, StepPlan, select
from structure_search.foldseek_db import PairedFoldseekDB, demo_db, write_db
from structure_search.training import Settings, _Run
from structure_search.vocab import minimal_vocab

LAUNCH = 'accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0 -m structure_search.train'.split()
FLAGS = '--model-name nano --max-length 170 --val-fraction 0 --eval-samples 4 --rmsd-eval-samples 2 --eval-interval 0 --rmsd-eval-interval 0 --save-interval 0 --log-interval 1 --learning-rate 1e-3 --num-epochs 20'.split()
ENV = os.environ|{'PATH':f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'OMP_NUM_THREADS':'1', 'HF_HUB_OFFLINE':'1', 'WANDB_MODE':'disabled', 'CUDA_VISIBLE_DEVICES':'', 'PYTHONUNBUFFERED':'1'}
PROBE = 'import torch; torch.distributed.init_process_group("gloo"); t = torch.ones(1); torch.distributed.all_reduce(t); assert t.item()==2'

def shape(batch:int, accumulation:int)->list[str]: return f'--batch-size {batch} --gradient-accumulation-steps {accumulation}'.split()

def figures(out:Path)->list[dict]: return [r for r in map(json.loads, open(out/'metrics.jsonl')) if 'learning_rate' in r]

def same_weights(a:Path, b:Path, eps=1e-4):
    a, b = (load_file(p/'model.safetensors') for p in (a, b))
    assert a.keys()==b.keys()
    for k in a: np.testing.assert_allclose(a[k], b[k], atol=eps, rtol=0, err_msg=k)

def same_figures(a:list[dict], b:list[dict]):
    assert [r['step'] for r in a]==[r['step'] for r in b]
    for k,eps in (('loss',1e-4), ('learning_rate',1e-12), ('grad_norm',1e-2)): np.testing.assert_allclose([r[k] for r in a], [r[k] for r in b], atol=eps, rtol=0, err_msg=k)

def skip_without_gloo(said:str):
    "Two processes that failed: is it this machine, on which no two processes can talk? Then skip, and say so"
    try: r = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '--no_python', sys.executable, '-c', PROBE], env=ENV, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired: r = SimpleNamespace(returncode=1, stderr='two processes did not find each other within 60 s')
    if r.returncode: pytest.skip(f'NOT TESTED: training with several processes. torch.distributed (gloo) does not work on this machine: {next((l for l in r.stderr.splitlines() if "Error" in l), r.stderr[-300:])}')
    pytest.fail(said)

@pytest.fixture(scope='module', autouse=True)
def on_the_cpu():
    "The runs in this process, too, are on the CPU in fp32"
    before, torch.cuda.is_available = torch.cuda.is_available, lambda: False
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    torch.cuda.is_available = before
    AcceleratorState._reset_state(reset_partial_state=True)

@pytest.fixture(scope='module')
def db(tmp_path_factory)->Path:
    "42 chains of 30-80 residues: six steps an epoch, one of which has two proteins alone"
    demo = PairedFoldseekDB(demo_db())
    short = demo.keys[(demo.residues()>=30)&(demo.residues()<=80)][:42]
    return write_db(tmp_path_factory.mktemp('db')/'short', [demo[int(k)] for k in short]).path

@pytest.fixture(scope='module')
def alone(db, tmp_path_factory):
    "A training in this process: (flags) -> its folder; each is done once"
    done = {}
    def run(*flags)->Path:
        if flags not in done:
            done[flags] = tmp_path_factory.mktemp('alone')
            assert train.main(['--db-path', str(db), '--output-dir', str(done[flags]), *FLAGS, *flags])==0
        return done[flags]
    return run

def test_parts_of_two_processes_make_a_step(db):
    "The same proteins in each step, dealt out to other processes and micro-batches; none twice"
    rows, (train_set, *_) = ProteinRows(PairedFoldseekDB(db), minimal_vocab('3di')), select(PairedFoldseekDB(db), '3di', val_fraction=0, max_length=170)
    def contents(processes, batch, accumulation):
        plan, micro = StepPlan(train_set.lengths, batch*accumulation*processes, 170), accumulation*processes
        def part(members, i): return _Run.batches(SimpleNamespace(settings=Settings('', positions='aligned'), acc=SimpleNamespace(process_index=i, num_processes=processes), rows=rows, train=train_set), members, micro)
        for _,members in plan.run(2):
            parts = [part(members, i) for i in range(processes)]
            assert all(len(p)==accumulation for p in parts)
            yield sorted(tuple(r[r!=rows.vocab.PAD].tolist()) for p in parts for b in p for r in b['input_ids'] if (r!=rows.vocab.PAD).any())      # without the empty rows of empty micro-batches
    two, one, at_once = ([*contents(*s)] for s in ((2,2,2), (1,2,4), (1,8,1)))
    assert len(two)>8 and two==one==at_once
    assert {len(s) for s in two}=={8, 2}, 'the last step of an epoch has fewer proteins than there are micro-batches'

def test_two_processes_train_as_one(db, alone, tmp_path):
    out = tmp_path/'two'
    r = subprocess.run([*LAUNCH, '--db-path', str(db), '--output-dir', str(out), *FLAGS, *shape(2, 2), '--max-steps', '4'], env=ENV, capture_output=True, text=True, timeout=120)
    if r.returncode: skip_without_gloo(r.stderr[-3000:])
    assert r.stdout.count('proteins to validate')==1, 'two processes must be one training, of which one speaks'
    for one in (alone(*shape(2, 4), '--max-steps', '4'), alone(*shape(8, 1), '--max-steps', '4')):
        same_figures(figures(out), figures(one))
        same_weights(out, one)
    assert sorted(p.name for p in (out/'checkpoint').glob('random_states_*'))==['random_states_0.pkl','random_states_1.pkl']
    assert not [*out.glob('*.new')] and (out/'samples/step-000004/best.png').is_file()

@pytest.mark.parametrize('sig', [signal.SIGINT, signal.SIGTERM])
def test_signal_then_another_number_of_processes(sig, db, alone, tmp_path):
    "Two processes are told to end: a checkpoint, and an exit code that isn't 0. One process with twice the accumulation goes on, as if nothing had been"
    out, flags = tmp_path/'two', ['--max-steps', '40']
    with subprocess.Popen([*LAUNCH, '--db-path', str(db), '--output-dir', str(out), *FLAGS, *shape(2, 2), *flags], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        until = time.monotonic()+90
        while p.poll() is None and time.monotonic()<until and not ((out/'metrics.jsonl').exists() and (out/'metrics.jsonl').read_text().count('\n')>=3): time.sleep(0.02)
        p.send_signal(sig)
        try: said = p.communicate(timeout=60)[0]
        finally: p.kill()
    if not (out/'checkpoint').exists(): skip_without_gloo(said[-3000:])
    assert p.returncode!=0 and 'go on with --resume' in said, said[-3000:]
    step = json.loads((out/'checkpoint/progress.json').read_text())['step']
    assert 3<=step<40 and len(figures(out))==step
    assert train.main(['--db-path', str(db), '--output-dir', str(out), *FLAGS, *shape(2, 4), *flags, '--resume'])==0
    whole = alone(*shape(2, 4), *flags)
    same_figures(figures(out), figures(whole))
    same_weights(out, whole)

def test_other_accumulation_after_an_odd_step(db, alone, tmp_path, monkeypatch):
    "accelerate counts micro-batches over a checkpoint: after 3 steps of 2, a step of 4 must not be cut after its first half"
    flags = ['--max-steps', '6']
    before = _Run.after
    def after(self, step, out):
        before(self, step, out)
        if step==2: os.kill(os.getpid(), signal.SIGINT)        # granted after step 3
    with monkeypatch.context() as m:
        m.setattr(_Run, 'after', after)
        assert train.main(['--db-path', str(db), '--output-dir', str(tmp_path/'o'), *FLAGS, *shape(4, 2), *flags])==130
    assert json.loads((tmp_path/'o/checkpoint/progress.json').read_text())['step']==3
    assert train.main(['--db-path', str(db), '--output-dir', str(tmp_path/'o'), *FLAGS, *shape(2, 4), *flags, '--resume'])==0
    whole = alone(*shape(2, 4), *flags)
    same_figures(figures(tmp_path/'o'), figures(whole)); same_weights(tmp_path/'o', whole)
