"""Write README.md from nbs/index.ipynb, with the standard library alone.

    python tools/make_readme.py            # write it
    python tools/make_readme.py --check    # exit 1 and show the difference if it is out of date

- The first cell is `# name` and `> summary`. Markdown cells are copied as they are, except for links.
- Links in index.ipynb are relative to nbs/, where it lives: `00_foldseek_db.ipynb` becomes `nbs/00_foldseek_db.ipynb`, and a file at the top level is
  written `../FILE` and becomes `FILE`. Addresses (`https:`, `mailto:`, ...), `#anchors`, `/absolute` paths and everything in code stay as they are.
- Code cells become python blocks without their `#|` lines; cells with `#| hide` or `#| default_exp` are left out.
- Text that a cell printed follows as an indented block. Pictures stored in the notebook are left out: show a file from a markdown cell instead.
"""
import argparse, difflib, json, posixpath, re, sys
from pathlib import Path

NOTE = '<!-- Made from nbs/index.ipynb by tools/make_readme.py: edit the notebook, not this file. -->'
_code = re.compile(r'^[ \t]*(?P<fence>`{3,}|~{3,}).*?(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)|(?P<tick>`+)(?!`)(?:(?!\n[ \t]*\n).)*?(?<!`)(?P=tick)(?!`)', re.M|re.S)
_link = re.compile(r'''(\]\(\s*<?|^ {0,3}\[[^\]\n]+\]:[ \t]*<?|<(?:a|img)\b[^>]*?\s(?:href|src)\s*=\s*["'])([^\s)>"']+)''', re.M)
_kept = re.compile(r'[a-z][a-z0-9+.-]*:|[#/]', re.I)
_directive = re.compile(r'^\s*#\s*\|\s*(.*?)\s*$')
_ansi = re.compile(r'\x1b\[[0-9;]*[A-Za-z]')

def text(lines):
    "Notebooks store text as a string or as a list of lines"
    return lines if isinstance(lines, str) else ''.join(lines)

def from_top(link, folder='nbs'):
    "A link of a notebook in `folder`, as seen from the top level"
    return link if _kept.match(link) else posixpath.normpath(f'{folder}/{link}')

def relink(md):
    "Markdown with its links seen from the top level; code is taken out first and put back untouched"
    codes = []
    def take(m): codes.append(m[0]); return f'\x00{len(codes)-1}\x00'
    linked = _link.sub(lambda m: m[1]+from_top(m[2]), _code.sub(take, md))
    return re.sub(r'\x00(\d+)\x00', lambda m: codes[int(m[1])], linked)

def code_block(source):
    "A python block, fenced by more backticks than the code holds in a row"
    fence = '`'*max([3]+[len(m)+1 for m in re.findall('`{3,}', source)])
    return f'{fence}python\n{source}\n{fence}'

def shown(output):
    "What an output shows as text: ('text'|'markdown', text), or None for pictures and widgets"
    if output['output_type']=='stream': return 'text', text(output['text'])
    data = output.get('data', {})
    if any(k.split('/')[0] in ('image', 'application') for k in data): return None
    if 'text/markdown' in data: return 'markdown', relink(text(data['text/markdown']))
    return ('text', text(data['text/plain'])) if 'text/plain' in data else None

def output_blocks(outputs):
    "Markdown blocks of a cell's outputs; neighbouring pieces of text are joined"
    blocks = []
    for kind,s in filter(None, map(shown, outputs)):
        if blocks and kind=='text'==blocks[-1][0]: blocks[-1][1] += ('' if blocks[-1][1].endswith('\n') else '\n')+s
        else: blocks.append([kind, s])
    for kind,s in blocks:
        s = _ansi.sub('', s).strip('\n')
        if s.strip(): yield s if kind=='markdown' else '\n'.join(('    '+l).rstrip() for l in s.split('\n'))

def cell_blocks(cell):
    "Markdown blocks of one cell"
    source = text(cell['source']).strip('\n')
    if cell['cell_type']=='markdown': return [relink(source)] if source.strip() else []
    if cell['cell_type']!='code': return []
    lines = source.split('\n')
    directives = {(m[1].split() or [''])[0] for m in map(_directive.match, lines) if m}
    if directives & {'hide', 'default_exp'}: return []
    failed = [o for o in cell['outputs'] if o['output_type']=='error']
    if failed: raise ValueError(f'a cell of the notebook ended in {failed[0]["ename"]}: {lines[0]!r}; run it again')
    source = '\n'.join(l for l in lines if not _directive.match(l)).strip('\n')
    return ([code_block(source)] if source.strip() else [])+list(output_blocks(cell['outputs']))

def readme(notebook):
    "README.md of a notebook, given as the dictionary in its file"
    cells = notebook['cells']
    if not cells or cells[0]['cell_type']!='markdown' or not re.match(r'# \S.*\n+> \S', text(cells[0]['source'])):
        raise ValueError('the first cell must be markdown: `# name`, an empty line, `> summary`')
    return '\n\n'.join([NOTE]+[b for c in cells for b in cell_blocks(c)])+'\n'

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--check', action='store_true', help='write nothing; exit 1 if README.md is out of date')
    p.add_argument('--top', type=Path, default=Path(__file__).resolve().parents[1], help='folder of README.md and nbs/ (default: this repository)')
    a = p.parse_args(argv)
    nb, dest = a.top/'nbs'/'index.ipynb', a.top/'README.md'
    try: new = readme(json.loads(nb.read_text(encoding='utf-8')))
    except (FileNotFoundError, ValueError) as e: print(f'nbs/index.ipynb: {e}', file=sys.stderr); return 1
    old = dest.read_text(encoding='utf-8') if dest.exists() else ''
    if new==old: print('README.md is up to date'); return 0
    if not a.check: dest.write_text(new, encoding='utf-8', newline='\n'); print(f'README.md written, {len(new.splitlines())} lines'); return 0
    print('README.md is not what nbs/index.ipynb gives: run `python tools/make_readme.py`', file=sys.stderr)
    diff = list(difflib.unified_diff(old.splitlines(), new.splitlines(), 'README.md', 'nbs/index.ipynb', n=1, lineterm=''))
    for line in diff[:20]: print(line[:160], file=sys.stderr)
    if len(diff)>20: print(f'... {len(diff)-20} more lines', file=sys.stderr)
    return 1

if __name__=='__main__': sys.exit(main())
