"The lab's tables are what `results/lab.json` says, and its cells are what they claim"
import json, subprocess, sys

import pytest
from conftest import ROOT

from lm_lifecycle.core import BadInput
from lm_lifecycle.finetuning import STRATEGIES
from lm_lifecycle.lab.grid import FIELDS, LAB_HEAD, LR, ORIGINS, PARTLY, SEEDS, base_rows, lab, lab_rows, origin_rows, plan_of_lab

RESULT = json.loads((ROOT/'results/lab.json').read_text(encoding='utf-8'))

def test_tables_are_the_results_file():
    "README and notebook 12b, row by row"
    readme = (ROOT/'README.md').read_text(encoding='utf-8'); cells = json.loads((ROOT/'nbs/12b_lab_grid.ipynb').read_text())['cells']
    shown = ''.join(''.join(o.get('data', {}).get('text/plain', '')) for c in cells for o in c.get('outputs', []))
    rows = lab_rows(RESULT) + base_rows(RESULT) + [r for how in PARTLY for r in origin_rows(RESULT, how)]
    for row in rows: assert '| '+' | '.join(row)+' |' in readme and all(cell in shown for cell in row), row
    assert '| '+' | '.join(LAB_HEAD)+' |' in readme

def test_every_cell_is_there_once():
    want = {(o,h,s) for o,h,s in plan_of_lab()}; assert len(want) == SEEDS*(len(STRATEGIES) + len(PARTLY)*(len(ORIGINS) - 1))
    for name in FIELDS:
        t = RESULT['tasks'][name]; assert {(c['origin'],c['how'],c['seed']) for c in t['cells']} == want and len(t['cells']) == len(want)
        assert all(0 <= c['score'][t['metric']] <= 1 and c['seconds'] > 0 and c['flops'] > 0 for c in t['cells'])
    assert RESULT['lr'] == LR

def test_a_lab_without_trunks_is_one_line(tmp_path):
    with pytest.raises(BadInput, match='race'): lab(tmp_path/'lab', tmp_path/'none')

SMALL = '''
import sys; from dataclasses import replace; from pathlib import Path
from lm_lifecycle.lab import grid; from lm_lifecycle.network import Size, build; from lm_lifecycle.pretraining import save_model
from lm_lifecycle.tokens import Vocab, train_tokenizer; from lm_lifecycle.text import docs
d = Path(sys.argv[1]); tok = train_tokenizer([t.text for t in docs('valid')], 1024)
for o in grid.ORIGINS[:-1]: save_model(build('clm' if o == 'clm' else 'mlm', Size(1, 64, T=64), Vocab.of(tok)), tok, d/'race'/o, 'mlm', '', '', {})
grid.FIELDS, grid.SEEDS = {n: lambda *a, f=f: replace(f(*a), steps=2) for n,f in list(grid.FIELDS.items())[:1]}, 1
grid.lab(d/'lab', d/'race', d/'lab.json', 64, 10); first = {f.name: f.stat().st_mtime for f in (d/'lab').iterdir()}
grid.lab(d/'lab', d/'race', d/'again.json', 64, 10); assert first == {f.name: f.stat().st_mtime for f in (d/'lab').iterdir()} and len(first) == 13
'''

def test_a_small_lab_runs_and_goes_on(tmp_path):
    "In a process of its own; the second time every cell is there already"
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', SMALL, tmp_path], cwd=ROOT, capture_output=True, text=True); assert r.returncode == 0, r.stderr[-2000:]
    a,b = (json.loads((tmp_path/f).read_text()) for f in ('lab.json','again.json')); assert a['tasks'] == b['tasks']
