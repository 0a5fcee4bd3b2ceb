"The page of `structure_search.visualize` as a browser's parser reads it, and the figures at their edges."
import base64, hashlib, json, re
from html.parser import HTMLParser
from importlib import resources
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from structure_search.visualize import (distance_map, loss_curves, rmsd_histogram, superposition_figure, superposition_page,
                                        token_strip, view_superposition)

NASTY = '''</script><script>alert("1")</script>'"><img src="https://example.org/x.png" onerror=alert(1)><!-- &amp; </title></style>'''
assets = resources.files('structure_search')/'assets'/'3dmol'
rng = np.random.default_rng(0)
true = np.cumsum(rng.normal(size=(30, 3)), axis=0)*3
pred = true + rng.normal(size=true.shape)


class Page(HTMLParser):
    "Tags with their attributes, text outside of scripts, and scripts with theirs"
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.scripts, self.stack = [], [], [], []
        self.feed(text); self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ('meta', 'img'): self.stack.append(tag)
        if tag == 'script': self.scripts.append([dict(attrs), ''])

    def handle_endtag(self, tag): assert self.stack.pop() == tag, f'{tag} closes nothing'

    def handle_data(self, data):
        if self.stack[-1:] == ['script']: self.scripts[-1][1] += data
        elif self.stack[-1:] != ['style']: self.text.append(data)

    def all(self, tag): return [attrs for name,attrs in self.tags if name == tag]


def example(**kw): return dict(dict(title='one', pred=pred, true=true), **kw)


@pytest.fixture
def full(tmp_path):
    "A page with everything, each text of it an attack"
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().plot([1, 2])
    path = superposition_page(tmp_path/'page.html', [example(title=NASTY, note=NASTY, aa='ACDEF'*6), example(aa='<'*30)], NASTY, NASTY,
                              tables=[(NASTY, [NASTY, 'n'], [[NASTY, None], [1.234, float('nan')]])], images=[(NASTY, figure), ('png', b'\x89PNG')])
    return path.read_text(encoding='utf-8')


def test_strings_stay_strings(full):
    page = Page(full)
    assert not page.stack and len(page.scripts) == 3 and len(page.all('img')) == 2
    # title, h1, intro, caption, header, cell, image caption, title and note of the example: each comes back as it was
    assert page.text.count(NASTY) == 9 and page.all('img')[0]['alt'] == NASTY
    assert {tag for tag,_ in page.tags} <= set('html head meta title style body h1 h2 p table caption tr th td figure figcaption img span div b script'.split())
    assert not [k for _,attrs in page.tags for k in attrs if k.startswith('on')]
    for name in ('1.23', '–'): assert name in page.text


def test_nothing_comes_from_the_network(full):
    page = Page(full)
    for _,attrs in page.tags:
        assert not {'href', 'srcset', 'action', 'data', 'poster'} & attrs.keys()
        assert attrs.get('src', 'data:').startswith('data:')
        assert 'url(' not in attrs.get('style', '')
    style = re.search('<style>(.*?)</style>', full, re.S)[1]
    assert 'url(' not in style and '@import' not in style
    assert not any('src' in attrs for attrs,_ in page.scripts)


def test_policy_allows_the_two_scripts_and_nothing_else(full):
    page = Page(full)
    policy, = (m['content'] for m in page.all('meta') if m.get('http-equiv') == 'Content-Security-Policy')
    rules = dict(rule.strip().split(' ', 1) for rule in policy.split(';'))
    assert rules['default-src'] == rules['base-uri'] == rules['form-action'] == "'none'"
    assert rules['img-src'] == 'data: blob:' and not {'connect-src', 'frame-src', 'object-src', 'worker-src', 'font-src'} & rules.keys()
    code = [text for attrs,text in page.scripts if attrs.get('type') != 'application/json']
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in code]
    assert len(code) == 2 and rules['script-src'].split() == hashes
    assert page.tags.index(('meta', {'http-equiv': 'Content-Security-Policy', 'content': policy})) < [tag for tag,_ in page.tags].index('style')


def test_structures_travel_whole(full):
    (attrs, text), = ((a, t) for a,t in Page(full).scripts if a.get('type') == 'application/json')
    examples = json.loads(text)
    assert attrs['id'] == 'examples' and '<' not in text and len(examples) == 2
    for models in examples:
        assert len(models) == 2
        for pdb,options,style in models:
            assert pdb.count('\nATOM ')+pdb.startswith('ATOM ') == 30 and pdb.count('CONECT') == 2*29 and options == {'assignBonds': False}
    assert ' GLU ' in examples[0][0][0] and ' UNK ' in examples[1][0][0]


def test_viewer_is_the_published_build_with_its_licence(full):
    code, licence = ((assets/name).read_bytes() for name in ('3Dmol-min.js', 'LICENSE'))
    assert hashlib.sha256(code).hexdigest() == 'f7cc78921ae72e7623e89cdd111434f58c2efddd2ffda1cd212644b406fb8016'  # 3dmol 2.5.5
    assert b'Copyright (c) 2014, University of Pittsburgh' in licence
    script = Page(full).scripts[1][1]
    assert script.startswith('/*\n3Dmol.js incorporates code') and licence.decode().strip() in script and code.decode().strip() in script


def test_too_many_or_wrong_examples_write_nothing(tmp_path):
    path = tmp_path/'page.html'
    with pytest.raises(ValueError, match='at most 12'): superposition_page(path, [example()]*13, 'many')
    with pytest.raises(ValueError, match='29 predicted residues against 30'): superposition_page(path, [example(pred=pred[1:])], 'short')
    with pytest.raises(ValueError, match='not finite'): superposition_page(path, [example(pred=pred*np.nan)], 'nan')
    with pytest.raises(ValueError, match='30 residues, but 2 letters'): superposition_page(path, [example(aa='AA')], 'letters')
    assert not path.exists()
    assert len(Page(superposition_page(path, [example()]*12, 'enough').read_text(encoding='utf-8')).all('div')) == 13


def test_page_without_structures(tmp_path):
    text = superposition_page(tmp_path/'page.html', [], 'Numbers only', 'One.\n\nTwo.').read_text(encoding='utf-8')
    assert len(text) < 5000 and not Page(text).scripts and text.count('<p>') == 2


DRAW = [lambda **kw: superposition_figure(pred, true, '$a_{', **kw), lambda **kw: distance_map(pred, true, **kw), lambda **kw: distance_map(true, **kw),
        lambda **kw: token_strip('DVVP', 'DVP', **kw), lambda **kw: token_strip([1, 2], np.arange(9), **kw), lambda **kw: token_strip('', 'DVP', **kw),
        lambda **kw: loss_curves([dict(step=1, loss=2.), dict(step=2, rmsd_mean=None)], {'unigram': 3.}, **kw),
        lambda **kw: loss_curves([dict(step=1, rmsd_median=2.), dict(rmsd_median=2.)], **kw),
        lambda **kw: rmsd_histogram([1., None, float('nan')], {'ceiling': 1.2, 'floor': 15.}, **kw), lambda **kw: rmsd_histogram([None], **kw)]


@pytest.mark.parametrize('draw', DRAW)
def test_figures(draw):
    own = draw()
    assert isinstance(own, Figure) and own.axes
    own.canvas.draw()
    other = Figure(figsize=(3, 2))
    assert draw(ax=other.add_subplot()) is other and other.axes
    assert not plt.get_fignums()  # nothing stays open


@pytest.mark.parametrize('n', [1, 2, 3])
def test_the_shortest_chains_are_drawn(n):
    superposition_figure(pred[:n], true[:n]).canvas.draw()
    distance_map(pred[:n], true[:n]).canvas.draw()
    assert view_superposition(pred[:n], true[:n])._make_html().count('addModel(') == 2


@pytest.mark.parametrize('draw', [superposition_figure, distance_map, view_superposition])
@pytest.mark.parametrize('a, b', [(pred[:9], true), (pred, true[:9]), (pred[:, :2], true[:, :2]), (pred[:0], true[:0]), (pred[None], true[None])])
def test_coordinates_that_do_not_match_are_refused(draw, a, b):
    with pytest.raises(ValueError): draw(a, b)


@pytest.mark.parametrize('draw', [
    lambda: token_strip('DVP', [1, 2, 3]), lambda: token_strip('', ''), lambda: token_strip([[1]], [[1]]),
    lambda: loss_curves([]), lambda: loss_curves([dict(loss=1.)]), lambda: loss_curves([dict(step=1, loss=None)]),
    lambda: rmsd_histogram([]), lambda: rmsd_histogram([-1.]), lambda: rmsd_histogram([float('inf')]),
    lambda: view_superposition(pred, true, 'AA'), lambda: distance_map(np.float64(1)),
])
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(ValueError): draw()


def test_handedness_is_not_hidden():
    "A mirror image is drawn as it is: superposition never reflects"
    figure = superposition_figure(true*[-1, 1, 1], true)
    assert float(figure.axes[0].get_title().split()[1]) > 1
