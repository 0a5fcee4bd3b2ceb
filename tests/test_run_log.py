"Figures of a run: what is written, read, judged and drawn, with trackers that fail and files that are cut."
import ast, json, logging, math, os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from structure_search import run_log
from structure_search.plot_run import main, make_parser, panels, run_figure, run_table
from structure_search.run_log import FIGURES, Meter, RunLog, Watch, read_run, start_wandb, versions

ROOT = Path(__file__).resolve().parents[1]

@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    "No wandb unless a test asks for it"
    for k in ('WANDB_API_KEY', 'WANDB_RUN_ID', 'WANDB_PROJECT'): monkeypatch.delenv(k, raising=False)
    monkeypatch.setenv('WANDB_MODE', 'disabled')

def a_run(folder:Path, n:int=30, **more)->Path:
    "A made-up run"
    note = RunLog(folder, {}, 'none')
    for step in range(1, n+1): note(step, dict(loss=3-step/n, grad_norm=1/step, tokens_per_second=100.0+step, tokens_seen=step*1000, seconds=step*60)|more)
    note(n, dict(evaluation='validation', val_loss=2.5, unigram_nats=2.9)); note.close()
    return folder

# the file

def test_strict_json(tmp_path):
    "NaN and infinity are null; numbers of numpy and torch are numbers"
    note = RunLog(tmp_path, {}, 'none')
    note(np.int64(1), dict(a=math.nan, b=math.inf, c=np.float32(0.5), d=torch.tensor(2), e=None, f=np.float64('nan'))); note.close()
    def refuse(x): raise AssertionError(x)
    text = note.path.read_text()
    assert json.loads(text, parse_constant=refuse)==dict(step=1, a=None, b=None, c=0.5, d=2, e=None, f=None) and text.startswith('{"step": 1, ')
    with pytest.raises(TypeError): note(2, dict(a=object()))

@pytest.mark.parametrize('cut', range(1, 26))
def test_a_cut_anywhere_in_the_last_line_is_forgiven(tmp_path, cut):
    lines = ['{"step": 1, "loss": 3.5}\n', '{"step": 2, "loss": 3.25}\n']
    (tmp_path/'metrics.jsonl').write_text(lines[0]+lines[1][:cut])
    assert [r['step'] for r in read_run(tmp_path)]==([1, 2] if cut>=25 else [1])
    note = RunLog(tmp_path, {}, 'none', resume_step=1); note(2, dict(loss=3.0)); note.close()
    assert read_run(tmp_path)==[dict(step=1, loss=3.5), dict(step=2, loss=3.0)] and os.listdir(tmp_path)==['metrics.jsonl']

def test_zeros_after_a_power_cut(tmp_path):
    (tmp_path/'metrics.jsonl').write_bytes(b'{"step": 1, "loss": 3.5}\n'+bytes(500))
    assert len(read_run(tmp_path))==1
    note = RunLog(tmp_path, {}, 'none', resume_step=1); note(2, {}); note.close()
    assert [r['step'] for r in read_run(tmp_path)]==[1, 2]

@pytest.mark.parametrize('text, says', [('hello', "line 1 holds no figures of a run: 'hello'"), ('{"step": 1}\nx\n{"step": 3}\n', 'line 2'), ('{"loss": 1}\n', 'line 1'), ('[1]\n{"step": 1}\n', 'line 1'), ('{"step": "x"}\n', 'line 1')])
def test_what_is_no_run(tmp_path, text, says):
    (tmp_path/'metrics.jsonl').write_text(text)
    with pytest.raises(ValueError, match=says): read_run(tmp_path)
    for path in (tmp_path/'nothing', tmp_path/'nothing.jsonl'):
        with pytest.raises(FileNotFoundError, match='no run there'): read_run(path)

def test_going_on_without_figures_and_from_nothing(tmp_path):
    note = RunLog(tmp_path/'new', {}, 'none', resume_step=5); note(6, {}); note.close()
    assert read_run(tmp_path/'new')==[dict(step=6)]
    RunLog(tmp_path/'new', {}, 'none', resume_step=0).close()
    assert read_run(tmp_path/'new')==[]
    RunLog(tmp_path/'new', {}, 'none').close()       # an empty file is no run
    with pytest.raises(FileExistsError, match='a run is there already'): RunLog(a_run(tmp_path/'old'), {}, 'none')

def test_a_failed_rewrite_leaves_the_file(tmp_path, monkeypatch):
    before = (a_run(tmp_path, 5)/'metrics.jsonl').read_bytes()
    def full(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(run_log.os, 'fsync', full)
    with pytest.raises(OSError): RunLog(tmp_path, {}, 'none', resume_step=2)
    assert (tmp_path/'metrics.jsonl').read_bytes()==before

@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
def test_a_full_disk_costs_one_warning_and_no_line(tmp_path, caplog):
    note = RunLog(tmp_path, {}, 'none')
    there, note.path = note.path, Path('/dev/full')
    for step in (1, 2, 3): note(step, {})
    note.path = there; note(4, {}); note.close()
    assert [r['step'] for r in read_run(tmp_path)]==[1, 2, 3, 4] and len(caplog.records)==1 and 'No space left' in caplog.text

# trackers

def test_no_tracker_to_be_had(tmp_path, monkeypatch, caplog):
    for name in ('wandb', 'tensorboard', 'torch.utils.tensorboard'): monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv('WANDB_MODE', 'offline')
    note = RunLog(tmp_path/'auto', {}); note(1, dict(loss=1.0)); note.close()
    assert len(read_run(tmp_path/'auto'))==1 and len(caplog.records)==1 and 'wandb is not installed' in caplog.text
    for tracker in ('wandb', 'tensorboard'):
        with pytest.raises(ValueError, match=f'pip install {tracker}'): RunLog(tmp_path/tracker, {}, tracker)
    with pytest.raises(ValueError, match="no tracker 'x'"): RunLog(tmp_path/'x', {}, 'x')

def test_a_folder_named_wandb_is_not_wandb(tmp_path, monkeypatch):
    "Python imports any folder as an empty package"
    monkeypatch.delitem(sys.modules, 'wandb', raising=False)
    monkeypatch.setattr(sys, 'path', [str(tmp_path)]); monkeypatch.setattr(sys, 'path_importer_cache', {})
    (tmp_path/'wandb').mkdir()
    assert run_log.find_spec('wandb') is not None and not run_log._installed('wandb')

@pytest.mark.parametrize('error', [ConnectionResetError('gone'), ValueError('bad'), RuntimeError(''), KeyError('x')])
def test_a_tracker_that_dies_costs_one_warning(tmp_path, caplog, error):
    class Dies:
        name, errors = 'it', (OSError, ValueError, RuntimeError, LookupError)
        def __call__(self, step, figures, media):
            if step>1: raise error
    note = RunLog(tmp_path, {}); note.tracker = Dies()
    for step in (1, 2, 3): note(step, dict(loss=1.0))
    note.close()
    assert len(read_run(tmp_path))==3 and len(caplog.records)==1 and 'it fails (' in caplog.text

def test_wandb_errors_are_those_of_this_wandb():
    wandb = pytest.importorskip('wandb')
    assert issubclass(wandb.errors.CommError, run_log._wandb_errors(wandb)) and 'HandleAbandonedError' in [e.__name__ for e in run_log._wandb_errors(wandb)]

CODE = '''
import os, signal, subprocess, sys, time
from structure_search.run_log import RunLog
folder, resume, end = sys.argv[1], int(sys.argv[2]), sys.argv[3]=='end'
note = RunLog(folder, dict(a=1), 'wandb', resume or None)
print('id', note.tracker.run.id)
note(resume+1, dict(loss=1.0))
if end:
    for line in subprocess.run(['ps', '-e', '-o', 'pid,ppid,args'], capture_output=True, text=True).stdout.splitlines():
        pid, parent, args = line.split(None, 2)
        if parent==str(os.getpid()) and 'wandb-core' in args: os.kill(int(pid), signal.SIGKILL)
    time.sleep(0.5)
note(resume+2, dict(loss=2.0)); note.close()
'''

def test_wandb_offline_goes_on_and_may_die(tmp_path):
    "A run that goes on has the id of before; the death of wandb's process doesn't end ours"
    pytest.importorskip('wandb')
    env = os.environ|{'WANDB_MODE':'offline', 'PYTHONPATH':str(ROOT)}
    def go(*words): return subprocess.run([sys.executable, '-c', CODE, str(tmp_path), *words], env=env, capture_output=True, text=True, timeout=100)
    first, second = go('0', ''), go('2', 'end')
    assert first.returncode==0==second.returncode, first.stderr+second.stderr
    assert first.stdout==second.stdout!='' and len([*(tmp_path/'wandb').glob('offline-run-*')])==2
    assert [r['step'] for r in read_run(tmp_path)]==[1, 2, 3, 4] and second.stderr.count('wandb fails (')==1

def test_tensorboard(tmp_path):
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    note = RunLog(tmp_path, dict(a=1), 'tensorboard')
    for step in (1, 2, 3): note(step, dict(loss=1/step, none=None, evaluation='text'))
    note.close()
    note = RunLog(tmp_path, dict(a=1), 'tensorboard', resume_step=2); note(3, dict(loss=7.0)); note.close()
    found = events.EventAccumulator(str(tmp_path/'tensorboard')); found.Reload()
    assert [(e.step, e.value) for e in found.Scalars('loss')]==[(1, 1.0), (2, 0.5), (3, 7.0)]

# names

def test_training_logs_known_names():
    "Every keyword of the dicts that evaluations make is in the table"
    from structure_search.evaluate import summary
    rows = [dict(residues=3, valid=True, accuracy=0.5, rmsd=1.0, tm=0.5, lddt=0.5)]
    assert {k if k.startswith('rmsd') else f'sample_{k}' for k in summary(rows)}<=set(FIGURES)
    strings = {n.value for n in ast.walk(ast.parse((ROOT/'structure_search/train.py').read_text())) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert {s for s in strings if s.startswith('val_') and ' ' not in s}<=set(FIGURES)

# judging

def losses(n:int, seed:int=0)->list[float]: return (2+3*np.exp(-np.arange(n)/50)+0.05*np.random.default_rng(seed).standard_normal(n)).tolist()

@pytest.mark.parametrize('seed', range(5))
def test_watch_does_not_cry_wolf(seed):
    watch = Watch('stop', margin=0.0)
    assert {watch.verdict(i, x, 1.0) for i,x in enumerate(losses(5000, seed))}=={('ok', '')}

@pytest.mark.parametrize('on_spike, verdict', [('warn','ok'), ('skip','skip'), ('stop','stop')])
def test_watch_sees_a_spike(on_spike, verdict):
    watch = Watch(on_spike)
    for i,x in enumerate(losses(300)): watch.verdict(i, x, 1.0)
    got, says = watch.verdict(300, 3.0, 7.5)
    assert got==verdict and 'step 300: the loss jumped to 3.000' in says and 'gradient 7.5' in says and '--learning-rate' in says
    assert watch.verdict(301, 2.0, 1.0)==('ok', '') and watch.s['row']==0

@pytest.mark.parametrize('loss, norm', [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf), (-math.inf, None)])
def test_watch_and_no_numbers(loss, norm):
    watch = Watch(on_nan='skip')
    verdicts = [watch.verdict(i, loss, norm) for i in range(11)]
    assert [v for v,_ in verdicts]==['skip']*10+['stop'] and '10 steps in a row' in verdicts[-1][1] and watch.s['known']==0
    assert Watch(on_nan='stop').verdict(1, loss, norm)[0]=='stop' and all('the loss is' in says for _,says in verdicts)
    watch = Watch(on_nan='skip')
    for i in range(50): assert watch.verdict(i, *((loss, norm) if i%2 else (2.0, 1.0)))[0]==('skip' if i%2 else 'ok')       # never many in a row
    assert watch.s['skipped']==25 and math.isfinite(watch.s['mean'])

def test_watch_restored_is_the_same_watch():
    xs = losses(400); xs[200], xs[350] = 9.0, math.nan
    whole, parts = Watch('skip', 'skip'), Watch('skip', 'skip')
    for i,x in enumerate(xs):
        if i%37==0: parts = Watch('skip', 'skip', state=json.loads(json.dumps(parts.state(), allow_nan=False)))
        assert whole.verdict(i, x, 1.0)==parts.verdict(i, x, 1.0)
    assert whole.state()==parts.state() and whole.s['skipped']==2

def test_meter_restored_between_and_after_lines():
    def go(cuts):
        meter, out = Meter(), []
        for i,x in enumerate(losses(40)):
            if i in cuts: meter = Meter(state=json.loads(json.dumps(meter.state(), allow_nan=False)))
            meter.add(nats=x*100, residues=97+i, eos_nats=x, proteins=3, tokens=300, computed=400)
            if i%10==9: out.append({k:v for k,v in meter.figures().items() if k not in ('seconds','cpu_seconds','tokens_per_second','residues_per_second')})
        return out
    assert go([])==go([3])==go([10, 20])==go(range(40)) and go([])[-1]['tokens_seen']==12000 and set(go([])[0])<=set(FIGURES)

def test_meter_pauses():
    now = [0.0]
    meter = Meter(clock=lambda: now[0])
    def work(): now[0] += 1; meter.add(tokens=10, nats=1.0, residues=4)
    work()
    with pytest.raises(RuntimeError):
        with meter.pause(): now[0] += 100; state = meter.state(); raise RuntimeError
    work()
    assert meter.figures()['tokens_per_second']==10 and state['time']==1
    assert Meter(state=state, clock=lambda: now[0]).figures()['tokens_per_second']==10      # the first line after going on
    with meter.pause(): now[0] += 5
    assert 'loss' not in meter.figures() and meter.figures()['seconds']==2

def test_versions(monkeypatch):
    made = versions()
    assert json.loads(json.dumps(made))==made and made['torch']==torch.__version__ and made['processes']>=1
    def no_git(*_, **__): raise FileNotFoundError('git')
    monkeypatch.setattr(run_log.subprocess, 'run', no_git)
    assert versions()==made|dict(commit=None)

# drawing

@pytest.mark.parametrize('ending', ['png', 'svg', 'pdf'])
def test_plot(tmp_path, capsys, ending):
    a, b, out = a_run(tmp_path/'a'), a_run(tmp_path/'b', 100, mfu=0.4, memory_gb=70.5), tmp_path/f'x.{ending}'
    assert main([str(a), str(b/'metrics.jsonl'), '--output', str(out), '--x', 'hours', '--smooth', '5'])==0
    said = capsys.readouterr().out
    assert out.stat().st_size>1000 and '2.5000 at 100' in said and [l.split()[0] for l in said.splitlines()]==['run', 'a', 'b', 'wrote']

def test_plot_of_old_young_and_odd_runs(tmp_path, capsys):
    old = [dict(step=10, loss=2.0, residues_per_second=5.0), dict(step=20, loss=None)]
    assert len(run_figure({'old':old}).axes)==2 and 'old    20  2.0000' in run_table({'old':old})
    assert panels({'a':old, 'b':[dict(step=1, val_loss=3.0, extra=1)]}, ['extra', 'val_loss'])==[['val_loss'], ['extra']]
    run_figure({'a':old, 'b':[dict(step=1, unigram_nats=3.0, extra=1)]}, smooth=50, figures=['loss', 'unigram_nats', 'extra'])
    twins = [a_run(tmp_path/x/'same', 3) for x in 'ab']
    assert main([*map(str, twins), '--output', str(tmp_path/'x.png')])==0 and str(twins[1]) in capsys.readouterr().out

@pytest.mark.parametrize('words, says', [(['{0}/nothing'], 'no run there'), (['{0}/new'], 'no figures yet'), (['{0}/a', '--figures', 'los'], 'no figure los'), (['{0}/a', '--x', 'tokens'], '--x step'),
                                         (['{0}/a', '--output', '{0}/x.html'], '.png, .svg or .pdf'), (['{0}/a', '--output', '{0}/nowhere/x.png'], 'nowhere')])
def test_plot_says_what_is_wrong_in_one_line(tmp_path, capsys, words, says):
    for name,text in (('a', '{"step": 1, "loss": 3.0}\n'), ('new', '')): (tmp_path/name).mkdir(); (tmp_path/name/'metrics.jsonl').write_text(text)
    assert main([w.format(tmp_path) for w in words])==2
    said = capsys.readouterr().err
    assert says in said and said.startswith('ss_plot_run: ') and said.count('\n')==1

def test_help_needs_nothing_heavy():
    r = subprocess.run([sys.executable, '-X', 'importtime', '-m', 'structure_search.plot_run', '--help'], capture_output=True, text=True, env=os.environ|{'PYTHONPATH':str(ROOT)})
    assert r.returncode==0 and r.stdout.startswith('usage: ss_plot_run') and 'None' not in r.stdout
    assert not {'torch','numpy','matplotlib','wandb'}&{l.split('|')[-1].strip() for l in r.stderr.splitlines()}
    assert make_parser().parse_args(['x']).x=='step'
