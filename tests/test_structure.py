"`structure_search.structure` against databases that Foldseek itself made of the same files."
import gzip, json
from pathlib import Path
import numpy as np
import pytest
from structure_search.structure import ca_pdb, encode_3di, read_structure, write_mmcif, write_pdb

fixtures = Path(__file__).resolve().parents[1]/'..'/'shared'/'fixtures'/'foldseek'
needs_fixtures = pytest.mark.skipif(not fixtures.is_dir(), reason=f'NOT TESTED AGAINST FOLDSEEK: no {fixtures}')


def truth(name):
    "Entries of a database as Foldseek prints them, by header"
    entries = json.loads((fixtures/name/'db.truth.json').read_text(encoding='utf-8'))['entries']
    return {e['header']: e for e in entries.values()}


@needs_fixtures
@pytest.mark.parametrize('name', ['plain', 'edge'])
def test_chains_are_foldseeks(name):
    true = truth(name)
    files = sorted((fixtures/'structures'/name).iterdir())
    chains = {c.header: c for f in files for c in read_structure(f)}
    # what createdb leaves out: three residues or fewer, or nothing but X
    left_out = {h for h,c in chains.items() if len(c) <= 3 or set(c.aa) == {'X'}}
    assert chains.keys() - left_out == true.keys()
    assert left_out == ({'e_len3', 'e_allx'} if name == 'edge' else set())
    for header,e in true.items():
        c = chains[header]
        assert (c.name, c.aa) == (e['name'], e['aa']), header
        assert c.ca.dtype == np.float32 and c.ca.shape == (len(c), 3)
        np.testing.assert_allclose(c.ca, np.array(e['ca_pdb']).T, atol=1.01e-3, err_msg=header)
        if header == 'e_caonly': assert c.ss is None  # Foldseek rebuilds its backbone first
        else: assert c.ss == e['ss'], header


@needs_fixtures
def test_gzip_and_both_formats_are_one(tmp_path):
    source = fixtures/'structures'/'plain'/'d1asha_'
    chain, = read_structure(source)
    with gzip.open(tmp_path/'d1asha_.ent.gz', 'wb') as f: f.write(source.read_bytes())
    again, = read_structure(tmp_path/'d1asha_.ent.gz')
    assert (again.header, again.aa, again.ss) == (chain.header, chain.aa, chain.ss)
    np.testing.assert_array_equal(again.ca, chain.ca)


def test_a_trace_survives_both_formats(tmp_path):
    rng = np.random.default_rng(0)
    aa = 'ACDEFGHIKLMNPQRSTVWYBZOX'
    ca = rng.uniform(-900, 9000, (len(aa), 3))
    write_pdb(tmp_path/'a.pdb', ca, aa, bfactor=rng.uniform(0, 100, len(aa)))
    write_mmcif(tmp_path/'b.cif', ca*1000, aa)
    a, = read_structure(tmp_path/'a.pdb')
    b, = read_structure(tmp_path/'b.cif')
    assert a.aa == b.aa == aa and a.ss is b.ss is None
    np.testing.assert_allclose(a.ca, ca, atol=1e-3)
    np.testing.assert_allclose(b.ca, ca*1000, rtol=1e-6)


def test_letters_outside_the_alphabet_are_unknown(tmp_path):
    write_pdb(tmp_path/'a.pdb', np.eye(3), 'aJ*')
    assert read_structure(tmp_path/'a.pdb')[0].aa == 'AXX'
    write_pdb(tmp_path/'a.pdb', np.eye(3))
    assert read_structure(tmp_path/'a.pdb')[0].aa == 'XXX'


@pytest.mark.parametrize('ca, aa, bfactor', [
    (np.zeros((0, 3)), None, None), (np.zeros((3, 2)), None, None), (np.full((3, 3), np.nan), None, None),
    (np.eye(3), 'AA', None), (np.eye(3), 'AAA', [1, 2]), (np.eye(3), 'AAA', [1, 2, np.inf]),
    (np.eye(3)*-1000, 'AAA', None),
    (np.eye(3), 'AAA', [0, 0, 1000]), (np.eye(3), 'AAA', [0, 0, -100]),
    (np.zeros((10000, 3)), None, None),
])
def test_bad_traces_are_refused(ca, aa, bfactor):
    with pytest.raises(ValueError): ca_pdb(ca, aa, bfactor)


@pytest.mark.parametrize('name, content', [
    ('empty.pdb', b''), ('text.pdb', b'no structure\n'*20), ('plain.pdb.gz', b'not gzip'),
    ('cut.cif.gz', gzip.compress(b'data_x\n'*100)[:20]),
    ('short.pdb', b'ATOM      1  CA  ALA A   1      11.0\n'), ('binary.cif', bytes(range(256))*4),
])
def test_bad_files_are_named(tmp_path, name, content):
    (tmp_path/name).write_bytes(content)
    with pytest.raises(ValueError, match=name): read_structure(tmp_path/name)
    with pytest.raises(FileNotFoundError): read_structure(tmp_path)


def test_missing_atoms_make_d():
    rng = np.random.default_rng(0)
    ca = np.cumsum(rng.normal(size=(12, 3)), axis=0)*2
    n, c = ca + rng.normal(size=ca.shape), ca + rng.normal(size=ca.shape)
    assert encode_3di(ca, n*np.nan, c*np.nan) == 'D'*12
    for length in (1, 2): assert encode_3di(ca[:length], n[:length], c[:length]) == 'D'*length
