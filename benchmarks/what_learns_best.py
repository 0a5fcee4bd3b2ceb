"""What makes a small language model read a sequence: an ablation through `ss_train`, in equal core-minutes.

    python benchmarks/what_learns_best.py ../shared/corpus/pdb --output outputs/ablation --minutes 10 --seeds 0 1
    python benchmarks/what_learns_best.py ../shared/corpus/pdb --output outputs/ablation --table        # of what is there

PATH.clusters.tsv tells which clusters are held out. Each experiment is a run of `ss_train` with one thread in a process of its own, two at a time; how many steps are so many core-minutes is measured
first, for each model's shape and form, and what each run took is in its metrics.jsonl (`cpu_seconds`). Runs that are done are not repeated: `experiment.json` and `held_out.json` in each run's folder.
"""
import argparse, json, os, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PLAIN = dict(objective='write', sequence_attention='causal', residue_echo=False, read_first=0)
BEST = dict(objective='both', sequence_attention='bidirectional', residue_echo=True)
EXPERIMENTS = {                 # name -> flags beside PLAIN and the common ones
    'sequential positions':    dict(positions='sequential'),
    'aligned positions':       dict(),
    'bidirectional sequence':  dict(sequence_attention='bidirectional'),
    'echo':                    dict(sequence_attention='bidirectional', residue_echo=True),
    'echo, history dropout':   dict(sequence_attention='bidirectional', residue_echo=True, history_dropout=0.5),
    'echo, history dropout 1': dict(sequence_attention='bidirectional', residue_echo=True, history_dropout=1.0),
    'both':                    dict(objective='both', sequence_attention='bidirectional'),
    'both, echo':              BEST,
    'both, echo, history dropout': BEST|dict(history_dropout=0.5),
    'both, echo, read first 0.5': BEST|dict(read_first=0.5),
    'both, echo, read first 0.8': BEST|dict(read_first=0.8),
    'encoder':                 dict(objective='read', sequence_attention='bidirectional'),
}

def flags(options:dict)->list[str]:
    out = []
    for k,v in options.items(): out += [f'--{"" if v else "no-"}{k.replace("_", "-")}'] if isinstance(v, bool) else [f'--{k.replace("_", "-")}', str(v)]
    return out

def train(options:dict, folder:Path, command:str='train')->int:
    "Run `ss_train` (or `ss_train_kanzi`) in a process of its own; the exit code"
    env = os.environ|dict(OMP_NUM_THREADS='1', WANDB_MODE='disabled', HF_HUB_OFFLINE='1')
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f'{folder}.log', 'w') as log:
        return subprocess.run([sys.executable, '-m', f'structure_search.{command}', *flags(options|dict(output_dir=folder, tracker='none'))], env=env, stdout=log, stderr=subprocess.STDOUT).returncode

def last(folder:Path)->dict:
    "The last line of training of a run"
    return [r for r in map(json.loads, open(folder/'metrics.jsonl')) if 'cpu_seconds' in r][-1]

def seconds_a_step(options:dict, output:Path, command:str='train')->float:
    "Measured once for each shape, form and size of batch"
    if (first := options.get('read_first')):             # such a step costs what a step of an encoder does
        options = options|dict(read_first=0)
        return first*seconds_a_step(options|dict(objective='read'), output, command)+(1-first)*seconds_a_step(options, output, command)
    shape = {k:options[k] for k in ('model_name','batch_size','gradient_accumulation_steps','objective','sequence_attention','residue_echo','kanzi_checkpoint','digit_loss') if k in options}
    folder = output/'speed'/'_'.join(str(v) for v in shape.values()).replace('/', '_')
    if not (folder/'metrics.jsonl').exists():
        assert train(options|dict(max_steps=60, log_interval=20, eval_samples=2, rmsd_eval_samples=1, history_dropout=0), folder, command)==0, f'see {folder}.log'
    lines = [r for r in map(json.loads, open(folder/'metrics.jsonl')) if 'cpu_seconds' in r]
    return (lines[-1]['cpu_seconds']-lines[0]['cpu_seconds'])/(lines[-1]['step']-lines[0]['step'])

def confidence_first(predictor, sequences:list[str], rounds:int)->list:
    "Probabilities (L,n) at each place when it was decided: in each round, those of the hidden tokens that are surest are revealed; one round decides all at once"
    import numpy as np, torch
    from structure_search.batches import pack
    from structure_search.model import packed_logits
    v, out = predictor.vocab, []
    for s in sequences:
        L, tokens, known, decided = len(s), np.zeros(len(s), np.int64), np.zeros(len(s), bool), np.zeros((len(s), predictor.vocab.n_structure), np.float32)
        for r in range(rounds):
            batch = pack([v.encode(s, tokens)], v, predictor.positions, hidden=[~known])
            with torch.no_grad(): p = packed_logits(predictor.model, batch)[:L,v.first:v.first+v.n_structure].softmax(-1).numpy()
            now = np.argsort(-(p.max(-1)-2*known))[:-(-L*(r+1)//rounds)-known.sum()]
            decided[now], tokens[now], known[now] = p[now], p[now].argmax(-1), True
        out.append(decided)
    return out

def held_out(folder:Path, a)->dict:
    "All figures of a trained model on held-out proteins; those of free-running ways on the same first ones, so that they compare"
    import numpy as np, torch
    from structure_search.dataset import ProteinRows, select
    from structure_search.evaluate import free_running, summary, teacher_forced, with_wrong_sequences
    from structure_search.foldseek_db import PairedFoldseekDB
    from structure_search.model import form_of
    from structure_search.predict import Predictor
    torch.set_num_threads(1)
    p = Predictor.from_pretrained(folder)
    db = PairedFoldseekDB(a.path)
    val = select(db, '3di', f'{a.path}.clusters.tsv', a.val_fraction, 400)[1]
    pairs = ProteinRows(db, p.vocab).proteins(val.some(a.samples).keys)
    objective, few, rng = form_of(p.model.config)['objective'], [], np.random.default_rng(0)
    few = [pairs[i] for i in rng.permutation(len(pairs))[:a.written]]
    out = dict(proteins=len(pairs), parameters=sum(x.numel() for x in p.model.parameters()))
    for wrong,some in (('', pairs), ('wrong_', with_wrong_sequences(pairs))): out |= {wrong+k:v for k,v in teacher_forced(p.model, p.vocab, some, p.positions).items()}
    ways = (dict(few_read=dict(method='read')) if objective!='write' else {})|({} if objective=='read' else dict(greedy=dict(method='write'), sampled=dict(method='write', temperature=1.0), consensus=dict(method='consensus', samples=a.consensus)))
    def note(name, rows):
        s = summary(rows)
        out.update({f'{name}_accuracy':s['token_accuracy'], f'{name}_nats':s['nats'], f'{name}_proteins':s['n']})
    for name,how in ways.items(): note(name, free_running(p, few, **how)[0])
    if float(json.loads((folder/'experiment.json').read_text())['options'].get('history_dropout', 0)):
        for name,rounds in (('parallel', 1), ('confident', 10)):
            said = confidence_first(p, [q.aa for q,_ in few], rounds)
            note(name, [dict(residues=len(q), valid=True, accuracy=float((b.argmax(-1)==x).mean()), nats=float(-np.log(b[np.arange(len(x)),x]).mean()), rmsd=np.nan) for (q,x),b in zip(few, said)])
    return out

def run(name:str, options:dict, seed:int, a, script:str=__file__, command:str='train', more:tuple=())->dict:
    "One experiment: trained by a command, judged by a script, its figures kept; from its folder where it was done before"
    folder = a.output/f'{name}, seed {seed}'.replace(', ', '_').replace(' ', '-')
    if not (folder/'held_out.json').exists():
        steps, began = round(60*a.minutes/a.speed[name]), time.time()
        code = train(options|dict(seed=seed, max_steps=steps, log_interval=max(1, steps//40), eval_interval=0, eval_samples=100, rmsd_eval_interval=0, rmsd_eval_samples=5, save_minutes=5, num_epochs=100, resume='auto'), folder, command)
        if code: raise RuntimeError(f'{name}: training ended with {code}; see {folder}.log')
        (folder/'experiment.json').write_text(json.dumps(dict(name=name, seed=seed, options={k:str(v) for k,v in options.items()}, steps=steps, minutes=a.minutes), indent=1))
        subprocess.run([sys.executable, script, a.path, '--output', a.output, '--judge', folder, '--val-fraction', str(a.val_fraction), '--samples', str(a.samples), *more], check=True, env=os.environ|dict(OMP_NUM_THREADS='1'))
        figures = json.loads((folder/'judged.json').read_text())|{k:last(folder)[k] for k in ('cpu_seconds','tokens_seen','epoch')}
        (folder/'held_out.json').write_text(json.dumps(figures, indent=1))
        print(f'{name}, seed {seed}: {figures["cpu_seconds"]/60:.1f} core-minutes, {time.time()-began:.0f} s with its evaluation', flush=True)
    return json.loads((folder/'experiment.json').read_text())|json.loads((folder/'held_out.json').read_text())

def run_all(todo:dict, a, **how)->list[dict]:
    "All experiments with all seeds, so many at a time; the speed of each is measured first"
    a.speed = {k:seconds_a_step(v, a.output, how.get('command', 'train')) for k,v in todo.items()}
    with ThreadPoolExecutor(a.workers) as pool: return list(pool.map(lambda x: run(x[1], todo[x[1]], x[0], a, **how), [(s, k) for s in a.seeds for k in todo]))

def collected(folder:Path)->dict:
    "All that is to be kept of a run: what it was, its figures on held-out proteins, and its curve"
    lines = [r for r in map(json.loads, open(folder/'metrics.jsonl')) if 'cpu_seconds' in r]
    curve = {k:[round(r[k], 4) for r in lines if k in r] for k in ('step','tokens_seen','cpu_seconds','loss','read_loss','learning_rate')}
    experiment = json.loads((folder/'experiment.json').read_text())
    experiment['options'] = {k:v for k,v in experiment['options'].items() if '/' not in v}           # no paths
    return experiment|{k:round(v, 5) if isinstance(v, float) else v for k,v in json.loads((folder/'held_out.json').read_text()).items()}|dict(curve={k:v for k,v in curve.items() if v})

def collect(output:Path, file:str):
    "All runs that are done, a line each"
    with open(file, 'w') as out:
        for folder in sorted(f.parent for f in output.glob('*/held_out.json')): out.write(json.dumps(collected(folder))+'\n')

COLUMNS = {'nats':'nats', 'accuracy':'accuracy', 'wrong_nats':'wrong sequence', 'read_nats':'read, nats', 'read_accuracy':'read', 'few_read_accuracy':'read, as many', 'greedy_accuracy':'greedy', 'sampled_accuracy':'sampled', 'consensus_accuracy':'consensus', 'consensus_nats':'consensus, nats', 'parallel_accuracy':'all hidden', 'confident_accuracy':'surest first'}

def table(rows:list[dict])->str:
    "Means over seeds, with half the range where there are several"
    names = list(dict.fromkeys(r['name'] for r in rows))
    lines = ['| training | seeds | core-minutes | epochs | '+' | '.join(COLUMNS.values())+' |', '|---'*(len(COLUMNS)+4)+'|']
    for n in names:
        some = [r for r in rows if r['name']==n]
        def cell(k, digits=3):
            x = [r[k] for r in some if k in r]
            return '-' if not x else f'{sum(x)/len(x):.{digits}f}'+(f' ± {(max(x)-min(x))/2:.{digits}f}' if len(x)>1 else '')
        lines.append(f'| {n} | {len(some)} | {sum(r["cpu_seconds"] for r in some)/len(some)/60:.1f} | {cell("epoch", 2)} | '+' | '.join(cell(k) for k in COLUMNS)+' |')
    return '\n'.join(lines)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('path', help='Foldseek database with 3Di, its name without ending')
    p.add_argument('--output', type=Path, required=True, help='folder of all runs')
    p.add_argument('--minutes', type=float, default=10, help='core-minutes of each run')
    p.add_argument('--seeds', type=int, nargs='+', default=[0])
    p.add_argument('--only', nargs='+', help='names of experiments; default: all')
    p.add_argument('--model-name', default='4x128')
    p.add_argument('--learning-rate', type=float, default=1e-3)
    p.add_argument('--batch-size', type=int, default=4)
    p.add_argument('--val-fraction', type=float, default=0.05)
    p.add_argument('--samples', type=int, default=300, help='held-out proteins to judge by')
    p.add_argument('--written', type=int, default=80, help='how many of them are written out')
    p.add_argument('--consensus', type=int, default=16, help='samples of a consensus')
    p.add_argument('--also', nargs='+', default=[], help='more experiments: NAME=--flag,value,--flag,value... beside those of "both, echo"; yes and no for flags without a value')
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--judge', type=Path, help='no training: judge the model of this folder')
    p.add_argument('--collect', help='no training: write all runs that are there to this file, a line each')
    p.add_argument('--table', action='store_true', help='no training: the table of what is there')
    a = p.parse_args()
    if a.judge: (a.judge/'judged.json').write_text(json.dumps(held_out(a.judge, a), indent=1)); return
    if a.collect: collect(a.output, a.collect); return
    if a.table:
        done = [json.loads((f.parent/'experiment.json').read_text())|json.loads(f.read_text()) for f in sorted(a.output.glob('*/held_out.json'), key=lambda f: f.stat().st_mtime)]
        print(table(done)); return
    common = PLAIN|dict(db_path=a.path, clusters=f'{a.path}.clusters.tsv', val_fraction=a.val_fraction, max_protein_length=400, model_name=a.model_name, learning_rate=a.learning_rate, batch_size=a.batch_size, gradient_accumulation_steps=1)
    todo = {k:common|v for k,v in EXPERIMENTS.items()}
    for name,_,words in (x.partition('=') for x in a.also):
        words = words.split(',')
        todo[name] = common|BEST|{k.removeprefix('--').replace('-', '_'):dict(yes=True, no=False).get(v, v) for k,v in zip(words[::2], words[1::2])}
    todo = {k:v for k,v in todo.items() if a.only is None or k in a.only}
    rows = run_all(todo, a, more=('--written', str(a.written), '--consensus', str(a.consensus)))
    print(table(rows))

if __name__=='__main__': main()
