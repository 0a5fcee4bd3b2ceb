"Databases that we make of structure files against those that Foldseek made of the same files, and of files that are none"
import gzip, tarfile
import pytest
from conftest import shared
from structure_search.create_db import create_db
from structure_search.createdb import main
from structure_search.foldseek_db import PairedFoldseekDB

ENDINGS = [f'{part}{kind}' for part in ('', '_ss', '_ca', '_h') for kind in ('', '.index', '.dbtype')]+['.lookup', '.source']

@pytest.fixture
def structures(): return shared('fixtures/foldseek/structures')

def differing(ours, theirs): return [e for e in ENDINGS if ours.with_name(f'db{e}').read_bytes()!=(theirs/f'db{e}').read_bytes()]

@pytest.mark.parametrize('processes', [1, 2])
def test_the_same_bytes_as_foldseek(structures, tmp_path, processes):
    report = create_db(tmp_path/'db', structures/'plain', processes)
    assert differing(tmp_path/'db', structures.parent/'plain')==[] and (report.proteins, report.files, report.bad)==(34, 32, [])

def test_edge_cases_but_for_chains_without_backbone(structures, tmp_path):
    report = create_db(tmp_path/'db', structures/'edge', 1)
    assert differing(tmp_path/'db', structures.parent/'edge')==['_ss']
    ours, theirs = PairedFoldseekDB(tmp_path/'db'), PairedFoldseekDB(structures.parent/'edge/db')
    assert [p.name for p in theirs if p.ss!=ours[p.key].ss]==['e_caonly']==report.without_backbone
    assert len(report.left_out)==2

@pytest.mark.parametrize('kind', ['tar', 'tar.gz', 'tgz', 'folder of .gz'])
def test_archives(structures, tmp_path, kind):
    files = [structures/f for f in ('plain/d3mkbb_', 'edge/e_dna.pdb', 'plain/1s7mB01.pdb', 'plain/d1asha_')]
    if kind.startswith('t'):
        given = tmp_path/f'three.{kind}'
        with tarfile.open(given, 'w:gz' if kind.endswith('gz') else 'w') as t:
            for f in files: t.add(f, f.name)
    else:
        given = tmp_path/'folder'; given.mkdir()
        for f in files: (given/f'{f.name}.gz').write_bytes(gzip.compress(f.read_bytes()))
    create_db(tmp_path/'db', given, 2)
    assert differing(tmp_path/'db', structures.parent/'tar')==[]

def test_bad_files_are_named(structures, tmp_path, capsys):
    folder = tmp_path/'in'; folder.mkdir()
    good = (structures/'plain/d1asha_').read_bytes()
    (folder/'a.pdb').write_bytes(good)
    (folder/'cut.pdb.gz').write_bytes(gzip.compress(good)[:-500])
    (folder/'empty.cif').write_bytes(b'')
    (folder/'noise.cif').write_bytes(bytes(range(256))*50)
    (folder/'text.pdb').write_text('not a structure\n')
    with tarfile.open(folder/'x.tar', 'w') as t: t.add(folder/'text.pdb', 'inner.pdb')
    assert main([str(folder), str(tmp_path/'db'), '--processes', '2', '--bad', str(tmp_path/'bad.txt')])==1
    bad = (tmp_path/'bad.txt').read_text()
    for name in ('cut.pdb.gz', 'empty.cif', 'noise.cif', 'text.pdb', 'x.tar:inner.pdb'): assert name in bad
    assert len(PairedFoldseekDB(tmp_path/'db'))==1 and '5 files could not be read' in capsys.readouterr().out
    (tmp_path/'cut.tar').write_bytes((folder/'x.tar').read_bytes()[:700])
    assert main([str(tmp_path/'cut.tar'), str(tmp_path/'none')])==2 and 'cut.tar' in capsys.readouterr().err
    assert main([str(folder/'text.pdb'), str(tmp_path/'none')])==2 and 'text.pdb' in capsys.readouterr().err
    assert not list(tmp_path.glob('none*')) and not list(tmp_path.glob('.*'))

def test_a_forgotten_name_costs_no_file(structures, tmp_path, capsys):
    for name in ('d1asha_', 'd1mbaa_'): (tmp_path/name).write_bytes((structures/'plain'/name).read_bytes())
    assert main([str(tmp_path/'d1asha_'), str(tmp_path/'d1mbaa_')])==2 and 'it is not replaced' in capsys.readouterr().err
    assert main([str(tmp_path/'d1asha_'), str(tmp_path)])==2
    assert sorted(f.name for f in tmp_path.iterdir())==['d1asha_', 'd1mbaa_'] and (tmp_path/'d1mbaa_').read_bytes()==(structures/'plain/d1mbaa_').read_bytes()

def test_a_bomb_is_refused(tmp_path, monkeypatch):
    import structure_search.create_db, structure_search.structure
    for module in (structure_search.create_db, structure_search.structure): monkeypatch.setattr(module, 'LARGEST', 1<<20)
    (tmp_path/'in').mkdir(); (tmp_path/'in'/'bomb.pdb.gz').write_bytes(gzip.compress(bytes(1<<22)))
    with tarfile.open(tmp_path/'in'/'x.tar', 'w') as t: t.add(tmp_path/'in'/'bomb.pdb.gz', 'bomb.pdb.gz')
    with pytest.raises(ValueError, match=r'2 files could not be read.*over 1,048,576 bytes unpacked.*over 1,048,576 bytes unpacked'): create_db(tmp_path/'db', tmp_path/'in', 1)
