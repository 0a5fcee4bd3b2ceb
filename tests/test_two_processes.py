"""Training with several processes: `accelerate launch` starts two, which share the CPU (gloo), and they do what one process does.

A step has 8 rows throughout: 2 processes x batches of 2 x accumulation 2, or 1 x 2 x 4, or 1 x 8 x 1.
"""
import json, os, signal, subprocess, sys, time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from accelerate.state import AcceleratorState
from safetensors.numpy import load_file
from structure_search import train
from structure_search.batches import StepPlan
from structure_search.checkpoint import newest
from structure_search.dataset import ProteinRows, select
from structure_search.foldseek_db import PairedFoldseekDB, demo_db, write_db
from structure_search.step import Settings
from structure_search.training import _Run
from structure_search.vocab import minimal_vocab

FSDP = ['accelerate', 'launch', '--config_file', str(Path(__file__).resolve().parents[1]/'configs'/'accelerate_fsdp.yaml'), '--num_processes', '2', '--main_process_port', '0', '-m', 'structure_search.train']
LAUNCH = 'accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0 -m structure_search.train'.split()
FLAGS = '--model-name nano --objective both --sequence-attention bidirectional --residue-echo --history-dropout 0.5 --read-first 0 --max-length 170 --val-fraction 0 --eval-samples 4 --rmsd-eval-samples 2 --eval-interval 0 --rmsd-eval-interval 0 --save-interval 0 --log-interval 1 --learning-rate 1e-3 --num-epochs 20'.split()
PLAIN = '--objective write --sequence-attention causal --no-residue-echo --history-dropout 0'.split()         # a language model and nothing else
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

def same_evaluations(a:Path, b:Path):
    a, b = ({k:v for r in map(json.loads, open(p/'metrics.jsonl')) if 'evaluation' in r for k,v in r.items()} for p in (a, b))
    assert a.keys()==b.keys() and {'val_loss','val_accuracy','sample_token_accuracy'}<=a.keys() and a['sample_n']==2
    for k in a:
        if isinstance(a[k], float): assert a[k]==pytest.approx(b[k], abs=1e-3), k

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
    vocab, (train_set, *_) = minimal_vocab('3di'), select(PairedFoldseekDB(db), '3di', val_fraction=0, max_length=170)
    def contents(processes, batch, accumulation):
        settings, plan = Settings('', batch_size=batch, gradient_accumulation_steps=accumulation, max_length=170, num_epochs=2), StepPlan(train_set.lengths, batch*accumulation*processes, 170)
        runs = [SimpleNamespace(settings=settings, acc=SimpleNamespace(process_index=i, num_processes=processes, device=torch.device('cpu')), rows=ProteinRows(PairedFoldseekDB(db), vocab), selection=train_set, plan=plan, place=(0,0), step=0, fixed={}) for i in range(processes)]
        for run in runs: run.packed = partial(_Run.packed, run)
        for parts in zip(*map(_Run.read, runs), strict=True):
            assert len({place for place,*_ in parts})==1 and all(len(batches)==accumulation for _,batches,_ in parts)
            yield sorted(tuple(b['input_ids'][0,i:j].tolist()) for _,batches,_ in parts for b in batches for i,j in zip(b['bounds'][:-1], b['bounds'][1:]) if b['tokens'])      # without the padding of empty micro-batches
    two, one, at_once = ([*contents(*s)] for s in ((2,2,2), (1,2,4), (1,8,1)))
    assert len(two)>=8 and two==one==at_once
    assert {len(step) for _,step in StepPlan(train_set.lengths, 8, 170).run(1)}!={8}, 'some steps have fewer rows than others'
    assert sum(map(len, two))==2*42 and len({p for s in two[:len(two)//2] for p in s})==42

def test_more_micro_batches_than_rows(db, alone):
    "An epoch of fewer rows than a step could have: most micro-batches are empty, and the step is the same"
    many, one = (alone(*s, '--max-steps', '3') for s in (shape(1, 64), shape(64, 1)))
    same_figures(figures(many), figures(one)); same_weights(many, one)

@pytest.mark.parametrize('engine, form', [('DDP', ()), ('FSDP2', ()), ('DDP', PLAIN)])
def test_two_processes_train_as_one(engine, form, db, alone, tmp_path):
    out, flags = tmp_path/'two', [*form, '--max-steps', '4']
    r = subprocess.run([*(LAUNCH if engine=='DDP' else FSDP), '--db-path', str(db), '--output-dir', str(out), *FLAGS, *shape(2, 2), *flags], env=ENV, capture_output=True, text=True, timeout=120)
    if r.returncode: skip_without_gloo(r.stderr[-3000:])
    assert r.stdout.count('proteins to validate')==1, 'two processes must be one training, of which one speaks'
    for one in (alone(*shape(2, 4), *flags), alone(*shape(8, 1), *flags)):
        same_figures(figures(out), figures(one))
        same_weights(out, one)
        same_evaluations(out, one)
    assert newest(out/'checkpoints')[1]['engine']==engine
    assert not [*out.glob('checkpoints/.*')] and (out/'samples/step-000004/best.png').is_file()

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
    if not newest(out/'checkpoints'): skip_without_gloo(said[-3000:])
    assert p.returncode!=0 and 'go on with --resume' in said, said[-3000:]
    step = newest(out/'checkpoints')[1]['step']
    assert 3<=step<40 and len(figures(out))==step
    assert train.main(['--db-path', str(db), '--output-dir', str(out), *FLAGS, *shape(2, 4), *flags, '--resume'])==0
    whole = alone(*shape(2, 4), *flags)
    same_figures(figures(out), figures(whole))
    same_weights(out, whole)

def test_other_accumulation_after_an_odd_step(db, alone, tmp_path, monkeypatch):
    "accelerate counts micro-batches over a checkpoint: after 3 steps of 2, a step of 4 must not be cut after its first half"
    flags = ['--max-steps', '6']
    before = _Run.after
    def after(self, out, rate):
        before(self, out, rate)
        if self.step==2: os.kill(os.getpid(), signal.SIGINT)        # granted after step 3
    with monkeypatch.context() as m:
        m.setattr(_Run, 'after', after)
        assert train.main(['--db-path', str(db), '--output-dir', str(tmp_path/'o'), *FLAGS, *shape(4, 2), *flags])==130
    assert newest(tmp_path/'o'/'checkpoints')[1]['step']==3
    assert train.main(['--db-path', str(db), '--output-dir', str(tmp_path/'o'), *FLAGS, *shape(2, 4), *flags, '--resume'])==0
    whole = alone(*shape(2, 4), *flags)
    same_figures(figures(tmp_path/'o'), figures(whole)); same_weights(tmp_path/'o', whole)

def test_a_killed_process_ends_the_job(db, alone, tmp_path):
    "kill -9 of one of two: the other doesn't wait forever, the launcher ends with an error, one line says what to do; and going on works"
    out, flags = tmp_path/'two', ['--max-steps', '40', '--save-interval', '2']
    with subprocess.Popen([*LAUNCH, '--db-path', str(db), '--output-dir', str(out), *FLAGS, *flags, *shape(2, 2)], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        until = time.monotonic()+90
        while p.poll() is None and time.monotonic()<until and not ((out/'metrics.jsonl').exists() and (out/'metrics.jsonl').read_text().count('\n')>=3): time.sleep(0.02)
        children = Path(f'/proc/{p.pid}/task/{p.pid}/children').read_text().split()
        if children: os.kill(int(children[-1]), signal.SIGKILL)
        try: said = p.communicate(timeout=90)[0]
        finally: p.kill()
    if not newest(out/'checkpoints'): skip_without_gloo(said[-3000:])
    assert p.returncode!=0 and 'another process of this training has ended' in said and 'start again with --resume auto' in said, said[-3000:]
    assert train.main(['--db-path', str(db), '--output-dir', str(out), *FLAGS, *flags, *shape(2, 4), '--resume', 'auto'])==0
    whole = alone(*shape(2, 4), '--max-steps', '40')
    same_figures(figures(out), figures(whole)); same_weights(out, whole)

def test_smoke_with_two_processes(db, tmp_path):
    "Both take part, one writes"
    out = tmp_path/'smoke'
    r = subprocess.run([*LAUNCH, '--db-path', str(db), '--output-dir', str(out), *FLAGS, *shape(2, 2), '--smoke', '0.05'], env=ENV, capture_output=True, text=True, timeout=120)
    if r.returncode: skip_without_gloo(r.stderr[-3000:])
    measured = json.loads((out/'smoke.json').read_text())
    assert measured['processes']==2 and measured['engine']=='DDP' and measured['trials'][0]['tokens_per_second']>0 and {*measured['evaluations']}=={'validation','prediction'}
    assert r.stdout.count('the whole run')==1 and not [*out.glob('smoke.tmp*')]
