"Training tokenizers: both forms, both poses, going on after a stop"
import json, pytest
import numpy as np
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.kanzi_model import read_metadata
from structure_search.kanzi_tokenizer import KanziTokenizer
from structure_search.train_tokenizer import main

SMALL = f'--db-path {demo_db()} --clusters {demo_db()}.clusters.tsv --width 16 --layers 1 --minutes 0.03'.split()

@pytest.mark.parametrize('more', ['', '--conditioning cat --regress 0 --levels 8,5,5,5', '--pose as-is --levels 4,4'])
def test_forms_and_poses(tmp_path, more, monkeypatch):
    monkeypatch.setattr('structure_search.tokenizer_training.TRIED', [dict(sampler='flow', n_steps=1), dict(sampler='flow', n_steps=2, start='noise')])
    out = tmp_path/'t.safetensors'
    assert main([*SMALL, '--output', str(out), *more.split()])==0
    tok, card = KanziTokenizer.from_pretrained(out), read_metadata(out)['card']
    ca = next(iter(PairedFoldseekDB(demo_db()))).ca
    assert np.isfinite(tok.decode(tok.encode(ca))).all() and card['steps']>0 and len(card['samplers'])==2 and card['rmsd_median']>0
    assert card['training']['pose']==('as-is' if 'as-is' in more else 'canonical') and tok.model.cfg.conditioning_type==('cat' if 'cat' in more else 'add')
    assert tok.n_codes==(16 if '4,4' in more else 1000)

def test_going_on(tmp_path, capsys):
    out = tmp_path/'t.safetensors'
    assert main([*SMALL, '--output', str(out)])==0
    first = read_metadata(out)['card']['steps']
    assert main([*SMALL, '--output', str(out), '--resume', '--minutes', '0.06'])==0
    assert read_metadata(out)['card']['steps']>first
    assert main([*SMALL, '--output', str(out), '--resume', '--learning-rate', '0.1'])==2 and 'another learning_rate' in capsys.readouterr().err
