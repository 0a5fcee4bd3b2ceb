"tools/make_readme.py: README.md from index.ipynb"
import json
from pathlib import Path
import pytest
from conftest import load_module

make_readme = load_module(Path(__file__).resolve().parents[1]/'tools'/'make_readme.py')

def md(source): return dict(cell_type='markdown', source=source.splitlines(keepends=True))
def code(source, *outputs): return dict(cell_type='code', source=source.splitlines(keepends=True), outputs=list(outputs))
def stream(s): return dict(output_type='stream', name='stdout', text=s.splitlines(keepends=True))
def result(**data): return dict(output_type='execute_result', data={k.replace('_', '/'):v for k,v in data.items()})

HEAD = md('# structure_search\n\n> Sequences to structure tokens')

def readme(*cells): return make_readme.readme(dict(cells=[HEAD, *cells]))
def body(*cells): return readme(*cells).split('> Sequences to structure tokens', 1)[1].strip('\n')

def test_head():
    note, name, summary = readme().strip().split('\n\n')
    assert 'nbs/index.ipynb' in note and (name, summary)==('# structure_search', '> Sequences to structure tokens')
    for cells in ([], [code('1')], [md('structure_search')], [md('# structure_search')]):
        with pytest.raises(ValueError, match='first cell'): make_readme.readme(dict(cells=cells))

def test_code_cells():
    assert body(code('#| eval: false\n# a comment stays\nx = 1\n')) == '```python\n# a comment stays\nx = 1\n```'
    assert body(code('#| hide\nimport secret'), code('#|default_exp index'), code('#| slow'), code('')) == ''
    assert body(dict(cell_type='raw', source='---\ntitle: x\n---')) == ''
    assert body(code('s = "```"')) == '````python\ns = "```"\n````'

def test_outputs():
    assert body(code('f()', stream('one\n\n'), stream('two\n'), result(text_plain="'three'"))) == "```python\nf()\n```\n\n    one\n\n    two\n    'three'"
    assert body(code('plot()', result(image_png='iVBOR', text_plain='<Figure size 600x300>'))) == '```python\nplot()\n```'
    assert body(code('#| hide\nf()', stream('unseen'))) == ''
    assert body(code('f()', stream('\x1b[31mred\x1b[0m'))).endswith('\n    red')
    with pytest.raises(ValueError, match='ZeroDivisionError'): body(code('1/0', dict(output_type='error', ename='ZeroDivisionError', evalue='', traceback=[])))

@pytest.mark.parametrize('link, seen', [
    ('00_foldseek_db.ipynb', 'nbs/00_foldseek_db.ipynb'), ('./02_metrics.ipynb#rmsd', 'nbs/02_metrics.ipynb#rmsd'), ('images/strip.png', 'nbs/images/strip.png'),
    ('../CHANGELOG.md', 'CHANGELOG.md'), ('../configs/', 'configs'), ('../../elsewhere', '../elsewhere'),
    ('https://example.org/a/../b', 'https://example.org/a/../b'), ('mailto:a@b.c', 'mailto:a@b.c'), ('#training', '#training'), ('/top', '/top')])
def test_links(link, seen):
    for form in ('see [it]({}).', 'see [`it`](<{}>)', '![a picture]({} "title")', '<img alt="x" src="{}" width="30">', '[it]: {}\n', 'a `tick [it](stays.md)` and [it]({})'):
        assert body(md(form.format(link))) == form.format(seen).strip()

def test_links_in_code_stay():
    for source in ('`[it](00_x.ipynb)`', '``a ` [it](00_x.ipynb)``', '```\n[it](00_x.ipynb)\n```', '- a\n\n      ```sh\n      # [it](00_x.ipynb)\n\n      more\n      ```'):
        assert body(md(source)) == source
    assert body(md('a lone ` here\n\n[it](00_x.ipynb) and ` there')) == 'a lone ` here\n\n[it](nbs/00_x.ipynb) and ` there'

def test_write_and_check(tmp_path, capsys):
    run = lambda *args: make_readme.main(['--top', str(tmp_path), *args])
    said = lambda: capsys.readouterr().err
    assert run()==1 and 'index.ipynb' in said()
    nb = tmp_path/'nbs'/'index.ipynb'
    nb.parent.mkdir()
    nb.write_text(json.dumps(dict(cells=[HEAD, md('Ångström')])), encoding='utf-8')
    assert run('--check')==1 and not (tmp_path/'README.md').exists() and '+Ångström' in said()
    assert run()==0 and run('--check')==0 and said()==''
    assert (tmp_path/'README.md').read_bytes().endswith('\n\nÅngström\n'.encode())
    (tmp_path/'README.md').write_text('# by hand\n'*50, encoding='utf-8')
    assert run('--check')==1
    lines = said().splitlines()
    assert 'python tools/make_readme.py' in lines[0] and '-# by hand' in lines and len(lines)<=22
    assert run()==0 and run('--check')==0
