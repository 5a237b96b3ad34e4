"A whole life on real text and real labels, small enough to watch"
import json, re, shutil

import pytest, torch
from conftest import write_rows
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from lm_lifecycle.core import Mismatch
from lm_lifecycle.life import Scale, life
from lm_lifecycle.network import Size

EVIL = '<script>alert(1)<script>'
SMALL = Scale(Size(1, 64, 400, 32), mlm=6, clm=4, B=8, ks=(4,), seeds=2, test=40)
MODELS = dict(mlm=AutoModelForMaskedLM, clm=AutoModelForCausalLM, classifier=AutoModelForSequenceClassification)

@pytest.fixture(scope='module')
def born(tmp_path_factory, texts, labels):
    "Folder, arguments and metrics of one life; markup in text, labels and file names"
    d = tmp_path_factory.mktemp('life'); text = d/f'{EVIL}.txt'; text.write_text('\n\n'.join(f'{EVIL} {t}' for t in texts), encoding='utf-8')
    kw = dict(scale=SMALL, text=[text], labels=write_rows(d/f'{EVIL}.jsonl', [(t, f'{EVIL} {l}') for t,l in labels]))
    with pytest.MonkeyPatch.context() as mp: mp.setenv('LM_LIFECYCLE_CACHE', str(d/'cache')); yield d/'life', kw, life(d/'life', **kw)

@pytest.mark.parametrize('name', MODELS)
def test_folder_opens(born, name, texts):
    model,tok = (a.from_pretrained(born[0]/name) for a in (MODELS[name],AutoTokenizer))
    z = model(**tok(texts[:3], return_tensors='pt', padding=True, truncation=True, max_length=32)).logits
    assert z.isfinite().all() and z.shape[-1] == (model.config.num_labels if name == 'classifier' else len(tok))
    card = (born[0]/name/'README.md').read_text(encoding='utf-8')
    assert ModelCard(card).data.library_name == 'transformers' and MODELS[name].__name__ in card

def test_class_names_are_saved(born, labels):
    assert set(AutoModelForSequenceClassification.from_pretrained(born[0]/'classifier').config.id2label.values()) == {f'{EVIL} {l}' for _,l in labels}

def test_no_pickle_is_written(born):
    assert {p.suffix for p in born[0].rglob('*') if p.is_file() and p.name not in ('.lock','.pid')} == {'.json','.safetensors','.html','.md'}

def test_the_command(born, cli, monkeypatch):
    "A table for people, everything for machines"
    monkeypatch.setattr('lm_lifecycle.life.life', lambda *a: born[2]); code,out,_ = cli('life', '--out', 'x')
    assert code == 0 and 'majority class' in out and out.splitlines()[-1].startswith('x/report.html')
    code,out,_ = cli('life', '--json'); assert code == 0 and json.loads(out) == born[2]

def test_metrics_are_what_is_returned(born): assert json.loads((born[0]/'metrics.json').read_text(encoding='utf-8')) == born[2]

def test_metrics(born):
    m = born[2]; names = {r['what'] for r in m['rows']}
    assert names == {'pre-trained','from scratch','TF-IDF + logistic regression','majority class','pre-trained − from scratch, paired'}
    assert all(r['low'] <= r['mean'] <= r['high'] and len(r['seeds']) == SMALL.seeds for r in m['rows'])
    assert len(m['mlm']['train']) == SMALL.mlm and m['cost']['tokens seen'] == (SMALL.mlm + SMALL.clm)*SMALL.B*SMALL.size.T
    assert isinstance(m['clm']['written'], str)

def test_report_escapes_what_it_shows(born):
    html = (born[0]/'report.html').read_text(encoding='utf-8')
    assert '<script' not in html and '&lt;script&gt;alert(1)' in html and EVIL not in html
    assert "default-src 'none'" in html and not re.search(r'(src|href)="(?!data:)', html)
    assert not re.search(r'\bon\w+=', re.sub(r'base64,[\w+/=]+', '', html))

def test_interrupted_life_goes_on(born, tmp_path):
    "Lose a pre-training half done and half the comparison: the same rows again"
    out,kw,m = born; late = tmp_path/'life'; shutil.copytree(out, late)
    for f in (late/'metrics.json', late/'report.html', late/'stages/clm.json', *(late/'stages').glob('tune-*')): f.unlink()
    for d in ('clm','classifier','checkpoints/clm'): shutil.rmtree(late/d)
    again = life(late, resume=True, **kw); again['clm']['seconds'] = m['clm']['seconds']
    assert again['rows'] == m['rows'] and again['mlm'] == m['mlm'] and again['clm'] == m['clm']
    for n in MODELS: assert (late/n/'model.safetensors').read_bytes() == (out/n/'model.safetensors').read_bytes()

def test_killed_in_the_middle(born, tmp_path, monkeypatch):
    "An interrupt between two stages leaves a folder that --resume completes"
    out,kw,m = born; real = torch.optim.AdamW.step; calls = []
    def step(self, *a, **k):
        calls.append(1)
        if len(calls) == SMALL.mlm + 2: raise KeyboardInterrupt
        return real(self, *a, **k)
    with monkeypatch.context() as mp, pytest.raises(KeyboardInterrupt): mp.setattr(torch.optim.AdamW, 'step', step); life(tmp_path/'life', **kw)
    assert life(tmp_path/'life', resume=True, **kw)['rows'] == m['rows']

def test_another_life_is_not_mixed_in(born):
    before = (born[0]/'run.json').read_bytes()
    with pytest.raises(Mismatch, match='seed'): life(born[0], resume=True, seed=1, **born[1])
    assert (born[0]/'run.json').read_bytes() == before
