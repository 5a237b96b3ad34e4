"All metadata is read from settings.ini; the version from lm_lifecycle/__init__.py."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

ini = ConfigParser(delimiters=['=']); ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
version = re.search(r'__version__ = "(.+)"', Path('lm_lifecycle/__init__.py').read_text()).group(1)
setup(version=version, description=cfg['description'], keywords=cfg['keywords'].split(), author=cfg['author'],
      license=cfg['license'], python_requires='>='+cfg['min_python'], packages=find_packages(include=['lm_lifecycle*']),
      install_requires=cfg['requirements'].split(),
      extras_require={k: cfg[f'{k}_requirements'].split() for k in ('tasks','dev','lab','browser','docs')},
      entry_points=dict(console_scripts=cfg['console_scripts'].splitlines(), nbdev=['lm_lifecycle=lm_lifecycle._modidx:d']),
      long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown')
