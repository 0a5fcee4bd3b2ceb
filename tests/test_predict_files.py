"ss_predict on files: every kind of bad record, kill -9, what Foldseek is given, long and odd sequences."
import gzip, io, json, os, shutil, signal, subprocess, sys, time, warnings
from pathlib import Path
import gemmi, numpy as np, pytest
from conftest import shared
from structure_search.foldseek_db import PairedFoldseekDB, demo_db, write_subset
from structure_search.model import build_model, save_model
from structure_search.outputs import FORMATS, predict_files
from structure_search.predict import MODELS, Predictor
from structure_search.predict_cli import main
from structure_search.trace import load_tokenizer
from structure_search.vocab import minimal_vocab

@pytest.fixture(scope='module')
def traces():
    "A model with coordinates that was never trained"
    vocab = minimal_vocab('trace', 64)
    return Predictor(build_model('nano', vocab).eval(), vocab, load_tokenizer('trace-64'))

def rows(folder, name): return [line.split('\t') for line in Path(folder, name).read_text().splitlines()[1:]]
def fasta(path)->dict: return {r.split('\n')[0]:''.join(r.split('\n')[1:]) for r in Path(path).read_text().split('>')[1:]}
def content(folder): return {str(f.relative_to(folder)):f.read_bytes() for f in sorted(Path(folder).rglob('*')) if f.is_file()}

BAD = [(b'>fine one\nMKTAYIAKQRQ', None), (b'>empty', 'no sequence'), (b'>blank\n   \n\t', 'no sequence'), (b'>digit\nMK7A', "'7' at position 3"), (b'>gapped\nMK--A', 'ungapped'),
       (b'>dots\nMK.A', 'ungapped'), (b'>nul\nMK\x00A', 'is not a residue'), (b'>latin\nMK\xe9A', 'is not a residue'), (b'>long\n'+b'M'*2001, 'over the limit of 2,000'),
       (b'>lower\nmktayiakqrq', None), (b'>odd letters\nXUBZOJ*', None), (b'>fine one\nGSHMLEDPV', None), (b'>', 'no sequence'), (b'>../../evil /etc\nACDEF', None), (b'>one\nM', None), (b'>tab\there\nGAVLKG', None)]

def test_every_bad_record_is_named_and_the_rest_goes_on(tmp_path):
    (tmp_path/'all.fasta').write_bytes(b'\n'.join(x for x,_ in BAD)+b'\n')
    assert main([str(tmp_path/'all.fasta'), '--output', str(tmp_path/'out'), '--format', '3di', 'db'])==1
    left = {int(n):why for n,_,why in rows(tmp_path/'out', 'left_out.tsv')}
    assert sorted(left)==[i for i,(_,why) in enumerate(BAD, 1) if why]
    for i,(_,why) in enumerate(BAD, 1):
        if why: assert why in left[i], (i, left[i])
    good = [i for i,(_,why) in enumerate(BAD, 1) if not why]
    assert [int(r[0]) for r in rows(tmp_path/'out', 'predictions.tsv')]==good
    db = PairedFoldseekDB(tmp_path/'out'/'foldseek'/'predicted')
    assert db.keys.tolist()==[i-1 for i in good] and all(len(p.aa)==len(p.ss) for p in db)
    assert {p.aa for p in db}>={'MKTAYIAKQRQ', 'XUBZOJX', 'M'}
    assert not (tmp_path/'etc').exists() and {f.name for f in tmp_path.iterdir()}=={'all.fasta', 'out'}

def test_lower_case_and_odd_letters_are_read_as_documented():
    predictor = Predictor.from_pretrained('3di')
    a, b = predictor(['mktayiakqrUOBZJ*', 'MKTAYIAKQRCKDELX'])
    assert a.ss==b.ss and np.array_equal(a.confidence, b.confidence)

def test_formats_agree(traces, tmp_path):
    "One prediction, four formats: the same coordinates, sequence and letters in all"
    s = predict_files(traces, io.BytesIO(b'>a\nMKTAYIAKQRQISFVK\n>b/c\nGSHMLEDPVD\n'), tmp_path, FORMATS, progress=False)
    assert s['predicted']==2 and s['finished']
    db, letters = PairedFoldseekDB(tmp_path/'foldseek'/'predicted'), fasta(tmp_path/'3di.fasta')
    for p,name in zip(db, ('a', 'b_c')):
        for f in (tmp_path/'pdb'/f'{name}.pdb', tmp_path/'mmcif'/f'{name}.cif'):
            chain = gemmi.read_structure(str(f))[0][0]
            assert gemmi.one_letter_code([r.name for r in chain])==p.aa and np.abs(np.array([r[0].pos.tolist() for r in chain])-p.ca).max()<2e-3
            assert {r[0].b_iso for r in chain}=={0.0}               # never calibrated, so not written
        assert letters[p.header]==p.ss

def test_one_by_one_or_together_the_same():
    many = {f'p{i}':p.aa for i,p in enumerate(PairedFoldseekDB(demo_db()).at(slice(0, 16)))}
    predictor = Predictor.from_pretrained('3di')
    together = predictor(list(many.values()), tokens=2048)
    assert [p.ss for p in together]==[predictor(s).ss for s in many.values()]
    written = predictor(list(many.values())[:4], method='write')
    assert [p.ss for p in written]==[predictor(s, method='write').ss for s in list(many.values())[:4]]

def long_fasta(path, n=600):
    rng = np.random.default_rng(0)
    path.write_text(''.join(f'>p{i} number {i}\n{"".join(rng.choice([*"ACDEFGHIKLMNPQRSTVWY"], rng.integers(20, 60)))}\n' if i%50 else f'>bad{i}\nMK1\n' for i in range(n)))

def test_killed_and_gone_on_with(tmp_path):
    "kill -9 at three moments of a run of the real command; then the files are those of an undisturbed one"
    long_fasta(tmp_path/'many.fasta')
    def command(out): return [sys.executable, '-m', 'structure_search.predict_cli', str(tmp_path/'many.fasta'), '--output', str(out), '--format', '3di', 'db', '--batch-tokens', '256']
    whole = subprocess.run(command(tmp_path/'whole'), capture_output=True, text=True)
    assert whole.returncode==1 and '588 predictions' in whole.stdout, whole.stderr
    state = tmp_path/'killed'/'state.json'
    for least in (1, 150, 300):
        job = subprocess.Popen(command(tmp_path/'killed'), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic()+120
        while job.poll() is None and time.monotonic()<deadline and not (state.exists() and json.loads(state.read_text())['records']>=least): time.sleep(0.02)
        assert job.poll() is None, 'it ended before it could be killed'
        job.kill(); job.wait()
        assert not (tmp_path/'killed'/'foldseek'/'predicted.index').exists()
    assert subprocess.run(command(tmp_path/'killed'), capture_output=True).returncode==1
    a, b = content(tmp_path/'killed'), content(tmp_path/'whole')
    assert a==b
    assert len(PairedFoldseekDB(tmp_path/'killed'/'foldseek'/'predicted'))==588

def test_interrupted_by_the_user(tmp_path):
    "Ctrl-C: exit code 130, no half lines, and the same command goes on"
    long_fasta(tmp_path/'many.fasta')
    command = [sys.executable, '-m', 'structure_search.predict_cli', str(tmp_path/'many.fasta'), '--output', str(tmp_path/'out'), '--batch-tokens', '256']
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    state = tmp_path/'out'/'state.json'
    deadline = time.monotonic()+120
    while job.poll() is None and time.monotonic()<deadline and not (state.exists() and json.loads(state.read_text())['records']): time.sleep(0.02)
    job.send_signal(signal.SIGINT)
    assert job.wait(60)==130 and b'the same command goes on' in job.stderr.read()
    s = json.loads(state.read_text())
    assert 0<s['records']<600 and len(fasta(tmp_path/'out'/'3di.fasta'))==s['predicted']==len(rows(tmp_path/'out', 'predictions.tsv'))
    assert subprocess.run(command, capture_output=True).returncode==1 and len(fasta(tmp_path/'out'/'3di.fasta'))==588

def test_broken_gzip_keeps_what_was_whole(tmp_path, capsys):
    long_fasta(tmp_path/'many.fasta', 400)
    data = gzip.compress((tmp_path/'many.fasta').read_bytes())
    (tmp_path/'many.fasta.gz').write_bytes(data[:len(data)*2//3])
    assert main([str(tmp_path/'many.fasta.gz'), '--output', str(tmp_path/'out'), '--batch-tokens', '256'])==2
    assert 'breaks off after' in capsys.readouterr().err
    n = json.loads((tmp_path/'out'/'state.json').read_text())['records']
    (tmp_path/'many.fasta.gz').write_bytes(data)                        # the download is repeated
    assert main([str(tmp_path/'many.fasta.gz'), '--output', str(tmp_path/'out'), '--batch-tokens', '256'])==1
    assert 200<n<400 and len(fasta(tmp_path/'out'/'3di.fasta'))==392

def test_a_very_long_sequence(tmp_path, capsys):
    "Within the limit that is asked for; beyond it, named"
    (tmp_path/'long.fasta').write_text('>long\n'+'MKTAYIAKQR'*400+'\n>too long\n'+'M'*5001+'\n')
    assert main([str(tmp_path/'long.fasta'), '--output', str(tmp_path/'out'), '--max-residues', '5000'])==1
    assert rows(tmp_path/'out', 'predictions.tsv')[0][-1]=='longer than the 400 residues of the training' and len(fasta(tmp_path/'out'/'3di.fasta')['long'])==4000
    assert '5,001 letters, over the limit of 5,000' in capsys.readouterr().err

def test_database_in_keeps_its_keys(tmp_path):
    full = PairedFoldseekDB(demo_db())
    db = write_subset(tmp_path/'some'/'some', full, full.keys[::50])
    assert main([str(db.path), '--output', str(tmp_path/'out'), '--format', 'db'])==0
    out = PairedFoldseekDB(tmp_path/'out'/'foldseek'/'predicted')
    assert np.array_equal(out.keys, db.keys) and all(a.aa==b.aa and a.header==b.header for a,b in zip(out, db))

def test_pipe_and_terminal(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'structure_search.predict_cli', '-'], input=b'>a\nMKTAYIAKQR\n>b\nMK1\n', capture_output=True)
    assert done.returncode==1 and done.stdout.decode().split('\n')[0]=='>a' and len(done.stdout.split()[1])==10 and b'record 2 (b)' in done.stderr

def test_two_at_work_in_one_folder(traces, tmp_path):
    from structure_search.outputs import Outputs
    with Outputs(tmp_path/'out', ('3di',), {}):
        with pytest.raises(ValueError, match='another prediction is at work'): predict_files(traces, 'MKTAYI', tmp_path/'out', ('3di',), progress=False)

def mmseqs(*args, cwd): return subprocess.run(['mmseqs', *map(str, args)], cwd=cwd, capture_output=True, text=True)

def test_mmseqs_reads_our_database(tmp_path):
    "MMseqs2, whose format and reader Foldseek has, takes sequences and letters as they are, and finds each with itself"
    if shutil.which('mmseqs') is None:
        warnings.warn('SKIPPED: the program mmseqs is not here; the comparison with it did not run'); pytest.skip('the program mmseqs is not on the PATH')
    many = ''.join(f'>{p.header}\n{p.aa}\n' for p in PairedFoldseekDB(demo_db()).at(slice(0, 60)))
    (tmp_path/'some.fasta').write_text(many+'>bad\nMK1\n>last with *\nMKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ*\n')
    assert main([str(tmp_path/'some.fasta'), '--output', str(tmp_path/'out'), '--format', '3di', 'db'])==1
    q = tmp_path/'out'/'foldseek'/'predicted'
    for part,truth in (('', {p.header:p.aa for p in PairedFoldseekDB(q)}), ('_ss', fasta(tmp_path/'out'/'3di.fasta'))):
        if part:
            for end in ('', '.index', '.dbtype'): shutil.copy(f'{q}_h{end}', f'{q}_ss_h{end}')
        done = mmseqs('convert2fasta', f'{q}{part}', tmp_path/'back.fasta', cwd=tmp_path)
        assert done.returncode==0, done.stdout
        assert fasta(tmp_path/'back.fasta')==truth and len(truth)==61
        done = mmseqs('search', f'{q}{part}', f'{q}{part}', tmp_path/f'res{part}', tmp_path/'tmp', '-s', '4', cwd=tmp_path)
        assert done.returncode==0, done.stdout[-500:]
        assert mmseqs('convertalis', f'{q}{part}', f'{q}{part}', tmp_path/f'res{part}', tmp_path/'hits.tsv', '--format-output', 'query,target,fident,qlen,alnlen', cwd=tmp_path).returncode==0
        selves = [x for x in map(str.split, (tmp_path/'hits.tsv').read_text().splitlines()) if x[0]==x[1]]
        if not part: assert len(selves)>=58 and all(float(x[2])==1 for x in selves)         # low-complexity ones may be masked

def test_confidence_is_the_b_factor_where_it_was_calibrated(tmp_path):
    vocab = minimal_vocab('trace', 64)
    calibrated = Predictor(build_model('nano', vocab).eval(), vocab, load_tokenizer('trace-64'), about=dict(calibration=dict(write=dict(target='lddt', slope=0.7, offset=0.4, window=2))))
    predict_files(calibrated, io.BytesIO(b'>a\nMKTAYIAKQRQISFVK\n'), tmp_path, ('pdb', 'mmcif'), progress=False)
    p = calibrated('MKTAYIAKQRQISFVK')
    for f in (tmp_path/'pdb'/'a.pdb', tmp_path/'mmcif'/'a.cif'):
        assert [r[0].b_iso for r in gemmi.read_structure(str(f))[0][0]]==pytest.approx((100*p.confidence).tolist(), abs=0.006)
    assert float(rows(tmp_path, 'predictions.tsv')[0][4])==pytest.approx(p.confidence.mean(), abs=6e-4) and p.confidence.std()>0

def test_another_model_or_batch(traces, tmp_path):
    "Other weights are another question; another batch is the same one"
    vocab = minimal_vocab('trace', 64)
    data = b''.join(b'>p%d\n%b\n' % (i, b'MKTAYIAKQR') for i in range(20))
    def dies(reader): # after 10 records
        for i,item in enumerate(reader):
            if i==10: raise ValueError('broken')
            yield item
    from structure_search.outputs import Outputs, predict_records, read_input
    with pytest.raises(ValueError, match='broken'):
        with Outputs(tmp_path/'out', ('3di',), {}) as out: predict_records(traces, dies(read_input(io.BytesIO(data))[0]), out, residues=30, progress=False)
    assert len(rows(tmp_path/'out', 'predictions.tsv'))==10
    with Outputs(tmp_path/'out', ('3di',), {}) as out: predict_records(traces, read_input(io.BytesIO(data))[0], out, residues=70, progress=False)
    assert [r[2] for r in rows(tmp_path/'out', 'predictions.tsv')]==[f'p{i}' for i in range(20)]
    predict_files(traces, io.BytesIO(data), tmp_path/'two', progress=False)
    with pytest.raises(ValueError, match='model: '): predict_files(Predictor(build_model('nano', vocab, seed=1).eval(), vocab, load_tokenizer('trace-64')), io.BytesIO(data), tmp_path/'two', progress=False)

def test_no_two_records_share_a_file(traces, tmp_path):
    predict_files(traces, io.BytesIO(b'>a\nMKTA\n>a.3\nGAVL\n>a\nWWWW\n'), tmp_path, ('pdb',), progress=False)
    files = {r[0]:r[5] for r in rows(tmp_path, 'predictions.tsv')}
    assert len(set(files.values()))==3 and gemmi.one_letter_code([r.name for r in gemmi.read_structure(str(tmp_path/files['3']))[0][0]])=='WWWW'

def test_killed_while_the_database_is_put_in_place(traces, tmp_path, monkeypatch):
    "At each file that is moved, and when the shard is taken away: what is found afterwards is whole"
    import structure_search.foldseek_writer as w
    data = io.BytesIO(b'>a\nMKTA\n>b\nGAVL\n')
    predict_files(traces, data, tmp_path/'whole', ('db',), progress=False)
    whole, n = content(tmp_path/'whole'/'foldseek'), 0
    for name in ('_place', 'replace', 'rmtree'):
        for k in range(1, 12):
            real, left = (w._place if name=='_place' else getattr(os if name=='replace' else shutil, name)), [k]
            def dies(*a, **kw):
                left[0] -= 1 if '.part' not in str(a) and 'state.json' not in str(a) else 0
                if left[0]==0: raise SystemError('killed')
                return real(*a, **kw)
            folder = tmp_path/f'{name}{k}'
            with monkeypatch.context() as m:
                m.setattr(w if name=='_place' else w.os if name=='replace' else w.shutil, name, dies)
                try: predict_files(traces, io.BytesIO(data.getvalue()), folder, ('db',), progress=False)
                except SystemError: n += 1
            assert predict_files(traces, io.BytesIO(data.getvalue()), folder, ('db',), progress=False)['finished']
            assert content(folder/'foldseek')==whole, (name, k)
    assert n>10
