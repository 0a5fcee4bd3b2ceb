"What the package carries: the demo database, the small tokenizer, and the 3Di model."
import numpy as np
from conftest import shared
from structure_search.dataset import ProteinRows, in_validation, read_clusters, select
from structure_search.evaluate import free_running, summary, teacher_forced
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.kanzi_model import read_metadata
from structure_search.kanzi_measure import grid_reconstruction, reconstruction_rmsd, rotation_agreement
from structure_search.kanzi_tokenizer import MINI, KanziTokenizer
from structure_search.metrics import rmsd
from structure_search.model import NEW_FORMS
from structure_search.predict import MODELS, Predictor
from structure_search.vocab import minimal_vocab

def demo():
    db = PairedFoldseekDB(demo_db())
    return db, read_clusters(f'{demo_db()}.clusters.tsv', db.keys)

def test_demo_database():
    db, clusters = demo()
    assert len(db)>=1000 and len(np.unique(clusters))==len(db)
    assert db.residues().min()>=40 and db.residues().max()<=256
    for p in db: assert len(p.ss)==len(p.ca)==len(p.aa) and np.isfinite(p.ca).all() and p.name
    held = in_validation(clusters, 0.1).mean()
    assert 0.07<held<0.13                                           # chosen without regard to the hash that splits
    assert 0.07<in_validation(db.keys, 0.1).mean()<0.13             # neither by cluster nor by key

def test_demo_is_of_the_corpus():
    "Same keys, same cluster numbers: so the tokenizer's held-out clusters are the demo's"
    corpus = shared('corpus')/'pdb'
    (db, clusters), full = demo(), PairedFoldseekDB(corpus)
    everywhere = read_clusters(f'{corpus}.clusters.tsv', full.keys)
    assert np.array_equal(everywhere[np.searchsorted(full.keys, db.keys)], clusters)
    for p in db:
        q = full[p.key]
        assert (p.name, p.aa, p.ss)==(q.name, q.aa, q.ss) and np.abs(p.ca-q.ca).max()<0.0015

def test_embedded_tokenizer():
    "Its shape, and what its card says, measured anew on held-out clusters"
    tok, about = KanziTokenizer.from_pretrained('mini'), read_metadata(MINI)
    assert about['config']['conditioning_type']=='add' and about['config']['levels']==[10,10,10]
    assert about['card']['training']['val_fraction']==0.1 and about['card']['training']['clusters']
    db, clusters = demo()
    cas = [db[int(k)].ca for k in db.keys[in_validation(clusters, 0.1)]]
    found = reconstruction_rmsd(tok, cas)
    assert np.median(found)<=1.0 and np.percentile(found, 90)<=2 and MINI.stat().st_size<8e6 and abs(np.median(found)-about['card']['rmsd_median'])<0.1
    assert np.median(found)<np.median([rmsd(grid_reconstruction(x), x) for x in cas])
    assert rotation_agreement(tok, cas)>=0.99

def held_out_3di(db, clusters):
    "Held-out proteins with their letters as numbers, as the embedded 3Di model's training held them out"
    val = select(db, '3di', clusters, 0.05, 400)[1]
    return ProteinRows(db, minimal_vocab('3di')).proteins(val.keys)

def test_embedded_3di_model():
    "Small, of the default form, and on the demo's held-out proteins far above what is known without a model"
    predictor, (db, _) = Predictor.from_pretrained('3di'), demo()
    held, figures = held_out_3di(db, f'{demo_db()}.clusters.tsv'), predictor.about['measured']['tokens']
    assert sum(f.stat().st_size for f in MODELS['3di'].iterdir())<8e6 and predictor.model.config.translator==NEW_FORMS['3di'] and len(held)>50
    read, written = (summary(free_running(predictor, held, method=m)[0]) for m in ('read', 'write'))
    assert abs(read['token_accuracy']-figures['free-running: read']['accuracy'])<0.03 and read['token_accuracy']>figures['reference: linear +-7']['accuracy']+0.05
    assert abs(written['token_accuracy']-figures['free-running: written']['accuracy'])<0.04 and written['token_accuracy']>figures['reference: 3-mer']['accuracy']
    assert teacher_forced(predictor.model, predictor.vocab, held)['nats']<1.75
    for line in figures: assert f'| {line} |' in (MODELS['3di']/'README.md').read_text()

def test_embedded_3di_model_on_the_corpus():
    "What its card says of reading and of the loss, measured anew"
    corpus, predictor = shared('corpus')/'pdb', Predictor.from_pretrained('3di')
    held, figures = held_out_3di(PairedFoldseekDB(corpus), f'{corpus}.clusters.tsv'), predictor.about['measured']['tokens']
    found = teacher_forced(predictor.model, predictor.vocab, held)
    assert len(held)==867 and abs(found['nats']-figures['teacher-forced']['nats'])<1e-3 and found['nats']<=1.85
    assert abs(found['read_accuracy']-figures['free-running: read']['accuracy'])<1e-3 and found['read_accuracy']>figures['reference: linear +-7']['accuracy']+0.05
