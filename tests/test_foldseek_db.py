"Every database of ../shared/fixtures/foldseek, written by the real Foldseek, against the truth that the program printed"
import json, shutil, time
import numpy as np, pytest
from conftest import shared, SHARED
from structure_search.foldseek_db import *

TRUTHS = sorted(str(p.relative_to(SHARED/'fixtures/foldseek')) for p in (SHARED/'fixtures/foldseek').rglob('*.truth.json'))

@pytest.fixture(scope='session')
def databases(tmp_path_factory):
    "A copy of the databases in which links are links again (a checkout without symlinks leaves small files that hold the target's name)"
    folder = tmp_path_factory.mktemp('foldseek')/'foldseek'
    shutil.copytree(shared('fixtures/foldseek'), folder, symlinks=True)
    folder.chmod(0o755)
    for f in [f for f in folder.rglob('*') if f.is_file() and not f.is_symlink() and f.stat().st_size<100]:
        target = f.read_bytes()
        if target and b'\n' not in target and b'\0' not in target and (f.parent/target.decode()).is_file():
            f.parent.chmod(0o755); f.unlink(); f.symlink_to(target.decode())
    return folder

def test_the_fixtures_are_there(databases):
    assert len(TRUTHS)>=27 and any(f.is_symlink() for f in databases.rglob('*'))

@pytest.mark.parametrize('name', TRUTHS)
def test_agrees_with_foldseek(name, databases):
    truth = json.loads((databases/name).read_text())
    path = (databases/name).with_name(truth['db'])
    db, entries = PairedFoldseekDB(path), truth['entries']
    assert db.keys.dtype==np.uint32 and db.keys.tolist()==sorted(int(k) for k in entries)
    misread = 2 if name.startswith('short') else 0
    for key,e in entries.items():
        p = db[int(key)]
        assert p.key==int(key)
        if 'aa' in e: assert p.aa==e['aa'].upper()
        if 'ss' in e: assert p.ss==e['ss'].upper()
        if 'header' in e: assert p.header==e['header']
        if 'name' in e: assert p.name==e['name'], (p.name, e['name'])
        if e.get('ca_text') and len(p)>=misread:
            want = np.array([float(v) for v in e['ca_text'].split(',')]).reshape(3,-1).T
            np.testing.assert_allclose(p.ca, want, atol=1.0001e-3); assert p.ca.dtype==np.float32
        if e.get('ca_pdb') and len(p)>=misread: np.testing.assert_allclose(p.ca, np.array(e['ca_pdb'], float).T, atol=1.0001e-3)
        assert set(e)<={'aa','ss','header','name','fileno','source','ca_text','ca_pdb'}    # nothing that goes unchecked

def test_writing_gives_the_same_bytes(databases, tmp_path):
    "Rewriting a database of Foldseek's gives its files back, byte for byte (.source numbers files, which we don't know)"
    for name in ('plain', 'edge', 'diff'):
        write_db(tmp_path/name/'db', PairedFoldseekDB(databases/name/'db'))
        for ending in ('', '_ss', '_ca', '_h'):
            for kind in ('', '.index', '.dbtype'):
                assert (tmp_path/name/f'db{ending}{kind}').read_bytes()==(databases/name/f'db{ending}{kind}').read_bytes(), (name, ending, kind)

def broken(databases, tmp_path, name='plain'):
    shutil.copytree(databases/name, tmp_path/name, symlinks=True)
    return tmp_path/name/'db'

def read_all(path): return list(PairedFoldseekDB(path))

@pytest.mark.parametrize('part', ['', '_ss', '_ca', '_h'])
def test_truncated_data(databases, tmp_path, part):
    path = broken(databases, tmp_path)
    f = path.with_name(f'db{part}')
    f.write_bytes(f.read_bytes()[:-100])
    with pytest.raises(FoldseekFormatError, match=rf'db{part}: the index puts key \d+ .*truncated'): read_all(path)

def test_missing_data_file(databases, tmp_path):
    path = broken(databases, tmp_path); path.with_name('db_ca').unlink()
    with pytest.raises(FileNotFoundError, match='db_ca: no such data file.*download'): read_all(path)

def test_dangling_part(databases, tmp_path):
    shutil.copytree(databases/'clusearch', tmp_path/'c', symlinks=True)
    for f in list((tmp_path/'c').iterdir()): f.rename(f.with_name(f.name.replace('db', 'other', 1)))
    with pytest.raises(FoldseekFormatError, match='other_seq.0 is a link to db, which is not there'): PairedFoldseekDB(tmp_path/'c/other_seq')

def test_index_of_another_database(databases, tmp_path):
    path = broken(databases, tmp_path)
    index = path.with_name('db.index')
    lines = index.read_text().splitlines()
    k,o,n = lines[3].split('\t')
    lines[3] = f'{k}\t{int(o)+5}\t{n}'
    index.write_text('\n'.join(lines)+'\n')
    with pytest.raises(FoldseekFormatError, match='key 3 .*belong together'): read_all(path)

def test_parts_of_different_lengths(databases, tmp_path):
    path = broken(databases, tmp_path)
    index = path.with_name('db_ss.index')
    lines = index.read_text().splitlines()
    lines[0], lines[1] = '0'+lines[1][1:], '1'+lines[0][1:]
    index.write_text('\n'.join(lines)+'\n')
    with pytest.raises(FoldseekFormatError, match='key 0 has 39 residues but 247 3Di'): read_all(path)

def test_a_part_that_lacks_keys(databases, tmp_path):
    path = broken(databases, tmp_path)
    index = path.with_name('db_ca.index')
    index.write_text(''.join(index.read_text().splitlines(True)[:10]))
    db = PairedFoldseekDB(path)
    assert db.having('ca').sum()==10 and db.having('ss').all() and db[20].ca is None and db[20].ss is not None and db[9].ca is not None

def test_without_optional_parts(databases, tmp_path):
    path = broken(databases, tmp_path)
    for f in path.parent.glob('db_*'): f.unlink()
    p = PairedFoldseekDB(path)[2]
    assert p.ss is None and p.ca is None and p.name=='1tim_B'
    path.with_name('db.lookup').unlink()
    assert PairedFoldseekDB(path)[2].name=='2'
    with pytest.raises(FileNotFoundError, match='_ca is not there'): PairedFoldseekDB(path).having('ca')

def test_damaged_compressed_entry(databases, tmp_path):
    path = broken(databases, tmp_path, 'compressed')
    f = path.with_name('db')
    raw = bytearray(f.read_bytes()); raw[200:260] = bytes(60)
    f.write_bytes(raw)
    with pytest.raises(FoldseekFormatError, match='db: key'): read_all(path)

def test_decompression_is_bounded(databases, tmp_path):
    "An entry that says 10 bytes and holds 100 MB is refused without being unpacked"
    import zstandard
    frame = zstandard.ZstdCompressor().compress(b'A'*100_000_000)
    (tmp_path/'z').write_bytes(len(frame).to_bytes(4, 'little')+frame+b'\0')
    (tmp_path/'z.index').write_text('0\t0\t10\n'); (tmp_path/'z.dbtype').write_bytes(b'\0\0\0\x80')
    with pytest.raises(FoldseekFormatError, match='more than 9 bytes'): FoldseekDB(tmp_path/'z')[0]

@pytest.mark.parametrize('text', ['a\t0\t5\n', '0\t0\n', '0\t0\t5\t7\n', '-1\t0\t5\n', '5000000000\t0\t5\n', '0 0 5\n', '0\t0\t5\n0\t9\t5\n', '0\t0\t1.5\n'])
def test_bad_index_lines(tmp_path, text):
    (tmp_path/'x.index').write_text(text)
    with pytest.raises(FoldseekFormatError, match='x.index'): read_index(tmp_path/'x.index')

def test_hostile_index_numbers(tmp_path):
    "Offsets and lengths beyond the data are refused, whatever their size"
    (tmp_path/'x').write_bytes(b'ACD\n\0'); (tmp_path/'x.dbtype').write_bytes(bytes(4))
    for offset,length in ((2**63, 5), (0, 2**40), (2**64-1, 2**32)):
        (tmp_path/'x.index').write_text(f'0\t{offset}\t{length}\n')
        with pytest.raises(FoldseekFormatError, match='truncated|16 digits|32 bits'): FoldseekDB(tmp_path/'x')[0]

@pytest.mark.parametrize('L', [1, 2, 3, 50])
@pytest.mark.parametrize('scale', [1, 20, 1000])
def test_coordinates_round_trip(L, scale):
    ca = np.random.default_rng(L).normal(size=(L,3)).astype(np.float32)*scale
    np.testing.assert_allclose(decode_ca(encode_ca(ca)), ca, atol=6e-4)

def test_writer_leaves_nothing_behind(tmp_path):
    p = Protein(1, 'a', 'a', 'GAV', 'DVD', np.zeros((3,3), np.float32))
    with pytest.raises(ValueError, match='no protein was written'): write_db(tmp_path/'x', [])
    with pytest.raises(ValueError, match='already there'): write_db(tmp_path/'x', [p, p])
    with pytest.raises(ValueError, match='3 residues but 2'): write_db(tmp_path/'x', [Protein(1, 'a', 'a', 'GAV', 'DV')])
    assert not list(tmp_path.iterdir())

def test_writer_replaces_the_whole_database(tmp_path):
    "Parts and split data files of the database that stood there must not be read as the new one's; neighbours and the targets of links stay"
    ca = np.ones((3,3), np.float32)
    write_db(tmp_path/'x', [Protein(1, 'a', 'a', 'GAV', 'DVD', ca)]); write_db(tmp_path/'x_more', [Protein(1, 'n', 'n', 'GAV', 'DVD', ca)])
    (tmp_path/'x').rename(tmp_path/'real'); (tmp_path/'x.0').symlink_to(tmp_path/'real'); (tmp_path/'x_mapping').write_text('1\t9606\n')
    assert PairedFoldseekDB(tmp_path/'x')[1].aa=='GAV'
    new = write_db(tmp_path/'x', [Protein(1, 'b', 'b', 'WWW')])
    assert (new[1].aa, new[1].ss, new[1].ca, new[1].name)==('WWW', None, None, 'b')
    assert PairedFoldseekDB(tmp_path/'x_more')[1].ca is not None and (tmp_path/'real').exists()
    assert not [f.name for f in tmp_path.iterdir() if f.name.startswith(('x_ca','x_ss','x.0','x_mapping'))]

def test_writer_keeps_lines_and_case(tmp_path):
    db = write_db(tmp_path/'x', [Protein(1, 'a\tb\nc d', 'one\r\ntwo\0\tthree', 'gaV', 'dvd')])
    assert Lookup(tmp_path/'x.lookup').get(1)=='a_b_c_d'
    assert (tmp_path/'x').read_bytes()==b'GAV\n\0' and (tmp_path/'x_ss').read_bytes()==b'DVD\n\0'
    assert db[1].header=='one  two \tthree'

def test_headers_keep_their_case_and_other_databases_are_refused(databases):
    headers = FoldseekDB(databases/'edge/db_h')
    assert 'e_title A title with' in headers[13]
    with pytest.raises(FoldseekFormatError, match='says type 6'): PairedFoldseekDB(databases/'clu/db')

def test_empty_entries(tmp_path):
    "A padded entry of no residues at the end of the file, and index lengths of 0 and 1"
    (tmp_path/'x').write_bytes(b'MKT\n\0'); (tmp_path/'x.index').write_text('0\t0\t5\n1\t5\t0\n2\t4\t1\n'); (tmp_path/'x.dbtype').write_bytes(bytes(4))
    db = FoldseekDB(tmp_path/'x')
    assert [db[k] for k in (0, 1, 2)]==['MKT', '', ''] and db.residues().tolist()==[3, 0, 0]
    (tmp_path/'p').write_bytes(bytes([2, 17, 17, 2])); (tmp_path/'p.index').write_text('0\t0\t6\n1\t4\t2\n'); (tmp_path/'p.dbtype').write_bytes((1<<19).to_bytes(4, 'little'))
    assert [FoldseekDB(tmp_path/'p')[k] for k in (0, 1)]==['DVVD', '']

def test_a_part_without_its_index(databases, tmp_path):
    copy = tmp_path/'db'; shutil.copytree(databases/'plain', copy, symlinks=True)
    (copy/'db_ca.index').unlink()
    db = PairedFoldseekDB(copy/'db')            # as a known copy of AFDB50: what needs no coordinates works
    assert db[int(db.keys[0])].ss
    with pytest.raises(FileNotFoundError, match=r'db_ca\.index is missing, though .*db_ca is there'): db.having('ca')

def test_looking_up_a_key_does_not_depend_on_the_size():
    def seconds(n):
        keys = np.arange(n, dtype=np.uint32); index = Index(keys, keys.astype(np.uint64), keys.astype(np.uint64))
        def once():
            t = time.perf_counter()
            for k in range(0, n, n//200): index.row(k)
            return time.perf_counter()-t
        return min(once() for _ in range(5))
    assert seconds(5_000_000)<30*seconds(1000)         # in proportion to the size it would be 5,000 times

@pytest.mark.parametrize('name', TRUTHS)
def test_batches_equal_single_reads(name, databases):
    "In any order, with repeats, whatever the form of the database"
    db = PairedFoldseekDB((databases/name).with_name(json.loads((databases/name).read_text())['db']))
    keys = np.random.default_rng(0).choice(db.keys, 2*len(db)+1)
    batch = db.batch(keys)
    assert len(batch)==len(keys) and batch.aa.flags.c_contiguous and batch.offsets[-1]==len(batch.aa)
    for key,p in zip(keys.tolist(), batch):
        q = db[key]
        assert (p.key, p.name, p.header, p.aa, p.ss)==(q.key, q.name, q.header, q.aa, q.ss)
        assert (p.ca is None)==(q.ca is None) and (q.ca is None or np.array_equal(p.ca, q.ca, equal_nan=True) and p.ca.dtype==np.float32)
    for part in (db.aa, db.ss, db.ca, db.h):
        if part is None: continue
        for got,key in zip(part.batch(keys[:9]), keys[:9].tolist()): assert np.array_equal(got, part[key], equal_nan=True) if part is db.ca else got.tobytes().decode('latin-1' if part is not db.h else 'utf-8')==part[key]

def test_the_plain_decoder_by_hand():
    "Both forms, one byte at a time"
    import struct
    raw = b''.join(struct.pack('<ihh', start, 100, -30000) for start in (-5, 70000, 2**31-1))+b'\x7f'
    want = np.array([[-5, 95, -29905], [70000, 70100, 40100], [2**31-1, -2**31+99, 2**31-29901]])   # sums wrap at 32 bits, as in the program
    np.testing.assert_array_equal(decode_ca(raw), (want.T/1000).astype(np.float32))
    assert decode_ca(bytes(7)).shape==(0,3)==decode_ca(b'').shape and decode_ca(bytes(1)).shape==(0,3)

def test_a_subset_is_what_foldseek_makes(databases, tmp_path):
    plain, theirs = PairedFoldseekDB(databases/'plain/db'), PairedFoldseekDB(databases/'subset/db')
    ours = write_subset(tmp_path/'some', plain, [11, 3, 20, 7])
    assert ours.keys.tolist()==theirs.keys.tolist()
    for part in ('aa', 'ss', 'ca', 'h'):
        for key in theirs.keys.tolist(): assert getattr(ours, part)._payload(key)==getattr(theirs, part)._payload(key)
    for name in ('float', 'compressed', 'padded', 'mask', 'split_z', 'edge'):          # every form can be copied
        db = PairedFoldseekDB(databases/name/'db')
        for p,q in zip(write_subset(tmp_path/name, db, db.keys[1::3]), db.batch(db.keys[1::3]), strict=True):
            assert (p.key, p.name, p.header, p.aa, p.ss)==(q.key, q.name, q.header, q.aa, q.ss) and np.array_equal(p.ca, q.ca)

def big_index(path, n=100_000, step=3):
    keys = np.arange(n)*step
    path.write_text(''.join(f'{k}\t{9*i}\t9\n' for i,k in enumerate(keys.tolist())))
    return keys

def test_columns_are_left_and_found(tmp_path, monkeypatch):
    "Beside the database; in the user's cache folder where that can't be; nowhere, and it still works"
    from structure_search import foldseek_index as fi
    keys, p = big_index(tmp_path/'db.index'), tmp_path/'db.index'
    beside, at_home = fi.cache_files(p)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    at_home = fi.cache_files(p)[1]
    assert np.array_equal(fi.open_index(p).keys, keys) and beside.exists() and not at_home.exists()
    assert beside.stat().st_size<=20*len(keys) and (beside.stat().st_mode&0o777)==(p.stat().st_mode&0o666|0o600)
    with monkeypatch.context() as m:
        m.setattr(fi, 'text_blocks', lambda _: pytest.fail('the text was read again'))
        assert np.array_equal(fi.open_index(p).keys, keys)
    beside.unlink()
    import os
    for name,age in (('killed', 7200), ('at work', 5)):                 # what a killed process left is taken away, another's work is not
        f = tmp_path/f'.db.index.columns.{name}'; f.write_bytes(b'x'); os.utime(f, (time.time()-age,)*2)
    fi.open_index(p)
    assert [f.name for f in tmp_path.glob('.*')]==['.db.index.columns.at work']
    f.unlink(); beside.unlink()
    save = fi._save
    def refuse(where):
        def refused(file, *args):
            if where(file): raise PermissionError(f'{file}: no')
            save(file, *args)
        return refused
    monkeypatch.setattr(fi, '_save', refuse(lambda f: f==beside))
    assert np.array_equal(fi.open_index(p).keys, keys) and at_home.exists() and not beside.exists()
    at_home.unlink()
    monkeypatch.setattr(fi, '_save', refuse(lambda f: True))
    assert np.array_equal(fi.open_index(p).keys, keys) and not at_home.exists()
    assert not [f for f in tmp_path.rglob('.*')]

def test_two_processes_open_at_once(tmp_path):
    "Each finds what it needs, and one whole file of columns stays"
    import subprocess, sys
    keys = big_index(tmp_path/'db.index', 300_000)
    code = f'from structure_search.foldseek_index import open_index; ix = open_index({str(tmp_path/"db.index")!r}); print(len(ix), ix.offsets[-1])'
    runs = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {r.communicate()[0].strip() for r in runs}=={f'{len(keys)} {9*(len(keys)-1)}'}
    assert sorted(f.name for f in tmp_path.iterdir())==['db.index', 'db.index.columns']

def test_shards_are_one_database(databases, tmp_path):
    "Written by three and joined: the same proteins, in split data files"
    plain = PairedFoldseekDB(databases/'plain/db')
    for i in (2, 0, 1):
        with FoldseekDBWriter(tmp_path/'db', shard=i, shards=3) as w:
            for p in plain.batch(plain.keys[i::3]): w.write(p)
    join_shards(tmp_path/'db', 3)
    db = PairedFoldseekDB(tmp_path/'db')
    assert len(db.aa.parts)==3 and db.keys.tolist()==plain.keys.tolist()
    for p,q in zip(db, plain): assert (p.name, p.header, p.aa, p.ss)==(q.name, q.header, q.aa, q.ss) and np.array_equal(p.ca, q.ca)
    assert {k:db.names.get(k) for k in db.keys}=={k:plain.names.get(k) for k in db.keys}
    assert not [f for f in tmp_path.iterdir() if f.name.startswith('.')]
    for i in range(2):
        with FoldseekDBWriter(tmp_path/'twice', shard=i, shards=2) as w: w.write(plain[5])
    with pytest.raises(ValueError, match='key 5 was written by two shards'): join_shards(tmp_path/'twice', 2)
    with pytest.raises(ValueError, match='shard 2 of 2'): FoldseekDBWriter(tmp_path/'x', 2, 2)

def test_databases_of_ours_are_read_by_mmseqs(databases, tmp_path):
    "MMseqs2 shares the format's reader with Foldseek, and distributions have it as a package"
    import subprocess, warnings
    if not shutil.which('mmseqs'): warnings.warn('SKIPPED: mmseqs is not installed; nothing but our own reader read our databases'); pytest.skip('mmseqs is not on PATH')
    def mmseqs(*args): assert subprocess.run(['mmseqs', *map(str, args)], capture_output=True).returncode==0, args
    plain = PairedFoldseekDB(databases/'plain/db')
    write_subset(tmp_path/'ours', plain, plain.keys[3:20])
    for part in ('', '_ss'):
        mmseqs('convert2fasta' if not part else 'prefixid', tmp_path/f'ours{part}', tmp_path/f'out{part}', *(['--tsv', 1] if part else []))
    assert (tmp_path/'out').read_text()==''.join(f'>{p.header}\n{p.aa}\n' for p in plain.at(slice(3, 20)))
    assert [l.split('\t')[1] for l in (tmp_path/'out_ss').read_text().splitlines()]==[p.ss for p in plain.at(slice(3, 20))]
    mmseqs('compress', tmp_path/'ours', tmp_path/'packed')
    (tmp_path/'list').write_text('5\n4\n')
    mmseqs('createsubdb', tmp_path/'list', tmp_path/'ours', tmp_path/'two')
    assert [FoldseekDB(tmp_path/'packed')[k] for k in (5, 9)]==[plain.aa[5], plain.aa[9]] and FoldseekDB(tmp_path/'two').keys.tolist()==[4, 5]

def test_clusters_are_entries_too(databases):
    "A cluster database has the members' keys under the representative's"
    clusters, table = FoldseekDB(databases/'clu/db'), [line.split('\t') for line in (databases/'clu/db.tsv').read_text().splitlines()]
    names = PairedFoldseekDB(databases/'plain/db').names
    assert {(names.get(rep), names.get(int(member))) for rep in clusters.keys for member in clusters[rep].split()}=={tuple(row[:2]) for row in table}

@pytest.mark.parametrize('name', TRUTHS)
def test_the_programs_databases_are_in_order(name, databases):
    from structure_search.foldseek_check import verify
    found = verify((databases/name).with_name(json.loads((databases/name).read_text())['db']), sample=None)
    assert found and found.decoded, str(found)

@pytest.mark.parametrize('damage,says', [('cut _ca', 'db_ca: the data ends'), ('no _ca.index', 'db_ca.index: no such index'), ('no key', 'db_ss lacks 1 (key 33)'), ('swap', 'residues, but'), ('letter', "sequence holds '1'"),
                                         ('dbtype', 'db.dbtype is missing'), ('other bytes', 'bad entry: key 3: '), ('across', 'lie across each other'), ('lookup', 'db.lookup, line 2')])
def test_what_verify_finds(databases, tmp_path, damage, says, capsys):
    from structure_search.db_cli import main
    db = broken(databases, tmp_path)
    f = lambda end: db.with_name(f'db{end}')
    lines = lambda end: f(end).read_text().splitlines(True)
    if damage=='cut _ca': f('_ca').write_bytes(f('_ca').read_bytes()[:-4000])
    if damage=='no _ca.index': f('_ca.index').unlink()
    if damage=='no key': f('_ss.index').write_text(''.join(lines('_ss.index')[:-1]))
    if damage=='swap': f('_ss.index').write_text(''.join(f'{2-int(k) if int(k)<3 else k}\t{o}\t{n}' for k,o,n in (l.split('\t') for l in lines('_ss.index'))))
    if damage=='letter': f('').write_bytes(f('').read_bytes().replace(b'GL', b'G1', 1))
    if damage=='dbtype': f('.dbtype').unlink()
    if damage=='other bytes': f('_ca.index').write_text(''.join(l if i!=3 else l.replace(l.split('\t')[1], str(int(l.split('\t')[1])-100)) for i,l in enumerate(lines('_ca.index'))))
    if damage=='across': f('.index').write_text(''.join(l if i!=3 else l.replace('\t539\t', '\t500\t') for i,l in enumerate(lines('.index'))))
    if damage=='lookup': f('.lookup').write_text(lines('.lookup')[0]+'nonsense\n')
    assert main(['verify', str(db), '--full', '--bad', str(tmp_path/'bad.txt')])==1
    assert says in capsys.readouterr().out
    for line in (tmp_path/'bad.txt').read_text().splitlines(): assert line.split('\t')[0].isdigit()
