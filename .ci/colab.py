"A Colab badge and an install cell at the head of each notebook, from `git_url` in settings.ini; `--check` compares instead of writing."
import hashlib, json, sys
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).parent.parent; ini = ConfigParser(delimiters=['=']); ini.read(root/'settings.ini', encoding='utf-8')
url = ini['DEFAULT']['git_url']; slug = url.removeprefix('https://github.com/')
INSTALL = f'''#| hide
# Fetches and installs the package where it is missing, as on Colab; torch stays as it is
from importlib.util import find_spec
if find_spec('lm_lifecycle') is None:
    !git clone -q --depth 1 {url} book
    %pip install -q './book[tasks]'
    %cd -q book/nbs'''

def lines(s): return s.splitlines(True)

def headed(nb, name): # The notebook with both
    first = [l for l in ''.join(nb['cells'][0]['source']).splitlines() if 'colab-badge' not in l]
    badge = f'[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{slug}/blob/main/nbs/{name})'
    while not first[2].strip(): del first[2]
    first[2:2] = ['', badge, '']; nb['cells'][0]['source'] = lines('\n'.join(first))
    cells = [c for c in nb['cells'] if "find_spec('lm_lifecycle')" not in ''.join(c['source'])]
    cell = dict(cell_type='code', id=hashlib.sha1(INSTALL.encode()).hexdigest()[:8], metadata={}, source=lines(INSTALL), execution_count=None, outputs=[])
    return dict(nb, cells=[cells[0], cell, *cells[1:]])

off = []
for f in sorted((root/'nbs').glob('*.ipynb')):
    old = json.loads(f.read_text(encoding='utf-8')); new = headed(json.loads(f.read_text(encoding='utf-8')), f.name)
    if new != old: off.append(f.name)
    if new != old and '--check' not in sys.argv: f.write_text(json.dumps(new, ensure_ascii=False, indent=1)+'\n', encoding='utf-8')
if '--check' in sys.argv and off: sys.exit(f"no badge, or another: {', '.join(off)}; run python .ci/colab.py")
