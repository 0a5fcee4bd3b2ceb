"FASTA files as people have them: whatever the bytes, the reader gives what a reader of ten lines gives, in bounded memory, or one clear error"
import gzip, io, os, re, subprocess, sys, threading, tracemalloc
from itertools import chain, repeat
import pytest
from hypothesis import HealthCheck, assume, example, given, settings, strategies as st
from structure_search import fasta
from structure_search.fasta import count_records, read_fasta
from structure_search.vocab import _RESIDUE_OF, letters_to_numbers

BOM = b'\xef\xbb\xbf'
read = lambda data, **kw: [*read_fasta(io.BytesIO(data), **kw)]
sequences = lambda data, **kw: [r.sequence for r in read(data, **kw)]
bad = lambda data, **kw: [r.bad for r in read(data, **kw)]

# --- against a plain reader

def reference(data, longest, header):
    "(number, header, sequence, position of the first bad letter or None) of each record; None for no FASTA file"
    records = [[b'', b'']]
    for line in re.split(b'[\r\n]', data.removeprefix(BOM)):
        if line[:1]==b'>': records.append([line[1:1+header], b''])
        elif line[:1]!=b';': records[-1][1] += b''.join(line.split())
    wrong = lambda s: m.start()+1 if (m := re.search(rb'[^A-Za-z*]', s)) else None
    good = lambda i,s: i>0 and 0<len(s)<=longest and wrong(s) is None
    if len(records)==1: return None
    return [(i, h.decode('utf-8', 'replace'), s.upper().decode() if good(i, s) else '', good(i, s), wrong(s) if i and len(s)<=longest else None) for i,(h,s) in enumerate(records) if i or s]

class Dribble(io.RawIOBase):
    "A file that gives a few bytes at a time, as pipes do"
    def __init__(self, data, size): self.f, self.size = io.BytesIO(data), size
    def read(self, n=-1): return self.f.read(min(n, self.size))

some = st.sampled_from([b'>', b'>', b'\n>', b'\n', b'\n', b'\r', b'\r\n', b';', b'M', b'k', b'U*', b'-', b'7', b' ', b'\t', b'\0', b'\xff', 'é'.encode(), BOM, b'name', b'ACDEFGHIKLMN'])
lists = st.lists(some, max_size=40).map(b''.join)
texts = lists|lists.map(lambda x: b'>'+x)|st.binary(max_size=60)

@settings(derandomize=True, deadline=None, max_examples=600, suppress_health_check=list(HealthCheck))
@example(b'>a\nMK', 1, 1).via('no final line end')
@example(BOM+b'>a\nMK', 1, 2).via('a byte order mark in pieces')
@example(b'>abcdefghijkl\xc3\xa9\nMK', 3, 3).via('a header that is cut')
@given(texts, st.sampled_from([1, 2, 3, 5, 16, 1<<18]), st.sampled_from([1, 7, 1000]))
def test_as_a_plain_reader(data, block, size):
    assume(not data.startswith((*fasta._NO_FASTA, b'\x1f\x8b')))
    forms = [io.BytesIO(data), Dribble(data, size), io.BytesIO(gzip.compress(data)), Dribble(gzip.compress(data[:9])+gzip.compress(data[9:])+b'\0'*5, size)]
    expected = reference(data, 12, 10)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(fasta, 'BLOCK', block); m.setattr(fasta, 'HEADER', 10)
        for f in forms:
            if expected is None:
                with pytest.raises(ValueError, match='no FASTA file|an empty file'): list(read_fasta(f, longest=12))
                continue
            found = [*read_fasta(f, longest=12)]
            plain = lambda h: ''.join(' ' if ord(c)<32 and c not in '\t\n' or ord(c)==127 else c for c in h).strip(' ')
            assert [(r.number, r.header, r.sequence, r.bad is None) for r in found]==[(e[0], plain(e[1]), *e[2:4]) for e in expected]
            for r,e in zip(found, expected):
                if e[4]: assert f' at position {e[4]} is not a residue' in r.bad

@settings(derandomize=True, deadline=None, max_examples=400)
@example(b'>a\r>b\n>c\n\r>d >e\n >f', 4).via('all line ends, and marks within lines')
@given(texts, st.sampled_from([4, 5, 16, 1<<18]))
def test_count_is_the_last_number(tmp_path_factory, data, block):
    assume(not data.startswith((*fasta._NO_FASTA, b'\x1f\x8b')))
    path = tmp_path_factory.getbasetemp()/'count.fasta'
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(fasta, 'BLOCK', block)
        n = count_records(path)
        if n==0:
            with pytest.raises(ValueError, match='count.fasta'): list(read_fasta(path))
        else: assert n==[*read_fasta(path)][-1].number

# --- letters

def test_letters_are_those_of_the_vocabulary():
    "Of the 256 bytes, those pass that the vocabulary reads; what passes is read as what was given"
    for i in range(256):
        letter = bytes([i])
        if letter in b' \t\v\f\r\n': continue
        r, = read(b'>a\nM'+letter)
        assert (r.bad is None)==(_RESIDUE_OF[i]>=0), letter
        if r.bad is None: assert (letters_to_numbers(r.sequence, _RESIDUE_OF)==letters_to_numbers('M'+chr(i), _RESIDUE_OF)).all()
        else: assert 'at position 2 is not a residue' in r.bad

def test_every_letter_of_the_alphabet_is_a_residue():
    assert sequences(b'>a\nabcdefghijklmnopqrstuvwxyz*')==['ABCDEFGHIJKLMNOPQRSTUVWXYZ*']

def test_position_counts_letters_over_lines_and_blanks():
    assert bad(b'>a\nMK TA\n\n\tY1\n')==["'1' at position 6 is not a residue"]

@pytest.mark.parametrize('gap', '-.')
def test_aligned(gap): assert bad(f'>a\nMK{gap}{gap}L'.encode())==[f'{gap!r} at position 3 is not a residue: an aligned sequence must be ungapped first']

@pytest.mark.parametrize('raw,shown', [('é'.encode(), "'é' (U+00E9)"), ('蛋'.encode(), "'蛋' (U+86CB)"), ('\xa0'.encode(), r"'\xa0' (U+00A0)"), (b'\xe9', 'byte 0xe9'), (b'\xc3', 'byte 0xc3'), (b'\0', r"'\x00'"), (b'\x1b', r"'\x1b'")])
def test_strange_letters_are_named(raw, shown): assert bad(b'>a\nMK'+raw+b'\nL')==[f'{shown} at position 3 is not a residue']

def test_stop_in_the_middle_and_at_the_end(): assert sequences(b'>a\nMK*L*\n')==['MK*L*']

# --- lines

@pytest.mark.parametrize('end', [b'\n', b'\r\n', b'\r', b'\n\n', b'\n\r', b' \n'])
@pytest.mark.parametrize('start', [b'', BOM, b'\n\n'])
@pytest.mark.parametrize('last', [True, False])
def test_line_ends(end, start, last):
    data = start+end.join([b'>a 1', b'MK', b'TL', b'>b', b'AA'])+end*last
    assert [(r.name, r.header.rstrip(), r.sequence, r.bad) for r in read(data)]==[('a', 'a 1', 'MKTL', None), ('b', 'b', 'AA', None)]

def test_comments():
    assert sequences(b';first\n>a\n;one\nMK\n;two > three\nTL\n; >no\n')==['MKTL']
    assert bad(b'>a\nMK;TL')==["';' at position 3 is not a residue"]

def test_only_a_mark():
    assert [(r.number, r.name, r.header, r.bad) for r in read(b'>')]==[(1, 'record_1', '', 'no sequence')]
    assert [r.name for r in read(b'>\n>\n>')]==['record_1', 'record_2', 'record_3']

def test_a_mark_that_does_not_begin_its_line():
    assert bad(b'>a\nMK>b\nTL')==["'>' at position 3 is not a residue: a line end is missing before it"]
    assert bad(b'>a\n >b\nMK')==["'>' at position 1 is not a residue: a line end is missing before it"]
    assert [(r.header, r.sequence) for r in read(b'>>a > b\nMK')]==[('>a > b', 'MK')]

@pytest.mark.parametrize('header,name', [('sp|P69905|HBA_HUMAN x', 'P69905'), ('8tim_B\tchain B', '8tim_B'), ('  a b', 'a'), ('\t', 'record_1'), ('', 'record_1'), ('sp||X', 'record_1'), ('Ångström 1', 'Ångström')])
def test_names(header, name):
    r, = read(f'>{header}\nMK'.encode())
    assert (r.name, r.header)==(name, header.strip(' '))

def test_control_characters_in_headers_are_blanks(): assert [(r.name, r.header) for r in read(b'>a\x1b[2Jb\x00c\td\nMK')]==[('a', 'a [2Jb c\td')]

def test_bytes_in_headers_that_are_no_utf8(): assert [(r.name, r.header, r.sequence) for r in read(b'>a\xff b\xe9\nMK')]==[('a\ufffd', 'a\ufffd b\ufffd', 'MK')]

def test_long_header_is_cut():
    r, = read(b'>'+b'x'*1_000_000+b'\nMK')
    assert (len(r.header), r.sequence)==(fasta.HEADER, 'MK')

def test_text_before_the_first_record():
    first, second = read(b'A title\nof two lines\n>a\nMK')
    assert (first.number, first.name, first.sequence)==(0, 'record_0', '') and first.bad=="16 letters before the first line that begins with '>'"
    assert (second.number, second.sequence, second.bad)==(1, 'MK', None)

def test_limit_of_length():
    assert bad(b'>a\nMKTAY\n>b\nMKTAYI\n>c\n MK T\nAY\n', longest=5)==[None, '6 letters, over the limit of 5', None]
    assert bad(b'>a\n'+b'M'*1_000_001)==['1,000,001 letters, over the limit of 1,000,000']
    assert len(sequences(b'>a\n'+b'M\n'*1_000_000)[0])==1_000_000

# --- files as a whole

@pytest.mark.parametrize('data,words', [(b'', 'an empty file'), (BOM, 'an empty file'), (gzip.compress(b''), 'an empty file'),
    (b'MKTAY\n', "no line begins with '>'"), (b'\n\n', "no line begins with '>'"), (b';a\nMK', "no line begins with '>'"),
    (b'\xff\xfe>\0a\0\n\0', 'UTF-16'), (b'PK\3\4rest\n>a\nMK', 'zip archive'),
    (b'(\xb5/\xfdrest\n>a\nMK', 'zstd'), (b'\xfd7zXZ\0rest', 'xz'), (b'BZh91AY&SYrest', 'bzip2'), (gzip.compress(gzip.compress(b'>a\nMK')), 'gzipped twice')])
@pytest.mark.parametrize('form', ['path', 'object'])
def test_no_fasta_file(tmp_path, data, words, form):
    path = tmp_path/'some.fasta'
    path.write_bytes(data)
    with open(path, 'rb') as f, pytest.raises(ValueError, match=f'some.fasta: .*{words}'): next(read_fasta(path if form=='path' else f))

def test_what_cannot_be_opened_is_said_at_the_call(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match='nowhere.fasta: no such FASTA file'): read_fasta(tmp_path/'nowhere.fasta')
    with pytest.raises(ValueError, match='a folder, not a FASTA file'): read_fasta(str(tmp_path))
    with pytest.raises(FileNotFoundError): read_fasta('MKTAYIAKQR'*1000)           # too long a name for the system
    with pytest.raises(FileNotFoundError): count_records('a\0b')
    (tmp_path/'link').symlink_to(tmp_path/'gone')
    with pytest.raises(FileNotFoundError, match='link'): read_fasta(tmp_path/'link')
    (tmp_path/'a').write_bytes(b'>a\nMK'); monkeypatch.setattr(os, 'access', lambda *_: False)
    for f in (read_fasta, count_records):
        with pytest.raises(PermissionError, match='a: no permission'): f(tmp_path/'a')

def test_file_of_text():
    with pytest.raises(ValueError, match='in binary'): next(read_fasta(io.StringIO('>a\nMK')))

def test_files_are_closed_when_ours(tmp_path):
    path = tmp_path/'a'; path.write_bytes(b'>a\nMK\n>b\nTL')
    open_files = lambda: [x for x in os.listdir('/proc/self/fd') if os.path.realpath(f'/proc/self/fd/{x}')==str(path.resolve())]
    if not os.path.isdir('/proc/self/fd'): pytest.skip('no list of open files on this system')
    records = read_fasta(path)
    assert not open_files()             # opened with the first record
    next(records); assert open_files()
    records.close(); assert not open_files()
    with open(path, 'rb') as f: assert len([*read_fasta(f)])==2 and not f.closed

def test_gzipped_whatever_its_name(tmp_path):
    (tmp_path/'a.txt').write_bytes(gzip.compress(b'>a\nMK')); (tmp_path/'b.gz').write_bytes(b'>a\nMK')
    for name in ('a.txt', 'b.gz'): assert [r.sequence for r in read_fasta(tmp_path/name)]==['MK']
    assert (count_records(tmp_path/'a.txt'), count_records(str(tmp_path/'b.gz'))) == (None, 1)

def test_gzipped_in_parts(): assert sequences(b''.join(gzip.compress(x) for x in (b'>a\nM', b'', b'K\n>b', b'\nTL'))+b'\0'*100)==['MK', 'TL']

def broken(data):
    "Records, and the words of the error after them"
    found = []
    try:
        for r in read_fasta(io.BytesIO(data)): found.append((r.number, r.name, r.sequence))
    except ValueError as e: return found, str(e)
    return found, None

def test_gzipped_and_cut_anywhere():
    import random
    pick = random.Random(0)
    data = gzip.compress(b''.join(b'>r%d\n%s\n' % (i, bytes(pick.choices(b'ACDEFGHIKL', k=50))) for i in range(1, 30)))
    everything, error = broken(data)
    assert error is None and len(everything)==29
    counts = set()
    for n in range(2, len(data)):
        found, error = broken(data[:n])
        assert found==everything[:len(found)] and f'the file object: breaks off after {len(found)} whole records' in error
        counts.add(len(found))
    assert len(counts)>10 and max(counts)==28              # the last one may go on

def test_gzipped_and_damaged():
    "A flipped byte gives an error or, in a date or the like, nothing; never another exception"
    data = gzip.compress(b'>a\nMKTAYIAKQRQISFVKSHFSRQ\n'*20, mtime=0)
    for i in range(10, len(data)):
        assert broken(data[:i]+bytes([data[i]^0x55])+data[i+1:])[1] is not None, i
    assert 'whole records' in broken(data+b'garbage')[1]

def test_disk_that_fails():
    class Fails(io.BytesIO):
        def read1(self, n=-1): return super().read1(16) or (_ for _ in ()).throw(OSError(5, 'Input/output error'))
    records = read_fasta(Fails(b'>a\nMK\n>b\nMK\n>c\nMK\n'))
    assert [next(records).name, next(records).name]==['a', 'b']
    with pytest.raises(ValueError, match='breaks off after 2 whole records.*Input/output error'): next(records)

# --- pipes

@pytest.mark.parametrize('packed', [False, True])
def test_standard_input(packed):
    code = "from structure_search.fasta import *; print(count_records('-'), [r.sequence for r in read_fasta('-')])"
    data = b'>a\nMK\n>b\nTL'
    r = subprocess.run([sys.executable, '-c', code], input=gzip.compress(data) if packed else data, capture_output=True, timeout=60)
    assert r.stdout.decode().strip()=="None ['MK', 'TL']", r.stderr.decode()
    assert b'standard input: an empty file' in subprocess.run([sys.executable, '-c', code], input=b'', capture_output=True, timeout=60).stderr

def test_named_pipe(tmp_path):
    "As the shell gives for <(...): it is opened once, and not counted"
    os.mkfifo(tmp_path/'pipe')
    assert count_records(tmp_path/'pipe') is None
    t = threading.Thread(target=lambda: (tmp_path/'pipe').write_bytes(b'>a\nMK\n>b\nTL'), daemon=True)
    t.start()
    assert [r.sequence for r in read_fasta(tmp_path/'pipe')]==['MK', 'TL']
    t.join(10)

def test_a_pipe_is_read_as_it_fills():
    "A record is given when the next begins, not when a block is full"
    r, w = os.pipe()
    with open(r, 'rb') as f:
        os.write(w, b'>first\nMK\n>b\n')
        records = read_fasta(f)
        assert next(records).sequence=='MK'
        os.write(w, b'TL'); os.close(w)
        assert next(records).sequence=='TL'

# --- memory and imports

class Endless(io.RawIOBase):
    "A million and more bytes of the same between two lines"
    def __init__(self, before, part): self.blocks = chain([before], repeat(part*(10_000//len(part)), 200), [b'\n>last\nMK'])
    def read(self, n=-1): return next(self.blocks, b'')

def measured(f, **kw):
    "Records, and the most memory that was held at a time, bytes"
    tracemalloc.start()
    try: return [*read_fasta(f, **kw)], tracemalloc.get_traced_memory()[1]
    finally: tracemalloc.stop()

@pytest.mark.parametrize('before,part,word', [('>a\n', 'M', 'letters, over the limit'), ('>a\n', 'M\n', 'letters, over the limit'), ('>a\n', '7', 'letters, over the limit'),
    ('>a\n', '\0', 'letters, over the limit'), ('>', 'x', 'no sequence'),
    ('>a\n', ' ', 'no sequence'), ('>a\n', '\n', 'no sequence'), ('>a\n;', 'x', 'no sequence'), ('>a\n', ';\n', 'no sequence'), ('a title\n', 'text\n', 'letters before the first')])
def test_memory_is_bounded(before, part, word):
    (first, last), peak = measured(Endless(before.encode(), part.encode()), longest=10_000)
    assert word in first.bad and last.sequence=='MK' and peak<1_000_000

def test_memory_is_bounded_unpacked():
    data = gzip.compress(b'>a\n'+b'M'*50_000_000+b'\n>last\nMK', 1)
    (first, last), peak = measured(io.BytesIO(data))
    assert first.bad=='50,000,000 letters, over the limit of 1,000,000' and last.sequence=='MK' and peak<6_000_000

def test_needs_no_torch():
    subprocess.run([sys.executable, '-c', "import sys; sys.modules['torch'] = None; import structure_search.fasta"], check=True, timeout=60)
