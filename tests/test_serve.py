"Evaluate, predict, generate, inspect: right answers in the right order, and a clear word when there is none"
import csv, io, json, math, os, shutil, signal, subprocess, sys, threading
from itertools import count, islice

import pytest, torch
from conftest import ROOT
from hypothesis import given, settings, strategies as st
from transformers import AutoModelForCausalLM, BertModel, pipeline

from lm_lifecycle.cli import predict as command
from lm_lifecycle.cli.evaluate import rows_of, saved_for
from lm_lifecycle.core import plan
from lm_lifecycle.network import Size, build, label_names, load, open_config, quiet
from lm_lifecycle.pretraining import save_model
from lm_lifecycle.tasks.answering import Answering, Questions
from lm_lifecycle.tasks.classification import Classification, predict
from lm_lifecycle.tasks.generation import Generation, generate
from lm_lifecycle.tasks.tagging import Tagging
from lm_lifecycle.tokens import Vocab, stream, token_bytes

FP32 = '--precision', 'fp32'
pytestmark = pytest.mark.filterwarnings('ignore:.*cut at their end')
MODELS = dict(mlm=('mlm','bert'), nsp=('nsp','bert'), dae=('dae','bert'), plm=('plm','bert'), clm=('clm','gpt2'), bart=('dae','bart'), llama=('clm','llama'),
              two=('cls','bert'), many=('cls','bert'), value=('cls','bert'), tag=('tag','bert'), qa=('qa','bert'), seq=('seq2seq','bert'))
HEAD = dict(two=label_names(['good','bad']), many=dict(label_names(['=x','y','z']), problem_type='multi_label_classification'),
            value=dict(label_names(['value']), problem_type='regression'), tag=label_names(['O','B-PER','I-PER']))

@pytest.fixture(scope='module')
def models(tok, tmp_path_factory):
    "A folder of small networks with large random weights, so that every text is answered differently"
    d = tmp_path_factory.mktemp('models')
    for i,(name,(kind,family)) in enumerate(MODELS.items()):
        wide = dict(init_std=.4) if family == 'bart' else dict(initializer_range=.4)
        net = build(kind, Size(2, 64, T=64), Vocab.of(tok), family, i, **wide, **HEAD.get(name, {}))
        save_model(net, tok, d/name, kind, 'Untrained.', 'nothing', {})
    return d

@pytest.fixture
def ask(cli, monkeypatch, models):
    "`lm-lifecycle COMMAND --model-name-or-path MODEL …`, with something on standard input"
    def f(command, model, *words, typed=''):
        data = typed if isinstance(typed, bytes) else typed.encode()
        monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(data)))
        return cli(command, '--model-name-or-path', models/model, *words)
    return f

@pytest.fixture(scope='module')
def lines(texts): return [' '.join(t.split()) for t in texts if t.strip()][:40]

@pytest.fixture(scope='module')
def text_file(lines, tmp_path_factory):
    f = tmp_path_factory.mktemp('text')/'t.txt'; f.write_text('\n'.join(lines), encoding='utf-8'); return f

# evaluate

def test_causal_scores_are_those_of_transformers(ask, models, text_file, lines, tok):
    code,out,_ = ask('evaluate', 'clm', '--file', text_file, '--json', '--max-seq-length', 32, *FP32); r = json.loads(out)
    m,(ids,doc) = AutoModelForCausalLM.from_pretrained(models/'clm').eval(), stream(lines, tok); nats,n,size = 0., 0, 0
    for x,d in zip(ids.long().split(32), doc.split(32)):
        if len(x) < 2: continue
        with torch.no_grad(): logp = m(x[None]).logits[0].log_softmax(-1)
        at = (d[1:] == d[:-1]).nonzero()[:,0]; y = x[1:][at]
        nats -= float(logp[at,y].sum()); n += len(y); size += int(token_bytes(tok)[y].sum())
    assert code == 0 and r['objective'] == 'clm' and r['tokens'] == n and abs(r['loss'] - nats/n) < 1e-4
    assert abs(r['perplexity'] - math.exp(nats/n)) < 1e-2*r['perplexity'] and abs(r['bits_per_byte'] - nats/math.log(2)/size) < 1e-3

@pytest.mark.parametrize('model,objective', [('mlm','mlm'), ('nsp','mlm'), ('dae','dae'), ('plm','plm'), ('bart','dae'), ('llama','clm')])
def test_an_objective_is_scored_the_same_however_it_is_cut(ask, text_file, model, objective):
    found = [json.loads(ask('evaluate', model, '--file', text_file, '--json', '--batch-size', b, *FP32)[1]) for b in (3,64)]
    assert found[0]['objective'] == found[1]['objective'] == objective and found[0]['tokens'] == found[1]['tokens'] > 20
    assert abs(found[0]['loss'] - found[1]['loss']) < 1e-4 and ('perplexity' in found[0]) == (objective == 'clm') != ('pseudo_perplexity' in found[0])

def test_text_is_read_as_it_is_needed(tok):
    got = list(islice(rows_of((f'text number {i} '*50 for i in count()), tok, 32, 8), 3)) # The text has no end
    assert [tuple(x.shape) for _,x,_ in got] == [(8,32)]*3 and torch.cat([r for r,*_ in got]).tolist() == list(range(24))

def test_pieces_do_not_show(tok, lines, monkeypatch):
    whole = list(rows_of(iter(lines), tok, 32, 8)); monkeypatch.setattr('lm_lifecycle.cli.evaluate.pieces', lambda texts: ([t] for t in texts))
    cut = list(rows_of(iter(lines), tok, 32, 8)); assert len(cut) > len(whole)
    for a,b in zip(zip(*whole), zip(*cut)): assert torch.equal(torch.cat([t.flatten() for t in a]), torch.cat([t.flatten() for t in b]))

def test_a_labelled_file_has_the_scores_of_its_task(ask, models, lines, tok, tmp_path):
    (tmp_path/'l.tsv').write_text(''.join(f"{t}\t{['good','bad'][i%2]}\n" for i,t in enumerate(lines)), encoding='utf-8')
    r = json.loads(ask('evaluate', 'two', '--file', tmp_path/'l.tsv', '--json', '--max-seq-length', 64, *FP32)[1])
    task = Classification.read(tmp_path/'l.tsv', tok, 64, ['good','bad'])
    want = task.score(predict(load('cls', models/'two'), task, plan(precision='fp32'))); assert r == dict(want, task='text-classification', examples=len(lines))
    (tmp_path/'n.jsonl').write_text('\n'.join(json.dumps(dict(tokens=t.split()[:5], tags=['O']*len(t.split()[:5]))) for t in lines), encoding='utf-8')
    assert 0 <= json.loads(ask('evaluate', 'tag', '--file', tmp_path/'n.jsonl', '--json')[1])['accuracy'] <= 1

@pytest.mark.parametrize('model,name,text,why', [('two','n.tsv','a text\tnew\n','n.tsv:1'), ('mlm','e.txt','\n','e.txt'), ('mlm','s.txt','\ufffd','short'),
    ('two','n.tsv','a text\n','n.tsv:1'), ('qa','q.jsonl','{"question": "Who?"}\n','q.jsonl:1')])
def test_evaluate_refuses(ask, tmp_path, tok, model, name, text, why):
    (tmp_path/name).write_text(text, encoding='utf-8'); code,out,err = ask('evaluate', model, '--file', tmp_path/name)
    if why == 'short': why = name if tok.unk_token_id is None else ''
    if why: assert code == 2 and not out and why in err and err.count('\n') == 1, err

def test_evaluate_leaves_bad_rows_out_if_told(ask, tmp_path, lines):
    (tmp_path/'l.tsv').write_text(f'{lines[0]}\tgood\nno tab\n{lines[1]}\tbad\n', encoding='utf-8')
    code,out,err = ask('evaluate', 'two', '--file', tmp_path/'l.tsv', '--skip-bad-rows', '--json')
    assert code == 0 and json.loads(out)['examples'] == 2 and 'l.tsv:2' in err

# predict

PLAIN = lambda lines: '\n'.join(lines)+'\n'
def spoken(lines, task): # The same texts, as the task wants them
    if task == 'question-answering': return [f'{" ".join(t.split()[:3])}?\t{t}' for t in lines]
    return [f'the [MASK] of {t[:40]}' for t in lines] if task == 'fill-mask' else lines

def alone(models, tok, model, line): # What the library says to one line
    net = load(MODELS[model][0], models/model); c,p = net.model.config, plan(precision='fp32')
    if model == 'tag': task = Tagging.raw([line], tok, 64, c); return dict(words=task.data.words[0], tags=predict(net, task, p)[0])
    if model == 'qa': q,t = line.split('\t'); task = Answering(Questions(['1'], [q], [t], None), tok, 64); return dict(answer=task.decode(predict(net, task, p))[0][0])
    if model in ('seq','dae','bart'): return dict(text=generate(net, [line], tok, p)[0])
    if model in ('clm','llama'): return dict(text=generate(net, Generation.raw([line], tok, 128, c, form='causal'), p=p)[0])
    a = (task := Classification.raw([line], tok, 64, c)).decode(predict(net, task, p))[0]
    return dict(label=a[0]) if model == 'two' else dict(value=a) if model == 'value' else dict(labels=[n for n,_ in a])

@pytest.mark.parametrize('model', ['two','many','value','tag','qa','seq','bart','clm','llama'])
def test_every_task_answers_line_by_line(ask, models, lines, tok, model):
    some = [*spoken(lines, 'question-answering' if model == 'qa' else '')[:6], '', lines[7] if model != 'qa' else f'Who?\t{lines[7]}']
    code,out,err = ask('predict', model, '--format', 'jsonl', '--batch-size', 3, '--max-seq-length', 64, *FP32, typed=PLAIN(some)); rows = [json.loads(l) for l in out.splitlines()]
    assert code == 0 and len(rows) == len(some) and rows[6] == {}, err
    for row,line in zip(rows, some):
        for k,v in alone(models, tok, model, line).items() if line else ():
            assert row[k] == (pytest.approx(v, abs=1e-4) if isinstance(v, float) else v), line

def test_blanks_are_filled_as_the_pipeline_fills_them(ask, models, lines):
    some = spoken(lines[:8], 'fill-mask'); rows = [json.loads(l) for l in ask('predict', 'mlm', '--format', 'jsonl', *FP32, typed=PLAIN(some))[1].splitlines()]
    with quiet(): fill = pipeline('fill-mask', str(models/'mlm'), device='cpu')
    for row,s in zip(rows, some):
        best = fill(s, top_k=1)[0]; assert row['words'] == [best['token_str'].strip()] and abs(row['probabilities'][0] - best['score']) < 1e-4

def test_classes_are_those_of_the_pipeline(ask, models, lines):
    rows = [l.split('\t') for l in ask('predict', 'two', '--max-seq-length', 64, *FP32, typed=PLAIN(lines))[1].splitlines()]
    with quiet(): said = pipeline('text-classification', str(models/'two'), device='cpu')(lines, truncation=True, max_length=64)
    assert [a for a,_ in rows] == [r['label'] for r in said] and all(abs(float(q) - r['score']) < 2e-4 for (_,q),r in zip(rows, said))

@pytest.fixture(scope='module')
def pool(models, tok, lines):
    "A network, lines of many lengths, and what it says to each of them alone"
    some,net,p = [' '.join(t.split()[:1+k%17]) for k,t in enumerate(lines)], load('cls', models/'two'), plan(precision='fp32')
    return net, some, [float(predict(net, Classification.raw([s], tok, 64, net.model.config), p)[0,0]) for s in some]

@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-5, 39), min_size=1, max_size=60), st.integers(1, 5), st.integers(1, 3))
def test_order_is_kept_whatever_the_lengths(pool, tok, picks, B, batches):
    "Any lines, some of them empty, in windows and batches of any size: each has its own answer"
    net,some,alone = pool; xs = [(n, some[i] if i >= 0 else None) for n,i in enumerate(picks, 1)]; said = []
    for w in command.windows(xs, B*batches): said += command.answered(net, 'text-classification', w, tok, 64, plan(precision='fp32'), B, 'f')[0]
    assert len(said) == len(picks)
    for a,i in zip(said, picks): assert a is None if i < 0 else abs((a['probability'] if a['label'] == 'good' else 1 - a['probability']) - alone[i]) < 1e-4

def test_the_lines_of_the_pool_can_be_told_apart(pool): assert len({round(q, 3) for q in pool[2]}) > 25

@pytest.mark.parametrize('model', ['two','many','qa','tag'])
def test_formats_say_the_same(ask, lines, model):
    some = PLAIN(spoken(lines[:10], 'question-answering') if model == 'qa' else lines[:10]); how = '--max-seq-length', 64, *FP32
    rows = [json.loads(l) for l in ask('predict', model, *how, '--format', 'jsonl', typed=some)[1].splitlines()]
    flat = [['|'.join(map(str, v)) if isinstance(v, list) else '' if v is None else str(v) for v in r.values()] for r in rows]
    for fmt in ('csv','tsv'):
        out = ask('predict', model, *how, '--format', fmt, '--raw-cells', typed=some)[1]; assert len(out.splitlines()) == 10
        assert (list(csv.reader(io.StringIO(out))) if fmt == 'csv' else [l.split('\t') for l in out.splitlines()]) == [list(map(command.cell, r)) for r in flat]
    safe = ask('predict', model, *how, '--format', 'csv', typed=some)[1]
    assert not any(c[:1] in ('=','+','-','@') and not c[1:2].isdigit() for r in csv.reader(io.StringIO(safe)) for c in r)
    if model == 'many': assert "'=x" in safe

def test_json_lines_and_files(ask, lines, models, tmp_path):
    rows = [dict(text=t, text2=lines[0], label='x') for t in lines[:5]]; f = tmp_path/'in.jsonl'; f.write_text('\n'.join(map(json.dumps, rows)))
    code,out,_ = ask('predict', 'two', '--input', f, '--output', tmp_path/'out.csv', '--format', 'csv', '--json'); assert code == 0 and json.loads(out)['lines'] == 5
    assert len((tmp_path/'out.csv').read_text().splitlines()) == 5
    tagged = ask('predict', 'tag', '--input-format', 'jsonl', '--format', 'jsonl', typed=json.dumps(dict(tokens=['New York','is'])))[1]
    assert json.loads(tagged)['words'] == ['New York','is']
    cut = ask('predict', 'two', '--max-seq-length', 8, typed='one two three four five six seven eight\nshort\n'); assert cut[0] == 0 and '1 of 2 lines' in cut[2]

BAD = [('two', ['--input-format','jsonl'], '{"text": "a"}\n\n{"txt": 1}', 'stdin:3'), ('two', ['--input-format','jsonl'], '[1]', 'stdin:1'),
       ('two', ['--input-format','jsonl'], '{"text": "a"}\n{"text": "a", "text2": "b"}', 'stdin:2'), ('mlm', [], 'a [MASK]\nnone', 'stdin:2'),
       ('qa', [], 'Who?\tI.\nno tab', 'stdin:2'), ('qa', [], 'Who?\t ', 'stdin:1'), ('qa', [], f"{'why '*99}?\tso", 'stdin:1'), ('two', [], b'fine\n\xff', 'stdin:2'),
       ('two', ['--encoding','utf-9'], 'a', 'utf-9'), ('plm', [], 'a', 'plm'), ('two', ['--task','regression'], 'a', 'regression'), ('tag', ['--task','text-generation'], 'a', 'text-generation'),
       ('none', [], 'a', 'none'), ('two', ['--max-seq-length','4'], 'a', 'give 5'), ('two', ['--input','nowhere.txt'], '', 'nowhere.txt'), ('trunk', [], 'a', 'head')]

@pytest.mark.parametrize('model,words,typed,why', BAD)
def test_predict_refuses(ask, models, tok, model, words, typed, why):
    if model == 'trunk' and not (models/'trunk').exists():
        BertModel(open_config(models/'mlm')).save_pretrained(models/'trunk'); tok.save_pretrained(models/'trunk')
    code,out,err = ask('predict', model, *words, typed=typed)
    assert code == 2 and why in err and err.count('\n') == 1 and 'Traceback' not in err, err

def test_weights_that_are_no_numbers_are_refused(ask, models, tok, tmp_path):
    net = load('cls', models/'two'); net.model.classifier.weight.data[0,0] = math.nan; save_model(net, tok, models/'nan', 'cls', 'Damaged.', 'nothing', {})
    code,out,err = ask('predict', 'nan', typed='a\n'); assert code == 5 and not out and 'classifier.weight' in err
    shutil.rmtree(models/'nan')

def process(models, *words): # predict, running
    argv = [sys.executable, '-m', 'lm_lifecycle.cli.predict', '--model-name-or-path', str(models/'two'), *words]
    env = {k: v for k,v in os.environ.items() if k != 'PYTHONUNBUFFERED'}
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler) # Where tests run in the background, it is ignored
    p = subprocess.Popen(argv, env=dict(env, PYTHONPATH=str(ROOT)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    late = threading.Timer(60, p.kill); late.daemon = True; late.start(); return p # Whoever waits for it in vain is told

def test_answers_stream_and_an_interrupt_is_quiet(models):
    p = process(models, '--batch-size', '1'); p.stdin.write('some text\n'*60); p.stdin.flush()
    assert '\t' in p.stdout.readline() # … although the input has not ended
    p.send_signal(signal.SIGINT); _,err = p.communicate(timeout=30); assert p.returncode == 130 and err == 'lm-lifecycle: interrupted\n'

def test_a_broken_pipe_is_quiet(models):
    p = process(models, '--batch-size', '1'); p.stdin.write('some text\n'*60); p.stdin.flush()
    p.stdout.readline(); p.stdout.close()
    try: p.stdin.write('some text\n'*20000); p.stdin.close()
    except BrokenPipeError: pass
    err = p.stderr.read(); assert p.wait(30) == 141 and err == '', err

# generate

@pytest.mark.parametrize('model', ['clm','llama','dae','bart','seq'])
def test_writers_write_what_the_library_writes(ask, models, tok, lines, model):
    prompts = [' '.join(t.split()[:4]) for t in lines[:5]]; kind = MODELS[model][0]; net = load(kind, models/model)
    for how in ([], ['--num-beams',3], ['--temperature',1.,'--top-k',9,'--top-p',.9,'--seed',4]):
        code,out,err = ask('generate', model, '--max-new-tokens', 8, '--json', *FP32, *how, typed=PLAIN([prompts[0], '', *prompts[1:]])); assert code == 0, err
        called = {'--num-beams':'beams', '--temperature':'tau', '--top-k':'k', '--top-p':'top', '--seed':'seed'}; d = {called[k]: v for k,v in zip(how[::2], how[1::2])}
        task = Generation.raw(prompts, tok, 40, net.model.config, out=8, hint='' if kind == 'clm' else None)
        want = generate(net, task, p=plan(precision='fp32'), **d)
        assert json.loads(out)['texts'] == [want[0], '', *want[1:]]
    assert ask('generate', model, '--max-new-tokens', 4, '--prompt', *prompts)[1].count('\n') == 5

def test_answering_ends_the_prompt(ask, models, tok, lines):
    prompts = [' '.join(t.split()[:5]) for t in lines[:3]]; net,how = load('clm', models/'llama'), ('--max-new-tokens', 8, '--json', *FP32, '--prompt', *prompts)
    said = json.loads(ask('generate', 'llama', '--answer', *how)[1])['texts']; task = Generation.raw(prompts, tok, 48, net.model.config, out=8)
    assert said == generate(net, task, p=plan(precision='fp32')) != json.loads(ask('generate', 'llama', *how)[1])['texts']

@pytest.mark.parametrize('model,words,why', [('mlm',[],'only reads'), ('two',[],'only reads'), ('qa',[],'only reads'), ('plm',[],'only reads'), ('clm',['--top-k',5],'--temperature'),
    ('clm',['--num-beams',2,'--temperature',1],'beam'), ('clm',['--max-new-tokens',0],'0'), ('clm',['--prompt','word '*99],'shorten'), ('bart',['--prompt','ok','word '*99],'prompt 2')])
def test_generate_refuses(ask, model, words, why):
    code,out,err = ask('generate', model, *([] if '--prompt' in words else ['--prompt','a']), *words)
    assert code == 2 and not out and why in err and err.count('\n') == 1, err

# inspect

@pytest.fixture(scope='module')
def run_dir(work, tmp_path_factory):
    "A run of `train` with two checkpoints"
    from lm_lifecycle.cli.main import main
    d = tmp_path_factory.mktemp('run')/'out'
    assert main(['train', '--mlm', '--train-file', str(work/'text.tensor'), '--output-dir', str(d), '--do-train', '--max-steps', '4', '--save-steps', '2', '--max-seq-length', '32']) == 0
    return d

def look(cli, *paths):
    code,out,err = cli('inspect', '--json', *paths); return code, json.loads(out)['paths'], err

def test_inspect_knows_what_everything_is(cli, models, run_dir, work):
    code,(m,r,s,t,d),_ = look(cli, models/'two', run_dir, run_dir/'checkpoints/step-0000002', work/'text.tensor', work/'labels.jsonl'); assert code == 0
    assert [f['what'] for f in (m,r,s,t,d)] == ['model','model','checkpoint','token ids','rows'] and all(f['whole'] for f in (m,r,s,t,d))
    assert m['labels'] == ['good','bad'] and m['saved_for'] == 'text-classification' and m['positions'] == 64
    assert m['parameters'] == sum(w.numel() for w in load('cls', models/'two').parameters())
    assert r['newest'] == 'step-0000004' and r['settings']['recipe.steps'] == 4 and s['step'] == 2 and s['loss'] > 0
    assert t['T'] == 32 and t['tokens'] > t['texts'] > 0 and d['rows'] == sum(d['labels'].values()) and d['longest'] >= d['median'] >= d['shortest']
    assert cli('inspect', models/'mlm', work/'text.tensor')[1].count('whole') == 2

def flip(f): b = bytearray(f.read_bytes()); b[len(b)//2] ^= 1; f.write_bytes(b)
def cut(f): f.write_bytes(f.read_bytes()[:-7])
LAST = 'checkpoints/step-0000004'
DAMAGE = dict(flipped=(f'{LAST}/optimizer.safetensors', flip, 'optimizer.safetensors is altered'), gone=(f'{LAST}/model.safetensors', lambda f: f.unlink(), 'model.safetensors'),
              manifest=(f'{LAST}/manifest.json', cut, 'step-0000004'), deep=(f'{LAST}/manifest.json', lambda f: f.write_text('['*9999), 'step-0000004'),
              weights=('model.safetensors', cut, 'run'), config=('config.json', cut, 'config.json'),
              tokenizer=('tokenizer.json', cut, 'tokenizer'))

@pytest.mark.parametrize('name', DAMAGE)
def test_inspect_names_the_damage(cli, run_dir, tmp_path, name):
    f,harm,why = DAMAGE[name]; d = shutil.copytree(run_dir, tmp_path/'run'); harm(d/f); code,(r,),err = look(cli, d)
    assert code in (2,6) and not r['whole'] and any(why in p for p in r['problems']) and err.count('\n') == 1, r
    if name in ('flipped','gone','manifest','deep'): assert code == 2 and r['newest'] == 'step-0000002' and r['checkpoints'] == {'step-0000002':'whole', 'step-0000004':'damaged'}

def test_inspect_misses_weights_and_numbers(cli, models, tok, tmp_path):
    net = load('cls', models/'two'); net.model.classifier.weight.data[0,0] = math.inf; save_model(net, tok, tmp_path/'inf', 'cls', 'Damaged.', 'nothing', {})
    shutil.copytree(models/'mlm', tmp_path/'head'); c = json.loads((tmp_path/'head/config.json').read_text())
    (tmp_path/'head/config.json').write_text(json.dumps(dict(c, architectures=['BertForSequenceClassification'])))
    code,(a,b),_ = look(cli, tmp_path/'inf', tmp_path/'head'); assert code == 2 and 'not finite' in a['problems'][0] and 'missing' in b['problems'][0]

def test_inspect_of_files(cli, work, tmp_path):
    shutil.copy(work/'text.tensor', tmp_path/'t.tensor'); cut(tmp_path/'t.tensor'); (tmp_path/'b.tsv').write_text('a\tx\nno tab\nb\ty\n'); (tmp_path/'e.csv').write_text('text,label\n')
    code,(t,b,e,n),_ = look(cli, tmp_path/'t.tensor', tmp_path/'b.tsv', tmp_path/'e.csv', tmp_path/'nothing'); assert code in (2,6) and not any(f['whole'] for f in (t,b,e,n))
    assert b['bad_rows'] == 1 and b['rows'] == 2 and 'b.tsv:2' in b['problems'][0] and 'no rows' in e['problems'][0]
    assert look(cli, tmp_path/'b.tsv', '--skip-bad-rows')[0] == 0
    (tmp_path/'d').mkdir(); [shutil.copy(work/f, tmp_path/'d') for f in ('text.txt','labels.jsonl')]; assert len(look(cli, tmp_path/'d')[1]) == 2

def test_inspect_does_not_open_what_is_not_safe(cli, models, tmp_path):
    d = shutil.copytree(models/'two', tmp_path/'m'); (d/'model.safetensors').rename(d/'pytorch_model.bin')
    code,(r,),err = look(cli, d); assert code == 6 and not r['whole'] and err.count('\n') == 1
    d = shutil.copytree(models/'two', tmp_path/'code'); c = json.loads((d/'config.json').read_text()); (d/'config.json').write_text(json.dumps(dict(c, auto_map=dict(AutoModel='m.M'))))
    assert look(cli, d)[0] == 6

def test_what_others_have_saved_is_known(models, tok, tmp_path):
    "No card of ours, only a class"
    for name,(kind,_) in MODELS.items():
        load(kind, models/name).model.save_pretrained(tmp_path/name); assert saved_for(models/name, open_config(models/name)) == kind
        assert saved_for(tmp_path/name, open_config(tmp_path/name)) == dict(dae='mlm', plm='mlm', seq='mlm', bart='seq2seq').get(name, kind)
