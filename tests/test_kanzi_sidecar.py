"Tokenising a database: killed at random moments, by two processes, with bad entries, by the wrong tokenizer; and training on the result"
import json, os, random, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest
from structure_search import kanzi_sidecar, train_kanzi
from structure_search.foldseek_db import FoldseekFormatError, PairedFoldseekDB, Protein, demo_db, write_db
from structure_search.kanzi_sidecar import KanziTokens, begin_job, join_and_verify, join_parts, read_part, tokenize_database, verify_tokens, work
from structure_search.kanzi_tokenizer import KanziTokenizer
from structure_search.tokenize_kanzi import main

ENV = os.environ|{'PATH':f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'OMP_NUM_THREADS':'1', 'CUDA_VISIBLE_DEVICES':'', 'PYTHONUNBUFFERED':'1', 'HF_HUB_OFFLINE':'1'}

@pytest.fixture(scope='module')
def tok(): return KanziTokenizer.from_pretrained('mini')

@pytest.fixture
def small_parts(monkeypatch): monkeypatch.setattr(kanzi_sidecar, 'PART', 40)

def few(folder, n:int=150, change=lambda p: p):
    demo = PairedFoldseekDB(demo_db())
    return write_db(folder/'few', [change(demo[int(k)]) for k in demo.keys[:n]])

def right(tokens:KanziTokens, tok, db):
    "Each protein's tokens, encoded alone"
    assert np.array_equal(tokens.keys, db.keys)
    assert all(np.array_equal(tokens[int(k)], tok.encode(db.read(int(k), ('ca',)).ca)) for k in db.keys[::7])

def test_the_entries_are_what_is_promised(tmp_path, tok, small_parts):
    db = few(tmp_path)
    tokens = tokenize_database(tok, db)
    right(tokens, tok, db)
    data, lines = (tmp_path/'few_kanzi').read_bytes(), [[int(x) for x in l.split()] for l in open(tmp_path/'few_kanzi.index')]
    assert sorted(p.name for p in tmp_path.glob('few_kanzi*') if 'columns' not in p.name)==['few_kanzi', 'few_kanzi.dbtype', 'few_kanzi.index', 'few_kanzi.json']
    for key,begin,size in lines:            # little-endian uint16 a residue and a NUL
        raw = data[begin:begin+size]
        assert raw[-1:]==b'\0' and np.array_equal(np.frombuffer(raw[:-1], '<u2'), tokens[key]) and size==2*len(db[key])+1
    m = json.loads((tmp_path/'few_kanzi.json').read_text())
    assert m['checkpoint']==tok.identity and m['pose']=='canonical' and m['dtype']=='float32' and m['proteins']==150 and m['left_out']==0 and m['version'] and len(m['index'])==64
    mixed = np.random.default_rng(0).choice(db.keys, 300)
    together = tokens.batch(mixed)
    assert all(np.array_equal(together[i], tokens[int(k)]) for i,k in enumerate(mixed))

WORKER = '''
import sys, structure_search.kanzi_sidecar as s
from structure_search.foldseek_db import PairedFoldseekDB
from structure_search.kanzi_tokenizer import KanziTokenizer
s.PART = 4
s.tokenize_database(KanziTokenizer.from_pretrained('mini'), PairedFoldseekDB(sys.argv[1]))
'''

def test_killed_at_random_moments(tmp_path, tok, monkeypatch):
    "kill -9 again and again, at other moments each time; then nothing is lost, nothing doubled, and finished parts were not made again"
    monkeypatch.setattr(kanzi_sidecar, 'PART', 4)
    db, rng, kills = few(tmp_path, 240), random.Random(0), 0
    parts = tmp_path/'few_kanzi.parts'
    done = lambda: {p.name:p.stat().st_mtime_ns for p in parts.glob('part-*.npz')} if parts.exists() else {}
    for _ in range(8):
        before = done()
        p = subprocess.Popen([sys.executable, '-c', WORKER, str(tmp_path/'few')], env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic()+60
        while p.poll() is None and len(done())<len(before)+rng.randint(1, 12) and time.monotonic()<end: time.sleep(0.002)
        time.sleep(rng.random()*0.02)
        if p.poll() is None: p.kill(); kills += 1
        p.wait()
        if not parts.exists(): break
        assert all(done().get(k)==v for k,v in before.items())
        assert not Path(f'{tmp_path}/few_kanzi.json').exists()
    assert kills>=3
    tokens = tokenize_database(tok, db)
    right(tokens, tok, db)
    assert len(tokens)==240 and not parts.exists() and not list(tmp_path.glob('.few_kanzi*'))

def test_a_damaged_part_is_made_again(tmp_path, tok, small_parts, caplog):
    db, output = few(tmp_path), tmp_path/'few_kanzi'
    assert begin_job(tok, db, output)
    work(tok, db, output, show=False)
    part = tmp_path/'few_kanzi.parts'/'part-000002.npz'
    raw = bytearray(part.read_bytes()); raw[len(raw)//2] ^= 255; part.write_bytes(raw)
    assert read_part(part) is None and 'damaged' in caplog.text
    with pytest.raises(ValueError, match='run the same command once more'): join_parts(tok, db, output)
    assert not Path(f'{output}.json').exists()
    right(tokenize_database(tok, db), tok, db)

def test_two_processes(tmp_path, tok, small_parts):
    "Each takes every second part; who comes first doesn't matter"
    db, output = few(tmp_path), tmp_path/'few_kanzi'
    assert begin_job(tok, db, output)
    for process in (1, 0): work(tok, db, output, process, 2, show=False)
    assert len(list((tmp_path/'few_kanzi.parts').glob('part*')))==4
    assert join_and_verify(tok, db, output)==1
    right(KanziTokens(output), tok, db)

def test_accelerate_launch(tmp_path, tok):
    from test_two_processes import skip_without_gloo
    db = few(tmp_path)
    r = subprocess.run('accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0 -m structure_search.tokenize_kanzi --kanzi-checkpoint mini --db-path'.split()+[str(db.path)], env=ENV, capture_output=True, text=True, timeout=300)
    if r.returncode: skip_without_gloo(r.stderr[-3000:])
    assert r.stdout.count('verified')==1
    right(KanziTokens(tmp_path/'few_kanzi'), tok, db)

def test_bad_entries_are_left_out_and_named(tmp_path, tok, small_parts, capsys):
    def change(p):
        if p.key in (demo[3], demo[50]): p = Protein(p.key, p.name, p.header, p.aa, p.ss, np.where(np.arange(len(p.ca))[:,None]==5, 400000, p.ca).astype(np.float32))
        return p
    demo = PairedFoldseekDB(demo_db()).keys.tolist()
    db = few(tmp_path, change=change)
    tokens = tokenize_database(tok, db)
    assert tokens.manifest['left_out']==2 and demo[3] not in tokens and len(tokens)==148
    assert f'key {demo[3]}: coordinates that are not numbers, or beyond 100,000 angstrom' in capsys.readouterr().out
    everywhere = few(tmp_path/'all', change=lambda p: Protein(p.key, p.name, p.header, p.aa, p.ss, p.ca+200000))
    with pytest.raises(ValueError, match='150 of 150 entries have no usable coordinates'): tokenize_database(tok, everywhere)

def test_what_is_made_by_another_is_refused(tmp_path, tok, capsys):
    db = few(tmp_path, 30)
    flags = ['--db-path', str(db.path), '--kanzi-checkpoint', 'mini']
    assert main(flags)==0 and 'already there' not in capsys.readouterr().out
    assert main(flags)==0 and 'already there' in capsys.readouterr().out
    assert main([*flags, '--pose', 'as-is'])==2 and 'another pose' in capsys.readouterr().err
    assert main([*flags, '--pose', 'as-is', '--overwrite'])==0
    with pytest.raises(ValueError, match='another pose|pose is canonical, theirs as-is'): KanziTokens(f'{db.path}_kanzi').check(tok, db)
    other = few(tmp_path/'other', 29)
    with pytest.raises(ValueError, match='the index of the coordinates'): KanziTokens(f'{db.path}_kanzi').check(KanziTokenizer.from_pretrained('mini', 'as-is'), other)
    few(tmp_path, 20)                                            # a new database over the old one takes the tokens away
    assert not list(tmp_path.glob('few_kanzi*'))

def test_nothing_else_is_overwritten(tmp_path, tok, capsys):
    "Neither the database, nor another one, nor a folder; not with --overwrite either"
    db, other = few(tmp_path, 30), few(tmp_path/'other', 20)
    flags = ['--db-path', str(db.path), '--kanzi-checkpoint', 'mini', '--overwrite', '--output']
    before = {f:f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()}
    for name,why in ((db.path, 'the database itself'), (f'{db.path}_ca', 'the database itself'), (other.path, 'not made by this program'), (f'{other.path}_h', 'not made by this program'), (tmp_path/'other', 'that is a folder')):
        assert main([*flags, str(name)])==2 and why in capsys.readouterr().err
    assert before=={f:f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()}

def mirrored(p): return Protein(p.key, p.name, p.header, p.aa, p.ss, p.ca*np.float32([-1, 1, 1]))

def rebuilt(tmp_path, db):
    "Another program makes the same database again, of mirror images: same keys, same lengths, same index"
    few(tmp_path/'new', len(db), mirrored)
    for f in (tmp_path/'new').glob('few*'): f.replace(tmp_path/f.name)
    return PairedFoldseekDB(db.path)

def test_tokens_of_other_coordinates_are_refused(tmp_path, tok, small_parts):
    db, output = few(tmp_path, 60), tmp_path/'few_kanzi'
    tokenize_database(tok, db)
    new = rebuilt(tmp_path, db)
    with pytest.raises(ValueError, match='the data of the coordinates'): KanziTokens(output).check(tok, new)
    right(tokenize_database(tok, new, overwrite=True), tok, new)

def test_a_database_that_changes_meanwhile(tmp_path, tok, small_parts):
    db, output = few(tmp_path, 60), tmp_path/'few_kanzi'
    assert begin_job(tok, db, output)
    work(tok, db, output, show=False)
    new = rebuilt(tmp_path, db)
    with pytest.raises(ValueError, match='has changed since this work began'): join_parts(tok, db, output)
    with pytest.raises(ValueError, match='unfinished work of another data; give it up with --overwrite'): tokenize_database(tok, new)
    right(tokenize_database(tok, new, overwrite=True), tok, new)

def test_what_does_not_verify_is_no_sidecar(tmp_path, tok, small_parts):
    "Tokens of another pose, found in the parts: refused, not left behind, and made anew by the same command"
    db, output = few(tmp_path, 60), tmp_path/'few_kanzi'
    assert begin_job(tok, db, output)
    work(KanziTokenizer.from_pretrained('mini', 'as-is'), db, output, show=False)
    with pytest.raises(FoldseekFormatError, match='the same command makes them anew'): tokenize_database(tok, db)
    assert not Path(f'{output}.json').exists()
    right(tokenize_database(tok, db), tok, db)

def test_parts_of_nobody_are_not_used(tmp_path, tok, small_parts):
    db, output = few(tmp_path, 60), tmp_path/'few_kanzi'
    assert begin_job(tok, db, output)
    work(KanziTokenizer.from_pretrained('mini', 'as-is'), db, output, show=False)
    (tmp_path/'few_kanzi.parts'/'job.json').unlink()
    right(tokenize_database(tok, db), tok, db)

def test_overwriting_can_be_resumed(tmp_path, tok, small_parts):
    db, output, other = few(tmp_path), tmp_path/'few_kanzi', KanziTokenizer.from_pretrained('mini', 'as-is')
    tokenize_database(tok, db)
    assert begin_job(other, db, output, overwrite=True)
    work(other, db, output, 0, 2, show=False)               # and now it stops
    made = {f:f.stat().st_mtime_ns for f in (tmp_path/'few_kanzi.parts').glob('part*')}
    assert begin_job(other, db, output, overwrite=True) and made=={f:f.stat().st_mtime_ns for f in (tmp_path/'few_kanzi.parts').glob('part*')} and len(made)==2
    right(tokenize_database(other, db, overwrite=True), other, db)

def test_one_run_at_a_time(tmp_path, tok):
    db = few(tmp_path, 30)
    with kanzi_sidecar._alone(tmp_path/'few_kanzi'):
        with pytest.raises(ValueError, match='another run is at work'): tokenize_database(tok, db)
    right(tokenize_database(tok, db), tok, db)

@pytest.mark.parametrize('text', ['{', '[]', '{"n_codes": 1000}'])
def test_a_damaged_manifest_can_be_replaced(tmp_path, tok, text, capsys):
    db = few(tmp_path, 30)
    tokenize_database(tok, db)
    (tmp_path/'few_kanzi.json').write_text(text)
    flags = ['--db-path', str(db.path), '--kanzi-checkpoint', 'mini']
    assert main(flags)==2 and '--overwrite' in capsys.readouterr().err
    assert main([*flags, '--overwrite'])==0
    right(KanziTokens(tmp_path/'few_kanzi'), tok, db)

@pytest.mark.parametrize('harm', ['cut', 'token', 'index', 'manifest', 'no manifest', 'n_codes'])
def test_damage_is_named(tmp_path, tok, harm):
    db = few(tmp_path, 30)
    tokenize_database(tok, db)
    f = {k:tmp_path/f'few_kanzi{k}' for k in ('', '.index', '.json')}
    for c in tmp_path.glob('*.columns'): c.unlink()
    if harm=='cut': f[''].write_bytes(f[''].read_bytes()[:-10])
    if harm=='token': f[''].write_bytes(b'\xff\xff'+f[''].read_bytes()[2:])
    if harm=='index': f['.index'].write_text(f['.index'].read_text().replace('\n', '0\n', 1))
    if harm=='manifest': f['.json'].write_text('{')
    if harm=='no manifest': f['.json'].unlink()
    if harm=='n_codes': f['.json'].write_text(f['.json'].read_text().replace('"n_codes": 1000', '"n_codes": "many"'))
    with pytest.raises(FoldseekFormatError, match='few_kanzi'): verify_tokens(tok, db, tmp_path/'few_kanzi')

FLAGS = '--kanzi-checkpoint mini --model-name nano --max-steps 2 --batch-size 4 --gradient-accumulation-steps 1 --val-fraction 0.2 --eval-samples 4 --rmsd-eval-samples 2 --eval-interval 0 --rmsd-eval-interval 0 --save-interval 0'.split()

def test_training_reads_the_tokens(tmp_path, tok, capsys, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'disabled')
    db = few(tmp_path, 60)
    run = lambda name, *more: train_kanzi.main([*FLAGS, '--db-path', str(db.path), '--output-dir', str(tmp_path/name), *more])
    losses = lambda name: [r['loss'] for r in map(json.loads, open(tmp_path/name/'metrics.jsonl')) if 'loss' in r]
    assert run('fly')==0 and f'ss_tokenize_kanzi --db-path {db.path} --kanzi-checkpoint mini' in capsys.readouterr().out
    tokenize_database(tok, db)
    encoded = []
    encode = KanziTokenizer.encode_ragged
    monkeypatch.setattr(KanziTokenizer, 'encode_ragged', lambda self, ca, offsets: encoded.append(len(offsets)-1) or encode(self, ca, offsets))
    capsys.readouterr()
    assert run('read')==0 and 'few_kanzi: tokens of 60 proteins' in capsys.readouterr().out
    assert not [n for n in encoded if n>2]                      # only what is predicted is encoded, for its ceiling; never a training protein
    assert losses('fly')==losses('read') and len(losses('read'))>=1
    assert run('other', '--pose', 'as-is')==2 and '--kanzi-tokens none' in capsys.readouterr().err
    assert run('none', '--pose', 'as-is', '--kanzi-tokens', 'none')==0
    assert run('gone', '--kanzi-tokens', str(tmp_path/'gone'))==2 and 'makes them' in capsys.readouterr().err
