"What the package says of itself, held together."
import configparser, shlex, tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

def settings():
    c = configparser.ConfigParser(delimiters=['=']); c.read(ROOT/'settings.ini', encoding='utf-8')
    return c['DEFAULT']

def test_uv_and_pip_have_the_same_pins():
    pins = [l.strip() for l in open(ROOT/'constraints.txt') if l.strip() and not l.startswith('#')]
    assert tomllib.loads((ROOT/'pyproject.toml').read_text())['tool']['uv']['constraint-dependencies']==pins

def test_version_is_one():
    import structure_search
    assert settings()['version']==structure_search.__version__
    assert f'## {structure_search.__version__}' in (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')

def test_commands_exist():
    for line in shlex.split(settings()['console_scripts']):
        module, name = line.split('=')[1].split(':')
        source = (ROOT/'nbs').glob(f'*_{module.split(".")[1]}.ipynb')
        assert next(source, None) is not None, f'{module} has no notebook'
        assert callable(getattr(__import__(module, fromlist=[name]), name))

def test_nothing_unknown_is_installed():
    "The name kanzi on PyPI is another project"
    wanted = shlex.split(settings()['requirements'])+[r for extra in ('lab','flash','dev') for r in shlex.split(settings()[f'{extra}_requirements'])]
    assert not [r for r in wanted if r.lower().startswith('kanzi')]
