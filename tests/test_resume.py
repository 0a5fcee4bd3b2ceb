"""A run that is killed again and again, at any moment, is the run that nobody disturbed: the same figures and weights to the last bit.

The moments: in a step, while a checkpoint is written, sealed, moved, verified, published, in an evaluation, in the middle of a line of the log; and at random ones.
"""
import json, os, random, resource, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest
from safetensors.numpy import load_file
from structure_search import train
from structure_search.checkpoint import checkpoints, newest, verify
from structure_search.foldseek_db import PairedFoldseekDB, demo_db, write_db
from structure_search.model import preset_config
from structure_search.training import _Run
from structure_search.vocab import minimal_vocab

HERE = Path(__file__).parent
FLAGS = ('--model-name nano --objective both --sequence-attention bidirectional --residue-echo --history-dropout 0.5 --read-first 0.3 --max-length 170 --val-fraction 0.1 --batch-size 2 --gradient-accumulation-steps 2 --learning-rate 1e-3 --num-epochs 5 --log-interval 3 --save-interval 4 --save-minutes 0 '
         '--eval-interval 5 --eval-samples 4 --rmsd-eval-interval 8 --rmsd-eval-samples 2').split()
ENV = os.environ|{'OMP_NUM_THREADS':'1', 'HF_HUB_OFFLINE':'1', 'WANDB_MODE':'disabled', 'CUDA_VISIBLE_DEVICES':'', 'PYTHONUNBUFFERED':'1'}

@pytest.fixture(scope='module')
def db(tmp_path_factory)->Path:
    "42 chains of 30-80 residues; an epoch doesn't divide by steps, nor steps by intervals"
    demo = PairedFoldseekDB(demo_db())
    short = demo.keys[(demo.residues()>=30)&(demo.residues()<=80)][:42]
    return write_db(tmp_path_factory.mktemp('db')/'short', [demo[int(k)] for k in short]).path

@pytest.fixture(scope='module')
def undisturbed(db, tmp_path_factory)->Path:
    "The run that nobody disturbed, in a process like the others"
    out = tmp_path_factory.mktemp('undisturbed')/'run'
    assert start(db, out).wait(timeout=300)==0
    return out

def start(db:Path, out:Path, where:str='-', n:int=0, *flags)->subprocess.Popen:
    return subprocess.Popen([sys.executable, str(HERE/'dies.py'), where, str(n), '--db-path', str(db), '--output-dir', str(out), *FLAGS, *flags], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

def figures(out:Path)->list[dict]:
    "All lines of the log without what depends on the clock"
    clock = 'seconds', 'cpu_seconds', 'tokens_per_second', 'residues_per_second'
    return [{k:v for k,v in json.loads(l).items() if k not in clock} for l in open(out/'metrics.jsonl')]

def same_run(a:Path, b:Path):
    rows = [sorted(figures(x), key=lambda r: (r['step'], r.get('evaluation', ''))) for x in (a, b)]
    assert rows[0]==rows[1]
    assert sum('loss' in r for r in rows[0])>4 and {r.get('evaluation') for r in rows[0]}>={'validation','prediction'}
    for x in (a, b): verify(newest(x/'checkpoints')[0])
    for name in ('model.safetensors', 'optimizer.safetensors'):
        wa, wb = (load_file(newest(x/'checkpoints')[0]/name) for x in (a, b))
        assert wa.keys()==wb.keys() and all(np.array_equal(wa[k], wb[k]) for k in wa), name
    assert not [*b.glob('checkpoints/.step*')] and (b/'model.safetensors').read_bytes()==(newest(b/'checkpoints')[0]/'model.safetensors').read_bytes()

def test_killed_at_chosen_moments(db, undisturbed, tmp_path):
    out, T, C = tmp_path/'run', 'structure_search.training', 'structure_search.checkpoint'
    moments = [(f'{T}:optimizer_step', 6), (f'{C}:seal', 2), (f'{C}:verify', 2), (f'{T}:publish', 1), (f'{T}:publish', 2), ('structure_search.evaluate:teacher_forced', 2), ('structure_search.predict:generate', 1)]
    for where,n in moments:
        p = start(db, out, where, n, '--resume', 'auto')
        assert p.wait(timeout=300)==-signal.SIGKILL, (where, p.stderr.read()[-2000:])
        with open(out/'metrics.jsonl', 'a') as f: f.write('{"step": 3, "lo')         # and the log was cut in a line
    p = start(db, out, '-', 0, '--resume', 'auto')
    assert p.wait(timeout=300)==0, p.stderr.read()[-2000:]
    same_run(undisturbed, out)

def test_killed_between_the_last_checkpoint_and_its_publication(db, undisturbed, tmp_path):
    "Nothing is left to do then but to publish the model, and that is done"
    out, steps = tmp_path/'run', newest(undisturbed/'checkpoints')[1]['step']
    assert start(db, out, 'structure_search.training:publish', -(-steps//4)).wait(timeout=300)==-signal.SIGKILL
    assert newest(out/'checkpoints')[1]['step']==steps and start(db, out, '-', 0, '--resume', 'auto').wait(timeout=300)==0
    same_run(undisturbed, out)

def test_killed_at_random_moments(db, undisturbed, tmp_path):
    out, rng, lives = tmp_path/'run', random.Random(), 0
    seed = rng.randrange(10**6); rng.seed(seed)
    while True:
        p, lives = start(db, out, '-', 0, '--resume', 'auto'), lives+1
        if lives<4:
            until = time.monotonic()+60                 # imports take some seconds: the clock starts when the first steps can be there
            before = (out/'metrics.jsonl').stat().st_size if (out/'metrics.jsonl').exists() else 0
            while p.poll() is None and time.monotonic()<until and not ((out/'metrics.jsonl').exists() and (out/'metrics.jsonl').stat().st_size!=before): time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.6))
            p.kill()
        code = p.wait(timeout=300)
        if code==0: break
        assert code==-signal.SIGKILL and lives<6, (seed, code, p.stderr.read()[-2000:])
    same_run(undisturbed, out)

def test_damaged_checkpoint_and_the_one_before(db, undisturbed, tmp_path):
    "A bit flips in the newest checkpoint: it is noticed, and the one before gives the same run"
    out = tmp_path/'run'
    assert start(db, out, 'structure_search.training:optimizer_step', 11).wait(timeout=300)==-signal.SIGKILL
    new, old = checkpoints(out/'checkpoints')
    data = bytearray((new/'optimizer.safetensors').read_bytes())
    data[len(data)//2] ^= 1
    (new/'optimizer.safetensors').unlink(); (new/'optimizer.safetensors').write_bytes(data)
    p = start(db, out, '-', 0, '--resume', 'auto')
    said = p.communicate(timeout=300)[1]
    assert p.returncode==0 and 'is damaged' in said and f'The checkpoint before it is used: {old.name}' in said, said[-2000:]
    same_run(undisturbed, out)

@pytest.mark.parametrize('sig', [signal.SIGTERM, signal.SIGUSR1])
def test_told_to_end(sig, db, undisturbed, tmp_path, monkeypatch, capsys):
    "A scheduler's signal: a checkpoint, and the exit code that says 'again'"
    before, out = _Run.after, tmp_path/'run'
    def after(self, out, rate):
        before(self, out, rate)
        if self.step==6: os.kill(os.getpid(), sig)
    with monkeypatch.context() as m:
        m.setattr(_Run, 'after', after)
        assert train.main(['--db-path', str(db), '--output-dir', str(out), *FLAGS])==75
    assert 'go on with --resume' in capsys.readouterr().err and newest(out/'checkpoints')[1]['step']==7
    assert train.main(['--db-path', str(db), '--output-dir', str(out), *FLAGS, '--resume'])==0
    same_run(undisturbed, out)

def test_full_disk(db, tmp_path):
    "No file may grow beyond 1 MB: the checkpoint is refused in one line, nothing half-written stays; with room again, the run begins anew"
    flags = [sys.executable, '-m', 'structure_search.train', '--db-path', str(db), '--output-dir', str(tmp_path/'run'), *FLAGS, '--max-steps', '4']
    r = subprocess.run(flags, env=ENV, capture_output=True, text=True, timeout=300, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1<<20, 1<<20)))
    assert r.returncode==2 and 'step-00000004 could not be written' in r.stderr and 'make room' in r.stderr and 'Traceback' not in r.stderr, r.stderr[-2000:]
    assert [*(tmp_path/'run'/'checkpoints').iterdir()]==[] and (tmp_path/'run'/'metrics.jsonl').exists()
    assert train.main([*flags[3:], '--resume', 'auto'])==0

def test_folder_that_cannot_be_written(db, tmp_path, capsys):
    (tmp_path/'file').write_text('no folder')
    assert train.main(['--db-path', str(db), '--output-dir', str(tmp_path/'file'/'run'), *FLAGS])==2
    assert 'cannot be written' in capsys.readouterr().err
    if os.geteuid():            # root may write anywhere
        (tmp_path/'closed').mkdir(mode=0o500)
        assert train.main(['--db-path', str(db), '--output-dir', str(tmp_path/'closed'/'run'), *FLAGS])==2
        assert 'cannot be written' in capsys.readouterr().err

def test_hostile_checkpoint(db, tmp_path, capsys):
    "A checkpoint from elsewhere whose hashes are right and whose contents are not: one line, and no code is run"
    out = tmp_path/'run'
    assert train.main(['--db-path', str(db), '--output-dir', str(out), *FLAGS, '--max-steps', '4'])==0
    path = newest(out/'checkpoints')[0]
    from structure_search.checkpoint import MANIFEST, seal
    def put(name, data): (path/name).unlink(); (path/name).write_bytes(data)
    def again(name, data):
        put(name, data); (path/MANIFEST).unlink(); seal(path)
        code = train.main(['--db-path', str(db), '--output-dir', str(out), *FLAGS, '--max-steps', '8', '--resume'])
        return code, capsys.readouterr().err
    good = {f.name:f.read_bytes() for f in path.iterdir()}
    for name,data in (('progress.json', b'[]'), ('progress.json', b'{"step": "x", "place": 3, "total": null, "same": 1}'), ('optimizer.safetensors', b'\x80\x04.'), ('model.safetensors', good['optimizer.safetensors'])):
        code, said = again(name, data)
        assert code==2 and 'Traceback' not in said and len(said.strip().splitlines()[-1])<2000, (name, said[-2000:])
        put(name, good[name])

def test_another_run_is_not_gone_on_with(db, tmp_path, capsys):
    "Other proteins under the same keys, another shape of the model with tensors of the same sizes"
    flags = [*FLAGS, '--output-dir', str(tmp_path/'run'), '--max-steps', '2', '--eval-interval', '0', '--rmsd-eval-interval', '0']
    assert train.main(['--db-path', str(db), *flags])==0
    first = [*PairedFoldseekDB(db)]
    other = write_db(tmp_path/'other', [type(p)(k.key, p.name, p.header, p.aa, p.ss, p.ca) for k,p in zip(first, first[1:]+first[:1])]).path
    assert train.main(['--db-path', str(other), *flags, '--resume'])==2
    assert 'other settings (proteins)' in capsys.readouterr().err
    preset_config('nano', minimal_vocab('3di')).__class__(**preset_config('nano', minimal_vocab('3di')).to_dict()|dict(rope_parameters=None, rope_theta=5.0)).save_pretrained(tmp_path/'shape')
    assert train.main(['--db-path', str(db), *flags, '--model-name', str(tmp_path/'shape'), '--resume'])==2
    assert 'other settings (model)' in capsys.readouterr().err

def test_one_run_a_folder(db, tmp_path, capsys):
    "A second training in the same folder is refused while the first one lives"
    out = tmp_path/'run'
    first = start(db, out, '-', 0, '--max-steps', '100000', '--num-epochs', '100000')
    until = time.monotonic()+120
    while first.poll() is None and time.monotonic()<until and not (out/'metrics.jsonl').exists(): time.sleep(0.02)
    for resume in ('auto', 'never'):
        assert train.main(['--db-path', str(db), '--output-dir', str(out), *FLAGS, '--resume', resume])==2
        assert f'process {first.pid}) is at work in' in capsys.readouterr().err
    first.kill(); first.wait()
    assert not (out/'previous-1').exists()
    assert train.main(['--db-path', str(db), '--output-dir', str(out), *FLAGS, '--max-steps', '1'])==0       # and a dead one holds nothing

def test_a_launcher_that_dies_takes_its_training_along(db, tmp_path):
    "kill -9 of `accelerate launch`: what it started notices, saves and ends"
    out = tmp_path/'run'
    launch = f'accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no --cpu {HERE/"dies.py"} - 0'.split()
    env = ENV|{'PATH':f'{Path(sys.executable).parent}:{os.environ["PATH"]}'}
    p = subprocess.Popen([*launch, '--db-path', str(db), '--output-dir', str(out), *FLAGS, '--max-steps', '100000', '--num-epochs', '100000', '--save-interval', '0'], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic()+120
    while p.poll() is None and time.monotonic()<until and not (out/'metrics.jsonl').exists(): time.sleep(0.02)
    child = int((out/'.lock').read_text().split()[-1])
    p.kill(); p.wait()
    until = time.monotonic()+120
    while Path(f'/proc/{child}').exists() and time.monotonic()<until: time.sleep(0.05)
    assert not Path(f'/proc/{child}').exists() and newest(out/'checkpoints')

def test_training_goes_on_from_a_model_of_ours(db, tmp_path):
    "--pretrained with an earlier run keeps its tokens, too; and it is not overwritten"
    flags = [*FLAGS, '--db-path', str(db), '--eval-interval', '0', '--rmsd-eval-interval', '0']
    assert train.main([*flags, '--output-dir', str(tmp_path/'one'), '--max-steps', '2'])==0
    assert train.main([*flags, '--output-dir', str(tmp_path/'two'), '--max-steps', '1', '--pretrained', '--model-name', str(tmp_path/'one'), '--learning-rate', '0'])==0
    a, b = (load_file(tmp_path/x/'model.safetensors') for x in ('one', 'two'))
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert train.main([*flags, '--output-dir', str(tmp_path/'one'), '--max-steps', '1', '--pretrained', '--model-name', str(tmp_path/'one')])==2

def test_step_without_a_protein(monkeypatch):
    "All proteins of a step are bad: the weights stay, and nobody learns from a loss of nothing"
    import torch
    from structure_search.batches import pack
    from structure_search.engines import make_accelerator
    from structure_search.model import build_model
    from structure_search.step import make_optimizer, optimizer_step
    acc, vocab = make_accelerator(), minimal_vocab('3di')
    model = build_model('nano', vocab)
    model, opt = acc.prepare(model, make_optimizer(model))
    rows = [vocab.encode('MKTL'*9, 'DVPL'*9)]
    optimizer_step(acc, model, opt, [pack(rows, vocab)], 1e-3, vocab.EOS)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    out = optimizer_step(acc, model, opt, [pack([], vocab)], 1e-3, vocab.EOS, judge=lambda *_: pytest.fail('nothing to judge'))
    assert out['verdict']=='skip' and torch.equal(before, torch.cat([p.detach().flatten() for p in model.parameters()]))

def test_a_plain_language_model_goes_on(db, tmp_path, monkeypatch):
    "The other tests train the default form; this one a causal model that only writes"
    before, flags = _Run.after, ['--db-path', str(db), *FLAGS, *'--objective write --sequence-attention causal --no-residue-echo --history-dropout 0 --read-first 0 --num-epochs 2'.split()]
    def after(self, out, rate):
        before(self, out, rate)
        if self.step==6: os.kill(os.getpid(), signal.SIGTERM)
    assert train.main([*flags, '--output-dir', str(tmp_path/'one')])==0
    with monkeypatch.context() as m:
        m.setattr(_Run, 'after', after)
        assert train.main([*flags, '--output-dir', str(tmp_path/'two')])==75
    assert train.main([*flags, '--output-dir', str(tmp_path/'two'), '--resume'])==0
    same_run(tmp_path/'one', tmp_path/'two')

def test_a_longer_run_does_not_go_back_to_reading(db, tmp_path):
    "Three steps of ten are only read; the same run of twenty reads no more than these, and counts what it has seen"
    flags = ['--db-path', str(db), '--output-dir', str(tmp_path/'o'), *FLAGS, '--log-interval', '1']
    assert train.main([*flags, '--max-steps', '10'])==0 and train.main([*flags, '--max-steps', '20', '--resume'])==0
    steps = [r for r in figures(tmp_path/'o') if 'learning_rate' in r]
    assert [r['step'] for r in steps]==[*range(1, 21)] and [r['step'] for r in steps if 'loss' not in r]==[1, 2, 3]
    assert all('read_loss' in r for r in steps) and steps[-1]['epoch']==pytest.approx(20/10*steps[9]['epoch'], rel=0.2)

def test_told_to_end_in_an_evaluation(db, tmp_path, monkeypatch):
    "With a checkpoint of this step there is nothing to wait for: the evaluations that are left are made up for by the run that goes on"
    from structure_search import evaluate
    flags, real, calls = ['--db-path', str(db), *FLAGS, '--max-steps', '6', '--eval-interval', '4', '--rmsd-eval-interval', '4'], evaluate.teacher_forced, []
    def interrupted(*a, **kw):
        calls.append(1)
        if len(calls)==1: os.kill(os.getpid(), signal.SIGTERM)
        return real(*a, **kw)
    assert train.main([*flags, '--output-dir', str(tmp_path/'one')])==0
    with monkeypatch.context() as m:
        m.setattr(evaluate, 'teacher_forced', interrupted)
        assert train.main([*flags, '--output-dir', str(tmp_path/'two')])==75
    assert newest(tmp_path/'two'/'checkpoints')[1]['step']==4 and [r['evaluation'] for r in figures(tmp_path/'two') if 'evaluation' in r]==['validation']
    assert train.main([*flags, '--output-dir', str(tmp_path/'two'), '--resume'])==0
    assert sorted(map(str, figures(tmp_path/'one')))==sorted(map(str, figures(tmp_path/'two')))
