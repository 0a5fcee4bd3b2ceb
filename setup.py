"Packaging. Every value lives in `settings.ini`: edit there, not here."
from configparser import ConfigParser
from pathlib import Path
from shlex import split
from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    license=cfg['license'],
    url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host']+cfg['doc_baseurl']},
    python_requires='>='+cfg['min_python'],
    packages=find_packages(include=[cfg['lib_path']+'*']),
    package_data={cfg['lib_path']: ['assets/*', 'assets/*/*']},
    install_requires=split(cfg['requirements']),
    extras_require={extra: split(cfg[f'{extra}_requirements']) for extra in ('lab', 'flash', 'dev')},
    entry_points={
        'console_scripts': split(cfg['console_scripts']),
        'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],  # lets nbdev link `names` in the docs to us
    },
)
