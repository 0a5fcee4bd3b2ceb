"Bad input: one clear error that names the file, the entry and the mend, or a counted and named skip. Never a traceback, never silence."
import shutil
from pathlib import Path
import numpy as np, pytest, torch
from structure_search import train, train_kanzi
from structure_search.kanzi_model import KanziConfig, KanziModel, save_kanzi
from structure_search.foldseek_db import PairedFoldseekDB, Protein, demo_db, write_db
from structure_search.predict import Predictor

FLAGS = '--model-name nano --max-steps 1 --batch-size 1 --gradient-accumulation-steps 1 --eval-samples 5 --rmsd-eval-samples 2 --max-protein-length 80'.split()

@pytest.fixture(scope='module')
def proteins():
    demo = PairedFoldseekDB(demo_db())
    return [demo[int(k)] for k in demo.keys[demo.residues()<80][:30]]

@pytest.fixture
def db(tmp_path, proteins): return write_db(tmp_path/'db', proteins).path

@pytest.fixture
def ask(tmp_path, capfd, caplog):
    "Train on a database with more flags; gives exit code and what was said"
    def call(db, *flags, alphabet='kanzi'):
        main, more = (train_kanzi.main, ['--kanzi-checkpoint', 'mini']) if alphabet=='kanzi' else (train.main, [])
        try: code = main(['--db-path', str(db), '--output-dir', str(tmp_path/'out'), *FLAGS, *more, *map(str, flags)])
        except SystemExit as e: code = e.code
        said = capfd.readouterr()
        return code, said.out+said.err+caplog.text
    return call

def refused(answer, *words):
    code, said = answer
    assert code==2, said
    assert 'Traceback' not in said
    for w in words: assert w in said, said

def cut(path:Path, share=0.5):
    data = path.read_bytes()[:int(path.stat().st_size*share)]
    path.unlink(); path.write_bytes(data)          # files of checkpoints are read-only

def test_missing_database(ask, tmp_path, db):
    refused(ask(tmp_path/'nowhere'), 'no Foldseek database there', 'In that folder: db')
    refused(ask(f'{db}.index'), 'no Foldseek database there')

@pytest.mark.parametrize('alphabet,part', [('kanzi','ca'), ('3di','ss')])
def test_missing_part(ask, db, alphabet, part):
    for f in db.parent.glob(f'db_{part}*'): f.unlink()
    refused(ask(db, alphabet=alphabet), f'db_{part}', 'not there')
    assert ask(db, alphabet='3di' if part=='ca' else 'kanzi')[0]==0          # the other alphabet doesn't need it

@pytest.mark.parametrize('ending', ['', '_ca'])
def test_truncated_data(ask, db, ending):
    cut(Path(f'{db}{ending}'))
    refused(ask(db), f'db{ending}', 'truncated')

def test_truncated_in_the_last_entry(ask, db):
    cut(Path(f'{db}_ca'), 0.999)
    code, said = ask(db)
    assert code==2 and 'truncated' in said or code==0 and 'skipped key' in said, said

@pytest.mark.parametrize('text,words', [('1\t2\n', 'columns'), ('1\tx\t3\n', 'index'), ('1\t0\t5\n1\t5\t5\n', 'twice')])
def test_damaged_index(ask, db, text, words):
    Path(f'{db}.index').write_text(text)
    refused(ask(db), 'db.index', words)

def test_dangling_first_part(ask, db):
    data = Path(db).read_bytes()
    Path(f'{db}.1').write_bytes(data[1000:]); Path(db).unlink(); Path(f'{db}.0').symlink_to('old_name')
    refused(ask(db), 'db.0', 'old_name', 'ln -sf')

def test_wrong_dbtype(ask, db):
    Path(f'{db}_ca.dbtype').write_bytes((0).to_bytes(4, 'little'))
    refused(ask(db), 'db_ca.dbtype', 'C-alpha')
    Path(f'{db}_ca.dbtype').write_bytes(b'x')
    refused(ask(db), 'db_ca.dbtype', '4')

def test_bad_entries_are_skipped_and_named(ask, tmp_path, proteins):
    bad = [Protein(10_000_001, 'hole', 'hole', 'MKTAY', 'DDPLV', np.full((5,3), np.nan)), Protein(10_000_002, 'digit', 'digit', 'MK7AY', 'DDPLV', np.zeros((5,3), np.float32))]
    code, said = ask(write_db(tmp_path/'mixed', [*proteins, *bad]).path, '--num-epochs', 1, '--max-steps', -1, '--batch-size', 8)
    assert code==0 and 'key 10000001' in said and 'key 10000002' in said and "'7' at position 3" in said

def test_all_letters_are_read(ask, tmp_path, proteins):
    odd = [Protein(p.key, p.name, p.header, 'bjouzx*'+p.aa[7:], p.ss.lower(), p.ca) for p in proteins]
    code, said = ask(write_db(tmp_path/'odd', odd).path)
    assert code==0 and 'skipped' not in said

def test_proteins_over_the_limit(ask, db):
    code, said = ask(db, '--max-protein-length', 60)
    assert code==0 and 'over 60 residues (key' in said
    refused(ask(db, '--max-protein-length', 5), 'nothing to train on', '--max-protein-length')
    refused(ask(db, '--max-length', 10), 'nothing to train on')

@pytest.mark.parametrize('n,flags', [(5, []), (5, ['--val-fraction', 0.5]), (1, [])])
def test_tiny_databases(ask, tmp_path, proteins, n, flags):
    code, said = ask(write_db(tmp_path/'tiny', proteins[:n]).path, *flags)
    assert code==0 and (flags or 'no protein is held out' in said), said

def test_clusters(ask, tmp_path, db):
    refused(ask(db, '--clusters', tmp_path/'no.tsv'), 'no.tsv')
    (tmp_path/'c.tsv').write_text('not a table\n')
    refused(ask(db, '--clusters', tmp_path/'c.tsv'), 'c.tsv, line 1')
    (tmp_path/'c.tsv').write_text('1\t1\n')
    refused(ask(db, '--clusters', tmp_path/'c.tsv'), 'no cluster for', 'another database')
    for bad in ('²\t1\n', '1'*30+'\t1\n', '-1\t1\n'):
        (tmp_path/'c.tsv').write_text(bad, encoding='utf-8')
        refused(ask(db, '--clusters', tmp_path/'c.tsv'), 'c.tsv, line 1')
    keys = PairedFoldseekDB(db).keys
    (tmp_path/'c.tsv').write_bytes(b''.join(b'%d\t\xff%s\n\n' % (k, b'9'*(30 if k%2 else 3)) for k in keys))     # names that are no UTF-8, numbers beyond 64 bits, empty lines
    assert ask(db, '--clusters', tmp_path/'c.tsv', '--val-fraction', 0.5)[0] in (0, 2)
    (tmp_path/'c.tsv').write_text(''.join(f'{k}\t{i%7}\n' for i,k in enumerate(keys))+f'{keys[0]}\t6\n')
    refused(ask(db, '--clusters', tmp_path/'c.tsv'), f'key {keys[0]} is in two clusters')

def test_lists(ask, tmp_path, db, proteins):
    names = tmp_path/'names.txt'
    refused(ask(db, '--keys', names), 'names.txt', 'no such list')
    names.write_text('nobody\n4000000000\n')
    refused(ask(db, '--exclude', names), 'names.txt', 'none of its 2 lines', "'nobody'")
    names.write_bytes(b'\xff\0'*10+b'\n')
    refused(ask(db, '--keys', names), 'names.txt', 'none of its 1 lines')
    names.write_text(f'{proteins[0].name}\n{proteins[1].key} and a remark\nnobody\n')
    code, said = ask(db, '--exclude', names)
    assert code==0 and f'2 in {names} (key' in said and "1 of 3 lines are not in the database, the first is 'nobody'" in said
    assert ask(db, '--exclude', names, '--resume', '--max-steps', 2)[0]==0
    refused(ask(db, '--resume', '--max-steps', 3), 'other settings (proteins)')
    refused(ask(db, '--exclude', names, '--shuffle-block', 8, '--resume', '--max-steps', 3), 'other settings (shuffle_block)')
    assert ask(db, '--keys', names, '--val-fraction', 0)[0]==0

def test_empty_index(ask, db):
    Path(f'{db}.index').write_text('')
    refused(ask(db), 'no entry', 'index is empty')

def test_what_an_alphabet_does_not_need_is_not_read(ask, db):
    cut(Path(f'{db}_ca')); assert ask(db, alphabet='3di')[0]==0

@pytest.mark.parametrize('kind', ['one residue', 'far apart', 'far away', 'absurd'])
def test_odd_structures_among_the_samples(ask, tmp_path, proteins, kind):
    "Legal but odd coordinates are compared as any others; absurd ones are skipped by name"
    L = 1 if kind=='one residue' else 8
    ca = np.arange(L)[:,None]*np.array([[3.8, 0, 0]])
    ca = {'far apart':20*ca, 'far away':ca+20000, 'absurd':ca*1e12}.get(kind, ca)
    odd = [Protein(k, f'odd{k}', '', 'A'*L, 'D'*L, ca.astype(np.float32)) for k in range(1, 25)]
    code, said = ask(write_db(tmp_path/'odd', odd if kind!='absurd' else [*odd[:2], *proteins]).path, '--val-fraction', 0)
    assert code==0 and 'Traceback' not in said, said
    if kind=='absurd': assert 'skipped key 1' in said and '100,000 angstrom' in said

class Evil:
    def __reduce__(self): return (Path.touch, (Path('evil-was-here'),))

@pytest.mark.parametrize('kind', ['missing', 'folder', 'text', 'cut', 'pickle', 'other', 'huge claim', 'unfitting', 'broken', 'nan', 'settings safetensors', 'foreign safetensors'])
def test_kanzi_checkpoint(ask, db, tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path/('k.safetensors' if 'safetensors' in kind else 'k.pt')
    if kind=='folder': path.mkdir()
    if kind=='text': path.write_text('hello')
    if kind=='cut': torch.save(dict(model={'a':torch.zeros(1000)}, model_cfg={}), path); cut(path)
    if kind=='pickle': torch.save(dict(model=Evil()), path)
    if kind=='other': torch.save([1, 2], path)
    small = dict(n_channels_decoder=16, n_channels_encoder=16, n_layers_encoder=1, n_layers_decoder=1, n_heads=2)
    if kind=='huge claim': torch.save(dict(model={'a':torch.zeros(1).expand(10**12)}, model_cfg=small|dict(n_channels_decoder=8192, n_layers_decoder=256)), path)
    if kind=='unfitting': torch.save(dict(model={'a':torch.zeros(10**5)}, model_cfg=small), path)
    if kind=='broken': path.write_bytes(b'(i')                              # an unpickler's IndexError
    if kind in ('nan', 'settings safetensors'): model = KanziModel(KanziConfig(**small))
    if kind=='nan': torch.save(dict(model={k:v*torch.nan for k,v in model.state_dict().items()}, model_cfg=small), path)
    if kind=='settings safetensors': save_kanzi(model, path, tokenizer=dict(decode=dict(sampler='flow', n_steps='3')))
    if kind=='foreign safetensors':
        from safetensors.torch import save_file
        save_file({'a':torch.zeros(3)}, path)
    refused(ask(db, '--kanzi-checkpoint', path), path.name)
    assert not (tmp_path/'evil-was-here').exists()

@pytest.mark.parametrize('flags', [('--batch-size', 0), ('--batch-size', -1), ('--gradient-accumulation-steps', 0), ('--learning-rate', 'nan'), ('--learning-rate', -1), ('--val-fraction', 2), ('--num-epochs', 0), ('--max-steps', 0),
                                   ('--warmup-ratio', 2), ('--log-interval', 0), ('--eval-samples', 0), ('--rmsd-eval-samples', 0)])
def test_impossible_values(ask, db, flags): refused(ask(db, *flags), flags[0])

def test_model_names(ask, db, tmp_path):
    refused(ask(db, '--model-name', 'no-such-model'), 'no-such-model', 'nano')
    refused(ask(db, '--model-name', tmp_path), '--model-name')
    refused(ask(db, '--model-name', 'nano', '--pretrained'), 'a shape without weights')

def test_output_that_is_a_file(ask, db, tmp_path):
    (tmp_path/'out').write_text('mine')
    refused(ask(db), 'out')
    assert (tmp_path/'out').read_text()=='mine'

def test_resume(ask, db, tmp_path):
    assert ask(db, '--resume')[0]==0                                        # nothing there: a new run, and it says so
    refused(ask(db, '--resume', '--seed', 3), 'other settings (seed)')
    for path in (tmp_path/'out'/'checkpoints').iterdir(): cut(path/'model.safetensors')
    refused(ask(db, '--resume', '--max-steps', 2), 'checkpoint')
    code, said = ask(db)                                                    # without --resume the old run is kept aside
    assert code==0 and 'previous-1' in said and (tmp_path/'out'/'previous-1'/'metrics.jsonl').exists()

def test_predictor(ask, db, tmp_path):
    with pytest.raises(FileNotFoundError, match='no model trained'): Predictor.from_pretrained(tmp_path)
    assert ask(db)[0]==0
    predictor = Predictor.from_pretrained(tmp_path/'out')
    with pytest.raises(ValueError, match='sequence 2'): predictor(['MKT', 'M-T'])
    with pytest.raises(ValueError, match='sequence 1 is empty'): predictor([''])
    assert predictor([])==[]
    with pytest.warns(UserWarning, match='trained on at most 80'): predictor('M'*90)
    cut(tmp_path/'out'/'model.safetensors')
    with pytest.raises(ValueError, match='not a complete model folder'): Predictor.from_pretrained(tmp_path/'out')
