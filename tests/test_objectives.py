"Every objective and loss is its formula: the registry is whole, and every oracle agrees on hundreds of shapes"
import importlib, inspect, json, re

import pytest, torch
from hypothesis import given, settings, strategies as st

from conftest import ROOT
from lm_lifecycle.core import FORMULAS, Loss, View
from lm_lifecycle.network import FAMILIES
from lm_lifecycle.pretraining import RACE, race_rows

HOMES = 'core','autoencoding','autoregressive','network'
FORMS = {'autoregressive.streams','autoregressive.xlnet'} # Two ways to write what `plm` says

def promised():
    "Every exported function of these chapters that returns a view or a loss, and the total"
    for home in HOMES:
        m = importlib.import_module(f'lm_lifecycle.{home}')
        for n,f in vars(m).items():
            if inspect.isfunction(f) and f.__module__ == m.__name__ and inspect.signature(f).return_annotation in (View,Loss): yield f'{home}.{n}'

def test_registry_is_whole(): assert set(promised()) - FORMS | {'core.total'} == set(FORMULAS)

@pytest.mark.parametrize('name', sorted(FORMULAS))
def test_formula_and_source(name):
    f = FORMULAS[name]; assert f.tex.count('{') == f.tex.count('}') and re.search(r'\d', f.source)

@pytest.mark.parametrize('name', sorted(FORMULAS))
@settings(max_examples=500, derandomize=True, deadline=None)
@given(st.integers(1, 4), st.integers(2, 14), st.integers(8, 40), st.integers(0, 2**31-1))
def test_oracle(name, B, T, V, seed):
    assert FORMULAS[name].check(B, T, V, seed) <= 1e-6

def test_every_chapter_of_the_race_is_an_objective():
    assert set(RACE) == set(FAMILIES['bert'].split()) - {'cls'} and all(any(n.endswith(f'.{k}') for n in FORMULAS) for k in RACE)

def test_tables_are_the_results_file():
    "README and notebook 9 show `results/pretraining.json`, row by row"
    r = json.loads((ROOT/'results/pretraining.json').read_text()); readme = (ROOT/'README.md').read_text(encoding='utf-8')
    shown = ''.join(''.join(o.get('text', '')) for c in json.loads((ROOT/'nbs/09_pretraining.ipynb').read_text())['cells'] for o in c.get('outputs', []))
    for row in race_rows(r, 'tokens'): assert '| '+' | '.join(row)+' |' in readme
    for which in ('tokens','flops','ablations'):
        for row in race_rows(r, which): assert all(cell in shown for cell in row), row
