"ss_evaluate: who was held out, training sets that hold judged proteins, models of all kinds, what is written."
import json
from pathlib import Path
import numpy as np, pytest
from structure_search.card import data_identity
from structure_search.dataset import read_clusters, select
from structure_search.evaluate_cli import main
from structure_search.foldseek_db import PairedFoldseekDB, demo_db, write_subset
from structure_search.kanzi_tokenizer import KanziTokenizer
from structure_search.model import build_model, save_model
from structure_search.predict import Predictor
from structure_search.trace import load_tokenizer
from structure_search.vocab import minimal_vocab

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "150 chains of the demo database, and the model of a training on them"
    d = tmp_path_factory.mktemp('small')
    full = PairedFoldseekDB(demo_db())
    db = write_subset(d/'small'/'small', full, full.keys[::8])
    clusters = read_clusters(f'{demo_db()}.clusters.tsv', full.keys)
    (d/'clusters.tsv').write_text(''.join(f'{k}\t{c}\n' for k,c in zip(full.keys, clusters)))
    (d/'wrong.tsv').write_text(''.join(f'{k}\t{k%97+1000}\n' for k in full.keys))
    train = select(db, '3di', d/'clusters.tsv', 0.3, 200)[0]
    vocab = minimal_vocab('3di')
    save_model(d/'model', build_model('nano', vocab, form=dict(objective='read')), vocab, dict(positions='aligned', max_protein_length=200, data=data_identity(db, train, d/'clusters.tsv', 0.3, 200)))
    return d

def run(d, *flags, model=None): return main([str(model or d/'model'), str(d/'small'/'small'), '--output', str(d/'out'), *map(str, flags)])
def verdict(d): return json.loads((d/'out'/'verdict.json').read_text(), parse_constant=lambda x: pytest.fail(f'{x} is no JSON'))

def test_only_what_was_held_out_is_judged_and_written(small, capsys):
    assert run(small, '--clusters', small/'clusters.tsv', '--known', 0, '--write')==0
    v, db = verdict(small), PairedFoldseekDB(small/'small'/'small')
    train, held, _ = select(db, '3di', small/'clusters.tsv', 0.3, 200)
    assert v['held_out']=='yes' and v['proteins']==len(held) and {int(r.split('\t')[0]) for r in (small/'out'/'proteins.tsv').read_text().splitlines()[1:]}=={*held.keys.tolist()}
    about = json.loads((small/'model'/'translator.json').read_text())
    assert about['measured']['held_out']=='yes' and 'held out from the training' in (small/'model'/'README.md').read_text()
    assert not about['calibration'] and 'not to be used' in capsys.readouterr().out        # an untrained model's confidence tells nothing

@pytest.mark.parametrize('flags,message', [((), '--clusters .../clusters.tsv'), (('--clusters', 'wrong.tsv'), 'not the same training half'), (('--clusters', 'clusters.tsv', '--val-fraction', 0.5), 'held out 0.3 of the clusters, not 0.5'),
                                           (('--clusters', 'clusters.tsv', '--all', '--write'), 'were used for the training')])
def test_what_cannot_be_known_is_refused(small, flags, message, capsys):
    before = (small/'model'/'translator.json').read_bytes()
    assert run(small, '--known', 0, *(small/f if str(f).endswith('.tsv') else f for f in flags))==2 and message in capsys.readouterr().err
    assert (small/'model'/'translator.json').read_bytes()==before

def test_another_database(small, tmp_path, capsys):
    "Nothing says that it was held out; the training's own proteins are neither neighbours nor references of themselves"
    full = PairedFoldseekDB(demo_db())
    write_subset(tmp_path/'other'/'other', full, np.union1d(full.keys[1::40], full.keys[::80]))       # some of them are in the training database
    flags = [str(small/'model'), str(tmp_path/'other'/'other'), '--output', str(tmp_path/'out')]
    assert main([*flags, '--write', '--known', '0'])==2 and '--held-out' in capsys.readouterr().err
    assert main([*flags, '--train-db', str(small/'small'/'small'), '--train-clusters', str(small/'clusters.tsv'), '--held-out'])==0
    said = capsys.readouterr().out
    v = json.loads((tmp_path/'out'/'verdict.json').read_text())
    assert v['held_out']=='said' and 'training proteins have the sequence of a judged one' in said and 'not the training set' not in said
    assert v['known']<v['known_of'] and v['tokens']['nearest neighbour']['accuracy']<0.6 and max(p['low'] for p in v['by_identity'])<0.9
    assert 'Neighbours are looked for among' in (tmp_path/'out'/'report.html').read_text()

def test_two_proteins_of_one_cluster(small, tmp_path):
    db = PairedFoldseekDB(small/'small'/'small')
    two = write_subset(tmp_path/'two'/'two', db, db.keys[:2])
    (tmp_path/'one.tsv').write_text(''.join(f'{k}\t7\n' for k in db.keys[:2]))
    assert main([str(small/'model'), str(two.path), '--clusters', str(tmp_path/'one.tsv'), '--output', str(tmp_path/'out'), '--held-out', '--write'])==0
    v = json.loads((tmp_path/'out'/'verdict.json').read_text(), parse_constant=lambda x: pytest.fail(f'{x} is no JSON'))
    assert v['clusters']==1 and v['calibration'] is None and v['tokens']['free-running: read']['accuracy_interval']==[None, None]
    json.loads((small/'model'/'translator.json').read_text(), parse_constant=lambda x: pytest.fail(f'{x} is no JSON')); assert '(- to' not in (small/'model'/'README.md').read_text()

@pytest.mark.parametrize('name', ['mini', 'trace-64'])
def test_models_with_coordinates(small, tmp_path, name):
    "Digits for codes that have them; ceiling above prediction; the viewer's three examples"
    tok = load_tokenizer(name)
    vocab = minimal_vocab(tok.alphabet, tok.n_codes)
    save_model(tmp_path/'model', build_model('nano', vocab), vocab, dict(positions='aligned', kanzi=name, kanzi_identity=tok.identity, pose=tok.pose))
    db = PairedFoldseekDB(small/'small'/'small')
    short = write_subset(tmp_path/'short'/'short', db, db.keys[db.residues()<60][:3])
    assert main([str(tmp_path/'model'), str(short.path), '--output', str(tmp_path/'out')])==0
    v = json.loads((tmp_path/'out'/'verdict.json').read_text())
    assert v['structures']['ceiling (tokenizer)']['lddt']>0.7>v['structures']['prediction: written']['lddt'] and [len(v.get('digits') or [])]==[3 if name=='mini' else 0]
    page = (tmp_path/'out'/'report.html').read_text()
    assert 'id="view2"' in page and 'distances between residues' in page and 'src="http' not in page

def test_the_tokenizer_must_be_the_training_s(tmp_path, capsys):
    tok = load_tokenizer('trace-64')
    vocab = minimal_vocab('trace', 64)
    save_model(tmp_path/'model', build_model('nano', vocab), vocab, dict(positions='aligned', kanzi='trace-64', kanzi_identity='0'*64))
    assert main([str(tmp_path/'model'), str(demo_db())])==2 and 'tokens of another tokenizer' in capsys.readouterr().err
    assert KanziTokenizer.from_pretrained('mini').identity!=tok.identity
