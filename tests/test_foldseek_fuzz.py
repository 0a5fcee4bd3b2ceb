"Databases are untrusted input: whatever bytes the files hold, the readers give what a tiny, slow, obvious reader gives, or one clear error"
import re, struct, tempfile
from pathlib import Path
import numpy as np, pytest, zstandard
from hypothesis import HealthCheck, example, given, settings, strategies as st
from structure_search import foldseek_index
from structure_search.foldseek_db import *
from structure_search.foldseek_format import CA, COMPRESSED, PADDED

quick = settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
ROOT = '/dev/shm' if Path('/dev/shm').is_dir() else None

# --- the reference reader: files are a dict of name -> bytes

class Bad(ValueError): "The bytes are no database, or no entry"

def need(good):
    if not good: raise Bad

def number(field, digits): # decimal digits and nothing else
    need(re.fullmatch(rb'[0-9]{1,%d}' % digits, field))
    return int(field)

def reference_index(raw):
    "Text of an index -> dict of key -> (offset, length)"
    index = {}
    for line in raw.removesuffix(b'\n').split(b'\n') if raw else []:
        fields = line.split(b'\t')
        need(len(fields)==3)
        key, offset, length = (number(f, 16) for f in fields)
        need(key<2**32 and length<2**32 and key not in index)
        index[key] = offset, length
    return index

def reference_names(raw):
    "Text of a lookup -> dict of key -> name"
    names = {}
    for line in raw.split(b'\n'):
        if not line.strip(): continue
        m = re.fullmatch(rb'[ \t]*([0-9]+)(?:\t(?=\t)|[ \t]+)([^ \t\r]*)(?:[ \t\r].*)?', line)      # two tabs: no name between them
        need(m)
        key = number(m[1], 16)
        need(key<2**32 and key not in names)
        names[key] = m[2]
    return names

def reference_ca(raw):
    "Bytes of an entry -> bytes of float32 (L,3)"
    if len(raw)%12==0: axes = [[raw[i:i+4] for i in range(k*len(raw)//3, (k+1)*len(raw)//3, 4)] for k in range(3)]
    else:
        need(len(raw)%6==1)
        L, axes = (len(raw)-7)//6, [[], [], []]
        for k in range(3) if L>0 else ():
            axis = raw[k*(2*L+2):(k+1)*(2*L+2)]
            milli = struct.unpack('<i', axis[:4])[0]
            for step in (0, *struct.unpack(f'<{L-1}h', axis[4:])):
                milli = (milli+step+2**31)%2**32-2**31
                axes[k].append(struct.pack('<f', milli/1000))
    return b''.join(x+y+z for x,y,z in zip(*axes))

def reference_unpacked(raw):
    "Contents of zstd frames, one after another"
    out = b''
    while raw:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try: out += frame.decompress(raw)
        except zstandard.ZstdError: raise Bad from None
        raw = frame.unused_data
    return out

class Reference:
    "One database"
    def __init__(self, files, name, ca):
        need(f'{name}.index' in files)
        self.index, dbtype = reference_index(files[f'{name}.index']), files.get(f'{name}.dbtype', b'\x0c\0\0\0')
        need(len(dbtype)==4)
        self.dbtype = int.from_bytes(dbtype, 'little')
        n = 0
        while f'{name}.{n}' in files: n += 1
        need(n or f'{name}.1' not in files)
        need(n or name in files)
        self.parts, self.ca = [files[f'{name}.{i}'] for i in range(n)] or [files[name]], ca
        mine = [f'{name}.{i}' for i in range(n)] or [name]
        need(not any(part==other.encode() and other!=file for part,file in zip(self.parts, mine) for other in files))      # a link that became text
        need(not ca or self.dbtype&0xFFFF==CA)
        self.padded = not ca and self.dbtype&PADDED

    def stored(self, offset, n):
        "Bytes at an offset of the joined parts, all of one part"
        if n==0: return b''
        for part in self.parts:
            if offset<len(part):
                need(offset+n<=len(part))
                return part[offset:offset+n]
            offset -= len(part)
        raise Bad

    def raw(self, key):
        "An entry without its NUL"
        offset, length = self.index[key]
        size = max(length-(2 if self.padded else 1), 0)
        if not self.dbtype&COMPRESSED: return self.stored(offset, size)
        entry = self.stored(offset, 4+int.from_bytes(self.stored(offset, 4), 'little')+1)
        need(entry[-1] in (0, 255))
        out = entry[4:-1] if entry[-1]==255 else reference_unpacked(entry[4:-1])
        need(len(out)==size)
        return out

    def __getitem__(self, key):
        "Text as stored, or bytes of float32 coordinates"
        raw = self.raw(key)
        if self.ca: return reference_ca(raw)
        if not raw: return b''
        if self.padded:
            need(all(x<=20 or 32<=x<=52 for x in raw))
            return bytes(b'ACDEFGHIKLMNPQRSTVWYX'[x%32] for x in raw)
        need(raw.endswith(b'\n') and b'\0' not in raw)
        return raw[:-1]

# --- ours against the reference

def attempt(read, path=None):
    "What a call gives, or `Bad` for the errors that are allowed, which name the file"
    try: return read()
    except Bad: return Bad
    except (FoldseekFormatError, KeyError, FileNotFoundError) as e:
        assert path is None or str(path) in str(e), (str(path), str(e))
        return Bad

def place(folder, files):
    for name,raw in files.items(): (Path(folder)/name).write_bytes(raw)

def orders(keys): # of many keys: backwards, and some of them again
    return keys[::-1]+keys[:3]+keys[:1]

def plain(values, cls): # of one entry, as bytes
    if cls is not FoldseekCaDB: return values.tobytes()
    assert values.dtype==np.float32 and values.shape[1:]==(3,)
    return values.astype('<f4').tobytes()

def check(folder, files, cls, name='x', order=orders):
    "Hold one database equal to the reference: opening, each entry, batches"
    path, is_ca = Path(folder)/name, cls is FoldseekCaDB
    ref, db = attempt(lambda: Reference(files, name, is_ca)), attempt(lambda: cls(path), path)
    assert (ref is Bad)==(db is Bad), (ref, db)
    if db is Bad: return
    keys = sorted(ref.index)
    assert db.keys.dtype==np.uint32 and db.keys.tolist()==keys
    upper = not is_ca and ref.dbtype&0xFFFF==0
    want = {k: attempt(lambda: ref[k].upper() if upper else ref[k]) for k in keys}
    for k in keys:
        got = attempt(lambda: db[k], path)
        assert (got is Bad)==(want[k] is Bad), (k, got, want[k])
        if got is not Bad: assert plain(got, cls)==want[k] if is_ca else got==want[k].decode(*(('latin-1',) if upper else ('utf-8', 'replace'))), k
    good, lengths = [k for k in keys if want[k] is not Bad], dict(zip(keys, db.residues().tolist()))
    assert all(lengths[k]==len(want[k])//(12 if is_ca else 1) for k in good)
    for some in (good, order(good)):
        batch = db.batch(some)
        assert len(batch)==len(some) and [plain(batch[i], cls) for i in range(len(some))]==[want[k] for k in some]
    if len(good)<len(keys): assert attempt(lambda: db.batch(order(keys)), path) is Bad or set(order(keys))<=set(good)
    for absent in {0, 1, 2**32-1, 2**32, -1, *(k+1 for k in keys[:3])}-set(keys):
        assert absent not in db
        for read in (lambda: db[absent], lambda: db.batch([*good, absent])):
            with pytest.raises(KeyError, match=re.escape(str(path))): read()

def check_paired(folder, files, name='x', order=orders):
    "Hold a whole database equal to the reference: proteins one by one, and batches"
    path = Path(folder)/name
    def opened():
        tables = {end: Reference(files, f'{name}{end}', end=='_ca') for end in ('', '_ss', '_ca', '_h') if end=='' or f'{name}{end}.index' in files}
        for end in ('', '_ss'): need(end not in tables or tables[end].dbtype&0xFFFF in (0, 12))
        return tables
    tables, db = attempt(opened), attempt(lambda: PairedFoldseekDB(path), path)
    assert (tables is Bad)==(db is Bad), (tables, db)
    if db is Bad: return
    has = lambda end, key: end in tables and key in tables[end].index
    def read(key):
        aa = tables[''][key].upper()
        ss, ca = (tables[end][key] if has(end, key) else None for end in ('_ss', '_ca'))
        need(ss is None or len(ss)==len(aa)); need(ca is None or len(ca)==12*len(aa))
        header = tables['_h'][key] if has('_h', key) else reference_names(files.get(f'{name}.lookup', b'')).get(key, b'%d' % key)
        return aa.decode('latin-1'), None if ss is None else ss.upper().decode('latin-1'), ca, header.decode('utf-8', 'replace')
    mine = lambda p: (p.aa, p.ss, None if p.ca is None else plain(p.ca, FoldseekCaDB), p.header)
    keys = sorted(tables[''].index)
    want, got = ({k: attempt(lambda: f(k), at) for k in keys} for f,at in ((read, None), (lambda k: mine(db[k]), path)))
    assert got==want and db.keys.tolist()==keys
    good = [k for k in keys if want[k] is not Bad]
    whole = [k for k in good if all(has(end, k) for end in ('_ss', '_ca') if end in tables)]
    for some in (whole, order(whole)): assert [mine(p) for p in db.batch(some)]==[want[k] for k in some]
    if len(whole)<len(keys): assert attempt(lambda: db.batch(keys), path) is Bad

# --- databases of every form

FORMS = 'plain', 'split', 'padded', 'compressed', 'split and compressed'
SMALL_NUMBERS = st.integers(0, 9)
keysets = st.one_of(st.integers(0, 8).map(lambda n: list(range(n))), st.integers(0, 8).map(lambda n: list(range(2**32-n, 2**32))),
                    st.lists(st.integers(0, 30)|st.integers(0, 2**32-1), max_size=8, unique=True).map(sorted))
letters = st.text('ACDEFGHIKLMNPQRSTVWYXacd', max_size=20).map(str.encode)
texts = st.one_of(letters, st.binary(max_size=12), letters.map(lambda x: 8*x)).map(lambda x: x.replace(b'\0', b'\n')+b'\n')
codes = st.lists(st.integers(0, 20)|st.integers(32, 52), max_size=9).map(bytes)

def coordinates(form, residues, fill): # an entry's bytes, made of some random ones
    n = 12*residues if form else 6*residues+7 if residues else 0
    return (fill*n)[:n] if fill else bytes(n)
cas = st.builds(coordinates, st.booleans(), st.integers(0, 6), st.binary(max_size=90))

def table(keys, payloads, form, dbtype, shuffle, cuts=(), name='x', newline=True, raw=0):
    "Files of a database: entries in `shuffle`d order, index lines in another, data in parts cut behind so many entries"
    shuffled = shuffle(list(zip(keys, payloads)))
    parts, lines, at = [b''], [], 0
    for i,(key,payload) in enumerate(shuffled):
        entry, length = payload+b'\0', len(payload)+1
        if form=='padded': entry, length = payload+b'\x14'*(-len(payload)%4), len(payload)+2
        if 'compressed' in form:
            packed = payload if raw>>i&1 else zstandard.ZstdCompressor(write_content_size=bool(i%2), write_checksum=bool(i%3)).compress(payload)
            entry = len(packed).to_bytes(4, 'little')+packed+(b'\xff' if raw>>i&1 else b'\0')
        lines.append(b'%d\t%d\t%d\n' % (key, at, length)); parts[-1] += entry; at += len(entry)
        if 'split' in form: parts += [b'' for c in cuts if c==i]
    dbtype |= (PADDED if form=='padded' else 0)|(COMPRESSED if 'compressed' in form else 0)
    index = b''.join(shuffle(lines))
    data = {f'{name}.{i}':p for i,p in enumerate(parts)} if 'split' in form else {name:parts[0]}
    return data|{f'{name}.index': index if newline else index[:-1], f'{name}.dbtype': dbtype.to_bytes(4, 'little')}

@st.composite
def databases(draw, ca=False):
    "Files of one valid database"
    keys, form = draw(keysets), draw(st.sampled_from([f for f in FORMS if not ca or f!='padded']))
    payloads = draw(st.lists(cas if ca else codes if form=='padded' else texts, min_size=len(keys), max_size=len(keys)))
    shuffle = draw(st.sampled_from([list, lambda x: x[::-1], lambda x: x[1::2]+x[::2]]))
    dbtype = CA if ca else draw(st.sampled_from([0, 12]))
    return table(keys, payloads, form, dbtype, shuffle, draw(st.lists(SMALL_NUMBERS, max_size=3)), newline=draw(st.booleans()), raw=draw(st.integers(0, 255)))

def protein_files(keys, residues, header, part=lambda end, keys: keys, dbtype=0):
    "Files of a whole database; `part` may leave keys out"
    word = lambda k, by: bytes(b'ACDEFGHIKLMNPQRSTVWY'[(k+by*i)%20] for i in range(residues[k%len(residues)]))
    payload = {'': lambda k: word(k, 1)+b'\n', '_ss': lambda k: word(k, 3).lower()+b'\n', '_ca': lambda k: coordinates(k%3==0, residues[k%len(residues)], word(k, 7)), '_h': lambda k: header+b'%d title\n' % k}
    files = {'x.lookup': b''.join(b'%d\tname%d\t0\n' % (k, k%3) for k in keys)}
    for end in payload: files |= table(mine := part(end, keys), list(map(payload[end], mine)), 'plain', {'_ca':CA, '_h':12}.get(end, dbtype), list, name=f'x{end}')
    return files

@st.composite
def whole_databases(draw):
    "Files of a valid database with 3Di letters, coordinates and headers"
    some, n = draw(st.sampled_from(['', '_ss', '_ca', '_h', 'none'])), draw(st.integers(0, 3))
    return protein_files(draw(keysets), draw(st.lists(SMALL_NUMBERS, min_size=1, max_size=4)), draw(st.sampled_from([b'', b'd1asha_ ', b'sp|P69905|HBA ', 'Å\tß '.encode(), b'\xff\xfe']))
                         , lambda end, keys: keys[:n] if end==some else keys, draw(st.sampled_from([0, 12])))

changes = st.lists(st.tuples(st.sampled_from(['flip', 'insert', 'delete', 'truncate', 'digit', 'digit', 'copy', 'remove']), st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=3)

def changed(raw, change):
    "Bytes after one change; None for a file that is taken away"
    what, at, value = change
    at %= len(raw)+1
    return {'flip': raw[:at]+bytes(x^(1<<value%8) for x in raw[at:at+1])+raw[at+1:], 'insert': raw[:at]+bytes([value%256])+raw[at:], 'delete': raw[:at]+raw[at+1+value%3:], 'truncate': raw[:at],
            'digit': raw[:at]+b'0123456789\t\n'[value%12:value%12+1]+raw[at+1:], 'copy': raw[:at]+raw[value%(len(raw)+1):], 'remove': None}[what]

def mutated(files, changes, which):
    "Files after some changes of them"
    files = dict(files)
    for i,change in enumerate(changes):
        name = sorted(files)[(which+i//2)%len(files)]
        raw = changed(files.pop(name), change)
        if raw is not None: files[name] = raw
        if not files: return {}
    return files

def checked(files, checker, *args):
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        place(folder, files); checker(folder, files, *args)

# --- tests

@pytest.mark.parametrize('ca', [False, True])
def test_every_form_reads_as_the_reference(ca):
    orders = st.randoms(use_true_random=False).map(lambda r: lambda keys: r.choices(keys, k=12) if keys else [])
    @quick
    @given(databases(ca=ca), orders)
    def run(files, order): checked(files, check, FoldseekCaDB if ca else FoldseekDB, 'x', order)
    run()

@quick
@given(whole_databases())
def test_whole_databases_read_as_the_reference(files): checked(files, check_paired)

@pytest.mark.parametrize('ca', [False, True])
def test_damaged_databases(ca):
    @settings(quick, max_examples=400)
    @given(databases(ca=ca), changes, st.integers(0, 9))
    def run(files, changes, which): checked(mutated(files, changes, which), check, FoldseekCaDB if ca else FoldseekDB)
    run()

@settings(quick, max_examples=300)
@given(whole_databases(), changes, st.integers(0, 12))
def test_damaged_whole_databases(files, changes, which): checked(mutated(files, changes, which), check_paired)

@quick
@given(st.binary(max_size=60), st.sampled_from([bytes(4), b'\x65\0\0\0', b'\0\0\x08\0', b'\0\0\0\x80', b'\x65\0\x08\x80'])|st.binary(max_size=5), st.binary(max_size=60), st.booleans())
@example(b'0\t0\t25\n', b'\x65\0\x08\0', bytes(25), True)      # coordinates said to be padded: the flag means nothing there
def test_any_bytes(index, dbtype, data, ca): checked({'x.index':index, 'x.dbtype':dbtype, 'x':data}, check, FoldseekCaDB if ca else FoldseekDB)

@quick
@given(st.lists(st.tuples(st.integers(0, 40)|st.integers(0, 2**33), st.integers(0, 70)|st.integers(0, 10**17), st.integers(0, 70)|st.integers(0, 2**33)), max_size=6),
       st.sampled_from([bytes(4), b'\x65\0\0\0', b'\0\0\x08\0', b'\0\0\0\x80', b'\x65\0\0\x80']), st.lists(st.sampled_from([bytes(25), b'AC\n\0', b'\2\0\0\0A\n\xff', b'']), min_size=1, max_size=4))
@example([(0, 0, 3)], b'\0\0\0\x80', [b'\2\0\0\0', b'A\n\xff'])    # an entry never crosses a file
def test_any_numbers(rows, dbtype, parts):
    files = {'x.index':b''.join(b'%d\t%d\t%d\n' % row for row in rows), 'x.dbtype':dbtype}|{f'x.{i}':p for i,p in enumerate(parts)}
    checked(files, check, FoldseekCaDB if dbtype[0] else FoldseekDB)

@pytest.mark.parametrize('dbtype,cls', [(bytes(4), FoldseekDB), (b'\x65\0\0\0', FoldseekCaDB), (b'\0\0\x08\0', FoldseekDB), (b'\0\0\0\x80', FoldseekDB), (b'\x65\0\0\x80', FoldseekCaDB)])
def test_lengths_beyond_the_data_take_no_memory(tmp_path, dbtype, cls):
    "Many entries that say 4 GB each"
    for length in (2**32-3, 2**32-8, 2**32-4):
        place(tmp_path, {'x':bytes(25), 'x.dbtype':dbtype, 'x.index':b'0\t0\t%d\n' % length})
        with pytest.raises(FoldseekFormatError, match='key 0'): cls(tmp_path/'x').batch([0]*100_000)

def test_headers_are_the_same_one_by_one_and_in_batches():
    "Also where their type says that they are sequences"
    files = protein_files([0, 1], [3], b'd1asha_ ')
    checked(files|{'x_h.dbtype':bytes(4)}, check_paired)
    checked({k:v for k,v in files.items() if k!='x_h.dbtype'}, check_paired)

# --- writing and reading

@st.composite
def proteins(draw):
    "Proteins of one database"
    keys, ss, ca = draw(st.lists(st.integers(0, 20)|st.integers(0, 2**32-1), min_size=1, max_size=6, unique=True)), draw(st.booleans()), draw(st.booleans())
    out = []
    for key in keys:
        aa = draw(st.text('ACDEFGHIKLMNPQRSTVWYXacd', max_size=12))
        scale = draw(st.sampled_from([1, 30, 900]))
        xyz = np.random.default_rng(draw(st.integers(0, 99))).uniform(-scale, scale, (len(aa), 3)).astype(np.float32)
        out.append(Protein(key, draw(st.text(st.characters(codec='utf-8'), max_size=6)), draw(st.text(st.characters(codec='utf-8'), max_size=9)), aa, aa[::-1].swapcase() if ss else None, xyz if ca else None))
    return out

@quick
@given(proteins())
def test_what_is_written_is_read(written):
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        db = write_db(Path(folder)/'x', written)
        assert db.keys.tolist()==sorted(p.key for p in written)
        for p,both in zip(written, zip([db[p.key] for p in written], db.batch([p.key for p in written]))):
            for q in both:
                assert (q.key, q.aa, q.ss)==(p.key, p.aa.upper(), p.ss and p.ss.upper()) or (p.ss is not None and not len(p) and q.ss=='')
                assert q.header==re.sub('[\0-\x08\x0a-\x1f]', ' ', p.header or p.name)
                assert (q.ca is None)==(p.ca is None)
                if p.ca is not None: assert q.ca.shape==p.ca.shape and q.ca.dtype==np.float32 and np.abs(q.ca-p.ca).max(initial=0)<6e-4
        for p in written: assert db.names.get(p.key)==re.sub(r'\s|[\0-\x1f]', '_', p.name)
        check_paired(folder, {f.name:f.read_bytes() for f in Path(folder).iterdir()})

@quick
@given(st.lists(st.tuples(st.floats(-2.2e6, 2.2e6), st.floats(-40, 40), st.floats(-1e3, 1e3)), max_size=6), st.booleans())
@example([(2147483., 0., 0.), (2147490., 0., 0.), (2147500., 0., 0.)], False)
def test_coordinates_far_away(xyz, truncate):
    "What does not fit in 32 bits is not stored as differences"
    ca = np.array(xyz, np.float64).reshape(-1, 3)
    np.testing.assert_allclose(decode_ca(encode_ca(ca, truncate)), ca, rtol=1.2e-7, atol=1.0001e-3)

# --- names

def check_lookup(folder, raw, name='x.lookup'):
    "Hold a lookup equal to a dict of its lines, and to itself: what `get` gives, `find` finds"
    path = Path(folder)/name
    path.write_bytes(raw)
    want, ours = attempt(lambda: reference_names(raw)), attempt(lambda: Lookup(path), path)
    assert (ours is Bad)==(want is Bad), (ours, want)
    if ours is Bad: return False
    assert ours.keys.tolist()==sorted(want)
    for k in want: assert ours.get(k)==want[k].decode('utf-8', 'replace'), k
    names = list({n.decode() for n in want.values() if n==n.decode('utf-8', 'ignore').encode()}|{'not there', '\0'})
    which, keys = ours.find(names)
    assert sorted(zip((names[i] for i in which), keys.tolist()))==sorted((n.decode(), k) for k,n in want.items() if n.decode('utf-8', 'replace') in names)
    assert all(ours.get(k) is None for k in {0, 5, 2**32-1, 2**32}-set(want))
    return True

words = st.one_of(st.sampled_from(['d1asha_', 'AF-P69905-F1-model_v4', 'same', 'ß', '蛋白質', 'a'*9]), st.text(st.characters(codec='utf-8', exclude_characters=' \t\n\r'), min_size=1, max_size=10))

@quick
@given(st.lists(st.tuples(st.integers(0, 20)|st.integers(0, 2**32-1), words), max_size=8, unique_by=lambda x: x[0]), st.sampled_from(['\t', ' ', ' \t ']), st.sampled_from(['\t0', ' 0', '', '\t0\t']), st.sampled_from(['\n', '\r\n', '\n\n']))
def test_lookup_is_a_dict(rows, between, after, end):
    raw = ''.join(f'{k}{between}{n}{after}{end}' for k,n in rows).encode()
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        for text in (raw, raw.rstrip(b'\r\n')): assert check_lookup(folder, text)

@settings(quick, max_examples=400)
@given(st.binary(max_size=40)|st.lists(st.sampled_from([b'0', b'1', b'27', b'99999999999', b'\t', b'\t', b'\n', b'\n', b' ', b'a', b'\r', b'\0', b'\x0b', b'\xff', b'-', 'ß'.encode()]), max_size=20).map(b''.join))
@example(b'5\tname\r\n')
@example(b'5\tna\x0bme\t0\n')
@example(b'5\tna\0me\t0\n')
@example(b'5\t\t0\n6\tother\t0\n')
@example(b'5\t\t0\n6\tan other\t0\n')
def test_hostile_lookups(raw):
    with tempfile.TemporaryDirectory(dir=ROOT) as folder: check_lookup(folder, raw)

# --- texts in small blocks, so that lines stand across their borders

@quick
@given(st.lists(st.tuples(st.integers(0, 2**32-1), st.integers(0, 10**16-1), st.integers(0, 2**32-1)), min_size=1, max_size=12, unique_by=lambda x: x[0]), st.integers(52, 200), st.booleans())
def test_blocks_of_any_size(rows, size, newline):
    index, lookup = (b''.join(line % row for row in rows)[:None if newline else -1] for line in (b'%d\t%d\t%d\n', b'%d\tname%d\t%d\n'))
    with tempfile.TemporaryDirectory(dir=ROOT) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(foldseek_index, 'text_blocks', lambda path: text_blocks(path, size))
        place(folder, {'x.index': index})
        ours, want = read_index(f'{folder}/x.index'), reference_index(index)
        assert [(k, (o, n)) for k,o,n in zip(*(x.tolist() for x in (ours.keys, ours.offsets, ours.lengths)))]==sorted(want.items())
        assert check_lookup(folder, lookup)

def test_a_line_longer_than_a_block_is_refused(tmp_path):
    for n,good in ((49, True), (50, False), (10_000, False)):
        (tmp_path/'x').write_bytes(b'1\n'+b'2'*n)
        lines = attempt(lambda: [line for block in text_blocks(tmp_path/'x', 50) for _,_,line in block.lines()], tmp_path/'x')
        assert lines==([b'1', b'2'*n] if good else Bad), n

# --- columns kept in files

def kept(folder, files, damage):
    "Open a database and its lookup with columns kept in files, damage these, and give what is in them before and after"
    place(folder, files)
    path = Path(folder)/'x'
    def state():
        db, names = FoldseekDB(path), Lookup(f'{path}.lookup')
        return [(k, db[k], names.get(k)) for k in db.keys.tolist()], db.batch(db.keys).values.tobytes(), names.find(['a', 'b'])[1].tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foldseek_index, 'SMALL', 0); patch.setenv('XDG_CACHE_HOME', f'{folder}/cache')
        before = state()
        for file in (Path(f'{path}.index.columns'), Path(f'{path}.lookup.columns')):
            whole = file.read_bytes()
            file.write_bytes(damage(whole))
            yield before, state, file, whole
            file.unlink(); file.write_bytes(whole)

names_too = st.integers(1, 20).map(lambda n: table(range(3, 3+n), [b'ACD'[:i%4]+b'\n' for i in range(n)], 'plain', 0, list)|{'x.lookup': b''.join(b'%d\t%c\t0\n' % (3+i, b'abc'[i%3]) for i in range(n))})

@quick
@given(names_too, st.one_of(st.tuples(st.just('flip'), st.integers(0, 55), st.integers(0, 7)), st.tuples(st.sampled_from(['truncate', 'insert', 'delete']), st.integers(0, 10**4), st.integers(0, 255))))
@example(table(range(3), [b'A\n']*3, 'plain', 0, list)|{'x.lookup':b'0\ta\t0\n1\tb\t0\n2\ta\t0\n'}, ('flip', 48, 0))     # 3 rows take as many bytes as 2
def test_columns_with_a_damaged_head_are_made_anew(files, change):
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        for before, state, file, whole in kept(folder, files, lambda whole: changed(whole, change)):
            damaged = file.read_bytes()
            assert state()==before and (file.read_bytes()==whole or damaged==whole)

@settings(quick, max_examples=200)
@given(names_too, st.lists(st.tuples(st.integers(128, 10**4), st.integers(0, 255)), min_size=1, max_size=4))
@example(table([3], [b'A\n'], 'plain', 0, list)|{'x.lookup':b'3\ta\t0\n'}, [(128+64+7, 128)])     # the highest bit of an offset
@example(table([3, 4], [b'A\n', b'B\n'], 'plain', 0, list)|{'x.lookup':b'3\ta\t0\n4\tb\t0\n'}, [(128+64+7, 255), (128+64+15, 255)])
def test_columns_with_damaged_rows_crash_nothing(files, changes):
    def damage(whole):
        out = bytearray(whole)
        for at,value in changes: out[128+at%(len(out)-128)] = value
        return bytes(out)
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        for _, _, file, _ in kept(folder, files, damage):
            path = Path(folder)/'x'
            db, names = attempt(lambda: FoldseekDB(path), path), attempt(lambda: Lookup(f'{path}.lookup'), path)
            for k in (*range(25), 2**32-1) if db is not Bad else ():
                attempt(lambda: db[k], path); attempt(lambda: db.batch([k, 3, k]), path)
            if db is not Bad: attempt(lambda: db.batch(db.keys), path); db.residues()
            if names is not Bad:
                for k in range(25): names.get(k)
                names.find(['a', 'b', ''])
