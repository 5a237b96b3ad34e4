"`pretrain` from a text, and `train` from a file of ids: every objective with every family that takes it; what is saved, said and uploaded"
import base64, json, math, threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModel, AutoTokenizer

from lm_lifecycle.cli.pretrain import tokenizer_of
from lm_lifecycle.network import FAMILIES
from lm_lifecycle.pretraining import metadata
from lm_lifecycle.text import Doc
from lm_lifecycle.tokens import train_tokenizer
from lm_lifecycle.training import newest, sha256

PAIRS = [(k,f) for f,kinds in FAMILIES.items() for k in kinds.split()]

@pytest.fixture(scope='module')
def files(tmp_path_factory, texts, tok):
    "`text.txt`, its words, and a folder for models"
    d = tmp_path_factory.mktemp('pretrain'); (d/'text.txt').write_text('\n\n'.join(texts[:120]), encoding='utf-8'); tok.save_pretrained(d/'words'); return d

@pytest.fixture
def pretrain(cli, files, tmp_path):
    "A few steps; later words go before"
    def f(*words, out=tmp_path/'out', steps=3):
        how = '--text', files/'text.txt', '--tokenizer-name', files/'words', '--max-steps', steps, '--batch-size', 8, '--max-seq-length', 24, '--output-dir', out
        return cli('pretrain', *how, *words)
    return f

def refused(answer, *names):
    code,out,err = answer; assert code == 2 and not out and len(err.splitlines()) == 1 and all(str(n) in err for n in names), answer

@pytest.mark.parametrize('kind,family', PAIRS)
def test_every_pair(pretrain, files, tmp_path, kind, family):
    "Trains, says its loss, and opens"
    code,out,err = pretrain('--objective', kind, '--model-type', family, '--json'); assert code == 0, err
    said,m = json.loads(out), json.loads((tmp_path/'out/metrics.json').read_text()); valid = m.pop('valid')
    assert said == m and 0 < said['loss'] < 8 and said['perplexity'] == pytest.approx(math.exp(said['loss'])) and said['bits_per_byte'] > 0
    assert [s for s,_ in valid] == [0,1,2,3] and ('next_sentence_loss' in said) == (kind == 'nsp')
    model,tok = AutoModel.from_pretrained(tmp_path/'out'), AutoTokenizer.from_pretrained(tmp_path/'out')
    assert model.config.model_type == family and tok.get_vocab() == AutoTokenizer.from_pretrained(files/'words').get_vocab()
    assert all(p.isfinite().all() for p in model.parameters()) and sorted(p.name for p in (tmp_path/'out').iterdir() if p.is_dir()) == ['checkpoints']

@pytest.mark.parametrize('kind,family', [('nsp','bert'), ('dae','llama'), ('dae','bart'), ('plm','xlnet'), ('clm','modernbert')])
def test_tensor_files(cli, work, tmp_path, kind, family):
    files = '--train-file', work/'text.tensor', '--validation-file', work/'text.tensor', '--max-seq-length', 32
    code,out,err = cli('train', '--objective', kind, '--model-type', family, *files, '--do-train', '--do-eval', '--max-steps', 2, '--output-dir', tmp_path/'out')
    assert code == 0 and 'perplexity' in out and 'bits_per_byte' in out and AutoModel.from_pretrained(tmp_path/'out').config.model_type == family, err

def test_pairs_that_do_not_exist(pretrain, cli, work, tmp_path, monkeypatch):
    "One line, before a file is read"
    monkeypatch.setattr('lm_lifecycle.cli.pretrain.unlabelled', None); monkeypatch.setattr('lm_lifecycle.cli.train.unpack', None)
    for kind,family in (('mlm','gpt2'), ('nsp','modernbert'), ('clm','bart'), ('plm','bart'), ('dae','xlnet')):
        refused(pretrain('--objective', kind, '--model-type', family), kind, family, 'use ')
        refused(cli('train', '--objective', kind, '--model-type', family, '--train-file', work/'text.tensor', '--do-train', '--output-dir', tmp_path/'out'), kind, family)
    assert not (tmp_path/'out').exists()

def test_no_sentences(pretrain, cli, files, tmp_path):
    (tmp_path/'flat.txt').write_text('\n\n'.join(f'no end {i} to it '*9 for i in range(50)))
    refused(pretrain('--objective', 'nsp', '--text', tmp_path/'flat.txt'), 'flat.txt', 'full stops')
    assert cli('preprocess', '--input', tmp_path/'flat.txt', '--output', tmp_path/'flat.tensor', '--tokenizer-name', files/'words', '--max-seq-length', 24)[0] == 0
    refused(cli('train', '--objective', 'nsp', '--train-file', tmp_path/'flat.tensor', '--max-seq-length', 24, '--do-train', '--output-dir', tmp_path/'o'), 'flat.tensor', 'full stops')

def test_the_text_in_pieces(pretrain, tmp_path, texts):
    "Several files, one held out; a bad row is refused, or left out and counted"
    (tmp_path/'a.txt').write_text('\n\n'.join(texts[:60]), encoding='utf-8'); (tmp_path/'dev.txt').write_text('\n\n'.join(texts[60:90]), encoding='utf-8')
    rows = [json.dumps(dict(text=t)) for t in texts[90:120]]; (tmp_path/'b.jsonl').write_text('\n'.join([*rows[:7], '{"body": "x"}', *rows[7:]]))
    how = '--text', tmp_path/'a.txt', tmp_path/'b.jsonl', '--validation-text', tmp_path/'dev.txt'; refused(pretrain(*how), 'b.jsonl:8')
    code,out,err = pretrain(*how, '--skip-bad-rows'); assert code == 0 and 'b.jsonl:8' in err and '1 bad' in err and 'loss' in out
    assert 'a.txt, b.jsonl' in (tmp_path/'out/README.md').read_text()

def test_a_tokenizer_is_learnt_once(files, texts, tmp_path, monkeypatch):
    "It is kept beside the checkpoints, and found there by the next run, unless the text is another"
    args = SimpleNamespace(model_name_or_path=None, tokenizer_name=None, model_type='bert', vocab_size=300); made = []
    monkeypatch.setattr('lm_lifecycle.cli.pretrain.train_tokenizer', lambda *a: (made.append(a), train_tokenizer(*a))[1])
    for t in (texts[:50], texts[:50], texts[50:99], texts[50:99]): tok = tokenizer_of(args, t, tmp_path)
    assert len(made) == 2 and tok.get_vocab() == train_tokenizer(texts[50:99], 300).get_vocab()

def test_reading_on(pretrain, cli, files, tmp_path):
    "From weights of its own, with their tokenizer; and a BERT changes direction when it is told to"
    one = tmp_path/'one'; assert pretrain('--objective', 'clm', out=one)[0] == 0
    refused(pretrain('--model-name-or-path', one), '--tokenizer-name')
    how = '--text', files/'text.txt', '--model-name-or-path', one, '--max-steps', 2, '--batch-size', 8, '--max-seq-length', 24
    assert cli('pretrain', '--objective', 'mlm', *how, '--output-dir', tmp_path/'two')[0] == 0
    a,b = (AutoModel.from_pretrained(d) for d in (one, tmp_path/'two')); assert a.config.is_decoder and not b.config.is_decoder
    moved = (a.get_input_embeddings().weight - b.get_input_embeddings().weight).abs().max().item(); assert 0 < moved < .02
    card = (tmp_path/'two/README.md').read_text(); assert 'first weights are those of one' in card and 'base_model' not in card and str(tmp_path) not in card

def test_afresh_or_on(pretrain, tmp_path):
    "The same command has nothing left to do; another is refused; with --force it goes on; --overwrite-output-dir begins again"
    out = tmp_path/'out'; run = lambda *w: pretrain('--save-steps', 1, *w)[0]; weights = lambda: sha256(out/'model.safetensors')
    assert run() == 0; first = weights(); assert run() == 0 and weights() == first
    assert run('--seed', 1) == 7 and weights() == first and run('--seed', 1, '--max-steps', 5, '--force') == 0
    assert newest(out/'checkpoints')[1]['step'] == 5 and weights() != first
    assert run('--overwrite-output-dir') == 0 and weights() == first and newest(out/'checkpoints')[1]['step'] == 3

def test_a_folder_with_other_things(pretrain, tmp_path):
    (tmp_path/'out').mkdir(); (tmp_path/'out/mine.txt').write_text('mine'); refused(pretrain(), 'mine.txt', '--output-dir')

class Hub(BaseHTTPRequestHandler):
    "Says yes to whatever an upload asks, or no to everything"
    def log_message(self, *a): pass
    def do_GET(self): self.do_POST()
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0))); self.server.asked.append((self.path,body)); o,code = {}, 200
        if self.path == '/api/repos/create': o = dict(url=f'{self.server.at}/me/model', name='me/model')
        elif 'preupload' in self.path: o = dict(files=[dict(path=f['path'], uploadMode='regular', shouldIgnore=False) for f in json.loads(body)['files']])
        elif 'commit' in self.path: o = dict(commitUrl=f'{self.server.at}/me/model/commit/1', commitOid='1', success=True)
        if self.server.closed: o,code = dict(error='Invalid username or password.'), 401
        data = json.dumps(o).encode(); self.send_response(code)
        for k,v in {'Content-Type':'application/json', 'Content-Length':str(len(data))}.items(): self.send_header(k, v)
        self.end_headers(); self.wfile.write(data)

@pytest.fixture
def hub(monkeypatch):
    s = ThreadingHTTPServer(('127.0.0.1', 0), Hub); s.at,s.asked,s.closed = f'http://127.0.0.1:{s.server_port}', [], False
    threading.Thread(target=s.serve_forever, daemon=True).start(); monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.setattr('lm_lifecycle.pretraining.HfApi', partial(HfApi, endpoint=s.at, token='hf_none')); yield s
    s.shutdown(); s.server_close()

def test_push(pretrain, hub, tmp_path):
    "The model's files, all of them and nothing else"
    code,out,err = pretrain('--push-to-hub', 'me/model'); assert code == 0 and 'loss' in out, err
    lines = [json.loads(l) for p,b in hub.asked if '/commit/' in p for l in b.splitlines()]; sent = {l['value']['path']: l['value'] for l in lines if l['key'] == 'file'}
    assert sorted(sent) == sorted(p.name for p in (tmp_path/'out').iterdir() if p.is_file() and p.name[0] != '.')
    assert base64.b64decode(sent['model.safetensors']['content']) == (tmp_path/'out/model.safetensors').read_bytes()

@pytest.mark.parametrize('why', ['not logged in','offline'])
def test_push_fails(pretrain, hub, tmp_path, monkeypatch, why):
    "Exit 3 and one line; the model is there all the same"
    hub.closed = True
    if why == 'offline': monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    code,out,err = pretrain('--push-to-hub', 'me/model'); assert code == 3 and 'loss' in out and len(err.splitlines()) == 1 and 'me/model' in err and str(tmp_path/'out') in err, err
    assert AutoModel.from_pretrained(tmp_path/'out')

def test_cards(cli, files, texts, tmp_path, pretrain, monkeypatch):
    "What the hub wants to know, as its own library reads it"
    assert pretrain('--objective', 'clm', '--model-type', 'gpt2')[0] == 0; card = ModelCard.load(tmp_path/'out/README.md'); d = card.data
    assert (d.library_name,d.pipeline_tag,d.license,d.metrics,d.tags) == ('transformers','text-generation','unknown',['perplexity'],['lm-lifecycle','clm'])
    assert d.language is None and d.base_model is None and 'causal language modelling' in card.text and str(files) not in card.content
    monkeypatch.setattr('lm_lifecycle.life.docs', lambda split=None: [Doc(t, 's', 'n', 'train') for t in texts[:200]]) # Not all of them
    assert cli('pretrain', '--tokenizer-name', files/'words', '--max-steps', 1, '--batch-size', 8, '--max-seq-length', 24, '--output-dir', tmp_path/'docs')[0] == 0
    assert ModelCard.load(tmp_path/'docs/README.md').data.language == 'en'

def test_names_of_the_hub_and_no_others(tmp_path):
    "A folder is nobody else's business; a name may be anything that YAML can quote"
    read = lambda *a, **kw: ModelCard(f'---\n{metadata(*a, **kw)}\n---\n').data
    d = read('cls', dict(accuracy=.5, f1=.4, steps=3), 'nobody/bert: "a"', [str(tmp_path),'ag_news']); assert d.base_model == ['nobody/bert: "a"'] and d.datasets == ['ag_news']
    assert d.metrics == ['accuracy','f1'] and d.pipeline_tag == 'text-classification' and read('mlm', {}, tmp_path).base_model is None
