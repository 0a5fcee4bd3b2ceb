"ss_search: what is handed to foldseek, what becomes of its answers and of its failures."
import json, stat, sys
from pathlib import Path
import numpy as np, pytest
from structure_search.foldseek_db import PairedFoldseekDB, demo_db
from structure_search.predict import Prediction
from structure_search.search import COLUMNS, Hits, find_foldseek, main, search

RECORDER = f'''#!{sys.executable}
import json, shutil, sys
from pathlib import Path
a, here = sys.argv[1:], Path(__file__).parent
with open(here/'calls.jsonl', 'a') as f: f.write(json.dumps(a)+'\\n')
if a[0]=='search':
    for f in Path(a[1]).parent.glob('q*'): shutil.copy(f, here/'seen'/f.name)
elif a[0]=='convertalis': Path(a[4]).write_text((here/'answer.tsv').read_text())
'''

@pytest.fixture
def recorder(tmp_path):
    "A program that keeps what it is given, and answers what it is told"
    (tmp_path/'seen').mkdir()
    program = tmp_path/'foldseek'
    program.write_text(RECORDER); program.chmod(0o755)
    (tmp_path/'answer.tsv').write_text('')
    return program

def calls(program): return [json.loads(x) for x in (program.parent/'calls.jsonl').read_text().splitlines()]

def test_what_foldseek_is_given(recorder):
    "The minimal set of files, byte by byte: keys, lengths, types, upper case, line ends"
    p = Prediction('mktay*', np.zeros(6, np.int64), np.ones(6, np.float32), ss='DVPDLD')
    assert search({'odd name >|\t': p}, demo_db(), foldseek=recorder, evalue=0.5, most=7, threads=2, options=['-s', '9'])==[]
    seen = recorder.parent/'seen'
    assert (seen/'q').read_bytes()==b'MKTAYX\n\0' and (seen/'q_ss').read_bytes()==b'DVPDLD\n\0' and (seen/'q_h').read_bytes()==b'0\n\0'
    assert [(seen/f'{x}.dbtype').read_bytes().hex() for x in ('q', 'q_ss', 'q_h')]==['00000000', '00000000', '0c000000']
    assert [(seen/f'{x}.index').read_text() for x in ('q', 'q_ss', 'q_h')]==['0\t0\t8\n', '0\t0\t8\n', '0\t0\t3\n'] and not (seen/'q_ca').exists()
    first, second = calls(recorder)
    assert first[0]=='search' and first[2]==str(demo_db()) and first[5:]==['-a', '1', '-e', '0.5', '--max-seqs', '7', '--threads', '2', '-s', '9']
    assert second[0]=='convertalis' and second[-4:]==['--format-output', ','.join(COLUMNS), '--threads', '2'] and second[1:4]==first[1:4]

def test_coordinates_are_handed_on_with_their_letters(recorder):
    p = PairedFoldseekDB(demo_db()).at(3)
    search(Prediction(p.aa, np.zeros(len(p), np.int64), np.ones(len(p), np.float32), ca=p.ca), demo_db(), foldseek=recorder)
    q = PairedFoldseekDB(recorder.parent/'seen'/'q')[0]
    assert np.abs(q.ca-p.ca).max()<2e-3 and np.mean([a==b for a,b in zip(q.ss, p.ss)])>0.75       # letters of a rebuilt backbone

def test_answers_are_read_in_order(recorder):
    p = PairedFoldseekDB(demo_db()).at(0)
    line = lambda q, t, e, b: f'{q}\t{t}\t{e}\t{b}\t0.5\t4\t1\t4\t{len(p)}\t1\t4\t{len(p)}\t4M\t{t} a\ttitle\n'
    (recorder.parent/'answer.tsv').write_text(line(1, p.name, '1E-3', 10)+line(0, 'x', '2.0E+00', 5)+line(0, p.name, '1E-20', 50))
    hits = search({'a':'MKTAYI', 'b':'GAVLKG'}, demo_db(), foldseek=recorder)
    assert [(h.query, h.target, h.evalue) for h in hits]==[('a', p.name, 1e-20), ('a', 'x', 2.0), ('b', p.name, 1e-3)]
    assert len(Hits(hits).tsv().splitlines())==4 and 'a title' in str(Hits(hits)) and all(h.rmsd is None for h in hits)
    (recorder.parent/'answer.tsv').write_text('0\tx\n')
    with pytest.raises(ValueError, match='a line of 2 columns'): search('MKTAYI', demo_db(), foldseek=recorder)

def test_titles_cannot_break_out_of_the_table(recorder):
    (recorder.parent/'answer.tsv').write_text('0\tt\t1E-3\t10\t0.5\t4\t1\t4\t6\t1\t4\t9\t4M\tt <script>alert(1)</script>\n')
    assert '<script>' not in search('MKTAYI', demo_db(), foldseek=recorder)._repr_html_()

def test_messages(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(FileNotFoundError, match='not on the PATH.*conda install'): find_foldseek()
    assert main(['MKTAYI', str(demo_db())])==2 and 'conda install' in capsys.readouterr().err
    fake = tmp_path/'foldseek'
    fake.write_text('#!/bin/sh\nexit 0\n'); fake.chmod(0o755)
    assert find_foldseek()==str(fake)
    assert main(['MKTAYI', str(tmp_path/'nothing')])==2 and 'ss_createdb' in capsys.readouterr().err
    assert main(['MK1', str(demo_db())])==2 and 'no sequence' in capsys.readouterr().err

def test_bad_records_are_named(recorder, tmp_path, capsys):
    (tmp_path/'some.fasta').write_text('>a\nMKTAYIAK\n>b\nM-K\n>a\nGAVLKG\n')
    assert main([str(tmp_path/'some.fasta'), str(demo_db()), '--foldseek', str(recorder), '--output', str(tmp_path/'hits.tsv')])==1
    said = capsys.readouterr()
    assert 'record 2 (b)' in said.err and 'a.3: 0 hits' in said.out and (tmp_path/'hits.tsv').read_text().startswith('query\ttarget')

def test_a_part_of_a_database_is_searched_not_the_whole(recorder, tmp_path, monkeypatch):
    "Soft subsets are links to the whole database's data; and a program may be named from here"
    for f in demo_db().parent.glob('demo*'): (tmp_path/f.name.replace('demo', 'soft')).symlink_to(f)
    monkeypatch.chdir(tmp_path)
    search('MKTAYI', 'soft', foldseek='./foldseek')
    assert calls(recorder)[0][2]==str(tmp_path/'soft')
