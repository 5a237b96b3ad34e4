"The articles' commands, pasted with only the package's name changed, do on real files what they say"
import configparser, json, math, os, re, subprocess, sys
from pathlib import Path

import pytest, torch
from conftest import ROOT
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from lm_lifecycle.cli.main import dashes, parser
from lm_lifecycle.network import Size, build
from lm_lifecycle.pretraining import save_model
from lm_lifecycle.tokens import Vocab

ARTICLE = 'The article on the whole life of large language models, from pre-training to fine-tuning, sections 4.1 and 4.2'
INSTALL = 'pip install transformers'
PRETRAIN = r'''python -m transformers.cli.preprocess \
  --input train.txt \
  --output train.tensor \
  --model-type bert \
  --tokenizer-name bert-base-uncased \
  --max-seq-length 128
''', r'''python -m transformers.cli.train \
  --model-type bert \
  --model-name-or-path bert-base-uncased \
  --train-file train.tensor \
  --output-dir output \
  --overwrite-output-dir \
  --do-train \
  --num-train-epochs 3 \
  --per-device-train-batch-size 8 \
  --learning-rate 5e-5 \
  --max-seq-length 128 \
  --mlm
'''
FINETUNE = r'''python -m transformers.cli.preprocess \
  --input train.tsv \
  --output train.tensor \
  --model-type bert \
  --tokenizer-name bert-base-uncased \
  --max-seq-length 128 \
  --task text-classification
''', r'''python -m transformers.cli.preprocess \
  --input dev.tsv \
  --output dev.tensor \
  --model-type bert \
  --tokenizer-name bert-base-uncased \
  --max-seq-length 128 \
  --task text-classification
''', r'''python -m transformers.cli.train \
  --model-type bert \
  --model-name-or-path bert-base-uncased \
  --train-file train.tensor \
  --validation-file dev.tensor \
  --output-dir output \
  --overwrite-output-dir \
  --do-train \
  --do-eval \
  --num-train-epochs 3 \
  --per-device-train-batch-size 8 \
  --learning-rate 5e-5 \
  --max-seq-length 128 \
  --task text-classification
'''

def ours(command): return command.replace('transformers', 'lm_lifecycle')
def words(command): return ours(command).replace('\\\n', ' ').split()[2:] # Without `python -m`

def paste(folder, command):
    "Into a shell, in `folder`; what was said"
    env = dict(os.environ, PYTHONPATH=str(ROOT), PATH=f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}')
    r = subprocess.run(['bash', '-c', ours(command)], cwd=folder, env=env, capture_output=True, text=True)
    assert r.returncode == 0 and 'Traceback' not in r.stderr, r.stderr
    return r.stdout

@pytest.fixture(scope='module')
def folder(tmp_path_factory, texts, labels, tok):
    "A sentence a line; sentence, tab, label; and under the model's name a small BERT, since nothing is downloaded here"
    d = tmp_path_factory.mktemp('articles'); rows = [f"{' '.join(t.split())}\t{l}\n" for t,l in labels]
    (d/'train.txt').write_text('\n'.join(' '.join(t.split()) for t in texts)+'\n', encoding='utf-8')
    (d/'train.tsv').write_text(''.join(rows[:180]), encoding='utf-8'); (d/'dev.tsv').write_text(''.join(rows[180:]), encoding='utf-8')
    save_model(build('mlm', Size(2, 64, T=128), Vocab.of(tok)), tok, d/'bert-base-uncased', 'mlm', 'Untrained.', 'nothing', {})
    return d

def same(folder, model): # Are the weights of the trunk those it began with?
    a = AutoModelForMaskedLM.from_pretrained(folder/'bert-base-uncased').base_model.state_dict(); b = model.base_model.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a)

def test_install():
    "The package goes by the name that is imported; `make wheel` installs it"
    c = configparser.ConfigParser(); c.read(ROOT/'settings.ini')
    assert ours(INSTALL).split()[-1] == c['DEFAULT']['lib_name'] == 'lm_lifecycle'

def test_pretrain(folder, texts):
    said = [paste(folder, c) for c in PRETRAIN]; m = json.loads((folder/'output/metrics.json').read_text())
    net,tok = AutoModelForMaskedLM.from_pretrained(folder/'output'), AutoTokenizer.from_pretrained(folder/'output')
    z = net(**tok(texts[:2], return_tensors='pt', padding=True, truncation=True, max_length=128)).logits
    assert z.isfinite().all() and z.shape[-1] == len(tok) and not same(folder, net)
    blocks = int(re.search(r'([\d,]+) tokens', said[0])[1].replace(',', ''))//128; assert m['steps'] == 3*(blocks//8) > 20
    assert f"steps {m['steps']}" in said[1] and m['train_loss'] < math.log(len(tok))

def test_finetune(folder, labels):
    said = [paste(folder, c) for c in FINETUNE]; m = json.loads((folder/'output/metrics.json').read_text())
    net = AutoModelForSequenceClassification.from_pretrained(folder/'output')
    assert set(net.config.id2label.values()) == {l for _,l in labels[:180]} and not same(folder, net)
    assert m['steps'] == 3*(180//8) and f"accuracy {m['accuracy']:.4g}" in said[2] and 'loss' in said[2]
    assert m['accuracy_low'] <= m['accuracy'] <= m['accuracy_high'] and m['loss'] < 1.1*math.log(net.config.num_labels)

def test_pretrain_evaluates(folder, cli, monkeypatch):
    "With --do-eval, loss and perplexity of a held-out text, cut by the same command"
    monkeypatch.chdir(folder); cut,train = (words(c)[1:] for c in PRETRAIN)
    for name in ('train','dev'): assert cli('preprocess', *[w.replace('train.', f'{name}.') for w in cut], *(('--input','train.txt') if name == 'dev' else ()))[0] == 0
    code,out,err = cli('train', *train, '--do-eval', '--validation-file', 'dev.tensor', '--max-steps', 2); m = json.loads(Path('output/metrics.json').read_text())
    assert code == 0 and f"loss {m['loss']:.4g}, perplexity {m['perplexity']:.4g}" in out and m['perplexity'] == pytest.approx(math.exp(m['loss'])), err

@pytest.mark.parametrize('command', [*PRETRAIN,*FINETUNE], ids=lambda c: ' '.join(words(c)[:3]))
def test_underscores(command):
    "`--model_type` means `--model-type`, and `--name=value` is one word"
    name,ws = words(command)[0].split('.')[-1], words(command)[1:]; under = [f"--{w[2:].replace('-', '_')}" if w.startswith('--') else w for w in ws]
    told = [vars(parser().parse_args(dashes([name, *v]))) for v in (ws, under)]
    assert told[0] == told[1] and under != ws
