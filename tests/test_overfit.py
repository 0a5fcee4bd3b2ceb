"The whole chain in small: six proteins, learnt by heart in under a minute, come back from their sequences alone, token by token, read and written, in both alphabets."
import json, time
import numpy as np, pytest
from structure_search import train, train_kanzi
from structure_search.foldseek_db import PairedFoldseekDB, demo_db, write_db
from structure_search.kanzi_tokenizer import KanziTokenizer
from structure_search.metrics import rmsd
from structure_search.predict import Predictor

@pytest.fixture(scope='module')
def six(tmp_path_factory):
    "A database of six chains of 40-60 residues"
    demo = PairedFoldseekDB(demo_db())
    short = demo.keys[(demo.residues()>=40)&(demo.residues()<=60)]
    return write_db(tmp_path_factory.mktemp('six')/'six', [demo[int(k)] for k in short[:6]])

FLAGS = '--model-name nano --num-epochs 1000 --max-steps 250 --batch-size 1 --gradient-accumulation-steps 2 --learning-rate 5e-3 --val-fraction 0 --eval-interval 0 --rmsd-eval-interval 0 --save-interval 0'.split()

@pytest.mark.parametrize('alphabet', ['3di', 'kanzi'])
def test_overfit(six, tmp_path, alphabet):
    main, more = (train.main, []) if alphabet=='3di' else (train_kanzi.main, ['--kanzi-checkpoint', 'mini'])
    began = time.perf_counter()
    assert main(['--db-path', str(six.path), '--output-dir', str(tmp_path/'out'), *FLAGS, *more])==0
    assert time.perf_counter()-began<60
    predictor, proteins = Predictor.from_pretrained(tmp_path/'out'), [*six]
    tok = None if alphabet=='3di' else KanziTokenizer.from_pretrained('mini')
    for method in ('read', 'write') if tok is None else ('write',):         # Kanzi tokens are only written, by default
        for p,g in zip(proteins, predictor([p.aa for p in proteins], method=method)):
            if tok is None: assert g.ss==p.ss, method
            else: assert np.array_equal(g.tokens, tok.encode(p.ca)) and abs(rmsd(g.ca, p.ca)-rmsd(tok.decode(g.tokens), p.ca))<0.1, method
    if tok is None: return
    last = {k:v for line in open(tmp_path/'out'/'metrics.jsonl') for k,v in json.loads(line).items()}
    assert last['sample_token_accuracy']==1 and last['sample_valid']==1 and last['rmsd_median']<2
