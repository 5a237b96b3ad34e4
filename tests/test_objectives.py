"Every objective and loss is its formula: the registry is whole (that each oracle agrees is line D5 of the battery)"
import importlib, inspect, json, re

import pytest, torch

from conftest import ROOT
from transformers import AutoModel
from lm_lifecycle.core import FORMULAS, Loss, View
from lm_lifecycle.network import FAMILIES, Size, build, load
from lm_lifecycle.pretraining import RACE, race_rows
from lm_lifecycle.tokens import Vocab

HOMES = 'core','autoencoding','autoregressive','network'
VOCAB = Vocab(60, 0, 2, 3, 4, (0,1,2,3,4), stops=(5,6))
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

@pytest.mark.parametrize('kind,family', [(k,f) for f,kinds in FAMILIES.items() for k in kinds.split()])
def test_checkpoints_open_again(kind, family, tmp_path):
    net = build(kind, Size(1, 64, T=16), VOCAB, family); net.model.save_pretrained(tmp_path); again = load(kind, tmp_path)
    assert AutoModel.from_pretrained(tmp_path).config.model_type == family == again.model.config.model_type
    for (n,a),b in zip(net.named_parameters(), again.parameters(), strict=True): assert torch.equal(a, b), n

def test_every_chapter_of_the_race_is_an_objective():
    assert set(RACE) == set(FAMILIES['bert'].split()) - {'cls'} and all(any(n.endswith(f'.{k}') for n in FORMULAS) for k in RACE)

def test_tables_are_the_results_file():
    "README and notebook 9 show `results/pretraining.json`, row by row"
    r = json.loads((ROOT/'results/pretraining.json').read_text()); readme = (ROOT/'README.md').read_text(encoding='utf-8')
    outputs = [o for c in json.loads((ROOT/'nbs/09_pretraining.ipynb').read_text())['cells'] for o in c.get('outputs', [])]
    shown = ''.join(''.join(o.get('data', {}).get('text/plain', '')) for o in outputs)
    for row in race_rows(r, 'tokens'): assert '| '+' | '.join(row)+' |' in readme
    for which in ('tokens','flops','ablations'):
        for row in race_rows(r, which): assert all(cell in shown for cell in row), row
