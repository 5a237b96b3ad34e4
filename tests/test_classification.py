"Classification: what goes in, what comes out, and one clear line for a file that does not fit"
import json, math, subprocess, sys, warnings

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from lm_lifecycle.core import BadInput, Plan, rows_at
from lm_lifecycle.network import Size, build, load
from lm_lifecycle.pretraining import save_model
from lm_lifecycle.tasks.classification import CLASSIFIERS, Classification, MultiLabel, Regression, outputs, predict, worst
from lm_lifecycle.text import Labelled
from lm_lifecycle.tokens import Vocab
from lm_lifecycle.training import Recipe, train

FP32,SMALL = Plan('cpu', 'fp32', 'eager'), Size(1, 32, T=48)
MAKE = dict( # Kind → data of twelve texts
    single=lambda ts: (Classification, Labelled(ts, [i%3 for i in range(12)], ['a','b','c'])),
    pair=lambda ts: (Classification, Labelled(list(zip(ts, ts[::-1])), [i%2 for i in range(12)], ['no','yes'])),
    many=lambda ts: (MultiLabel, Labelled(ts, [[k for k in range(3) if i>>k & 1] for i in range(12)], ['a','b','c'])),
    amount=lambda ts: (Regression, Labelled(ts, [i/4 - 1 for i in range(12)], ['value'])))
KINDS = pytest.mark.parametrize('kind', MAKE)

@pytest.fixture(scope='module')
def some(texts): return [t[:10*(i+2)].replace('\n', ' ') for i,t in enumerate(texts[:12])]

@pytest.fixture
def make(some, tok):
    def f(kind, T=48): cls,data = MAKE[kind](some); return cls(data, tok, T)
    return f

def net_of(task, seed=0): return build('cls', SMALL, task.vocab, seed=seed, initializer_range=.3, **task.head)

RELOAD = '''import json, sys, torch; from transformers import AutoModelForSequenceClassification as Auto, AutoTokenizer
def z(path, items):
    m,tok = Auto.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    rows = [t if isinstance(t, list) else [t] for t in items]
    with torch.no_grad(): z = torch.cat([m(**tok(*r, return_tensors='pt', truncation=True, max_length=48)).logits for r in rows])
    return dict(problem=m.config.problem_type, names=list(m.config.id2label.values()), z=z.tolist())
print(json.dumps({path: z(path, items) for path,items in json.loads(sys.argv[1]).items()}))'''

def test_round_trip(make, tok, tmp_path):
    "Fine-tune, save, open with `transformers` in a fresh process: the same predictions; raw texts need nothing but the folder"
    done = {}
    for kind in MAKE:
        task,path = make(kind), str(tmp_path/kind); net = net_of(task); before = predict(net, task, FP32)
        train(net, lambda step: task.encode(rows_at(step, 12, 6)[0]), Recipe(20, lr=5e-3), FP32); save_model(net, tok, path, 'cls', 'A test.', 'texts', {})
        done[path] = task,predict(net, task, FP32); assert (done[path][1] - before).abs().max() > .05
    r = subprocess.run([sys.executable, '-c', RELOAD, json.dumps({p: t.data.texts for p,(t,_) in done.items()})], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    for path,found in json.loads(r.stdout).items():
        task,ours = done[path]; net = load('cls', path); assert (found['problem'],found['names']) == (task.problem,task.names)
        torch.testing.assert_close(task.answer(torch.tensor(found['z'])), ours, rtol=0, atol=1e-5)
        raw = Classification.raw(task.data.texts, tok, config=net.model.config); assert type(raw) is type(task) and raw.names == task.names
        torch.testing.assert_close(predict(net, raw, FP32), ours, rtol=0, atol=1e-5)
        assert str(raw.decode(ours)) == str(task.decode(ours))

@KINDS
@settings(max_examples=10, deadline=None)
@given(rows=st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True), data=st.data())
def test_nobody_depends_on_company(some, tok, kind, rows, data):
    "Any rows in any order: the same answers as all of them, one by one"
    cls,d = MAKE[kind](some); task = cls(d, tok, 48); part = cls(d.pick(rows), tok, 48); net = net_of(task)
    alone = predict(net, task, FP32, B=1); B = data.draw(st.integers(1, 12))
    torch.testing.assert_close(predict(net, part, FP32, B), alone[rows], rtol=0, atol=1e-5)
    torch.testing.assert_close(part.encode(range(len(rows))).labels[task.asks], task.encode(rows).labels[task.asks])

@KINDS
def test_encode_is_pure(make, tok, kind):
    "The same rows, the same view; a row's ids are those of the tokenizer"
    task = make(kind, 24); a,b = task.encode([3,0,7]), task.encode(torch.tensor([3,0,7]))
    assert all(torch.equal(x, b.inputs[k]) for k,x in a.inputs.items()) and torch.equal(a.labels[task.asks], b.labels[task.asks])
    if kind == 'many': assert a.labels['value'].tolist() == [[1,1,0],[0,0,0],[1,1,1]]
    assert ('token_type_ids' in a.inputs) == (kind == 'pair') and max(task.lengths) <= 24 and task.cut > 0
    theirs = tok(*(map(list, zip(*task.data.texts)) if kind == 'pair' else [task.data.texts]), truncation=True, max_length=24)
    for k,x in a.inputs.items(): assert [r[m.bool()].tolist() for r,m in zip(x, a.inputs['attention_mask'])] == [theirs[k][i] for i in (3,0,7)]

@settings(max_examples=40, deadline=None)
@given(a=st.integers(1, 30), b=st.integers(1, 30), T=st.integers(8, 40))
def test_the_longer_text_is_cut_first(tok, a, b, T):
    "No text of a pair is cut while the other is longer; both keep a part"
    n = lambda s: len(tok(s, add_special_tokens=False)['input_ids']); s,t = 'a '*a, 'a '*b; la,lb = n(s),n(t)
    task = Classification(Labelled([(s,t)], [1], ['x','y']), tok, T); ka,kb = task.types[0].count(0) - 2, task.types[0].count(1) - 1
    assert task.ids[0].count(task.vocab.sep) == 2 and len(task.ids[0]) == min(la + lb + 3, T) and ka > 0 < kb
    assert (ka == la or ka + 1 >= kb) and (kb == lb or kb + 1 >= ka) and task.cut == (la + lb + 3 > T)

def test_scores(make):
    "Against numbers worked out by hand"
    single,many,amount = make('single'), make('many'), make('amount')
    p = torch.eye(3)[[0]*12]; s = single.score(p)
    assert list(s)[0] == 'accuracy' and s['accuracy'] == pytest.approx(1/3) and s['f1'] == pytest.approx((2*4/16)/3)
    perfect = many.score(many.y); assert list(perfect)[0] == 'f1' and set(perfect.values()) == {1.}
    flipped = many.y.clone(); flipped[5,0] = 1 - flipped[5,0]; assert many.score(flipped)['exact'] == pytest.approx(11/12)
    assert many.score(torch.zeros(12, 3)) == dict(f1=0., f1_macro=0., exact=1/6) # Rows 0 and 8 have none of the three
    s = amount.score(2*amount.y + 1); assert s['pearson'] == pytest.approx(1) == s['spearman'] and s['mse'] == pytest.approx(float(((amount.y + 1)**2).mean()))
    assert amount.score(torch.ones(12))['pearson'] == 0
    assert all(type(v) is float for s in (single.score(p), perfect, s) for v in s.values())

def test_what_a_user_is_shown(make):
    "Names, not numbers: the likeliest class; every class above a half; an amount"
    p = torch.tensor([[.2,.45,.35],[.6,.55,.5]])
    assert str(make('single').decode(p)) == str([('b',p[0,1].item()),('a',p[1,0].item())])
    assert [[n for n,_ in row] for row in make('many').decode(p)] == [[],['a','b']] and make('amount').decode(torch.tensor([1.,-2])) == [1,-2]

@KINDS
def test_worst_is_dearest(make, kind):
    "`surprise` is the loss, text by text, and `worst` sorts by it"
    task = make(kind); net = net_of(task); out = predict(net, task, FP32); found = worst(out, task, 12)
    one = [float(net.eval()(task.encode([i]))[task.asks].sum.detach()) for i in range(12)]
    np.testing.assert_allclose(task.surprise(out), one, rtol=1e-4)
    assert [t for t,*_ in found] == [task.data.texts[i] for i in np.argsort(one)[::-1]]

def test_dropout_comes_back(make):
    "Reading the network leaves it as it was, even when the reader stops early"
    net = net_of(make('single')); net.train(); gen = outputs(net, make('single'), FP32, 4); next(gen)
    assert not net.training; gen.close(); assert net.training

@pytest.mark.parametrize('a,b', [(a,b) for a in MAKE for b in MAKE if {a,b} not in ({'single'},{'pair'},{'many'},{'amount'})])
def test_a_network_made_for_something_else(make, a, b):
    with pytest.raises(BadInput, match='build or load it with'): predict(net_of(make(a)), make(b), FP32)

def test_class_ids_before_one_number(some, tok):
    "`num_labels=1` would silently read class numbers as amounts"
    task = Classification(Labelled(some[:2], [0,1], ['a','b']), tok)
    with pytest.raises(BadInput, match='regression with num_labels=1.*want single_label_classification with 2'): predict(build('cls', SMALL, task.vocab, num_labels=1), task)

@pytest.mark.parametrize('labels', [[1,2,3], [0,-1,1], ['a','b','c'], [0,1,math.nan]], ids=str)
def test_label_out_of_range(tok, labels):
    with pytest.raises(BadInput, match='example [12]: label .* is none of 0 to 2.*number them from 0|example 0: label .a. is none of 0 to 2'):
        Classification(Labelled(['x']*3, labels, [*'abc']), tok)
    with pytest.raises(BadInput, match='is none of 0 to 2'): MultiLabel(Labelled(['x']*3, [[l] for l in labels], [*'abc']), tok)

CONFIG = {c: build('cls', SMALL, Vocab(64, 0, 1, 2, 3, (0,1,2,3)), **kw).model.config for c,kw in dict(
    one=dict(num_labels=1), three=dict(num_labels=3, id2label={0:'a',1:'b',2:'c'}, label2id=dict(a=0,b=1,c=2))).items()}
BAD = dict( # Reader, name, content, config: line, value, remedy
    missing_tab=(Classification, 'f.tsv', 'good\tx\nno tab here\n', None, 2, "'no tab here'", 'separate text, label by one tab each'),
    extra_tab=(Classification, 'f.tsv', 'good\tx\nbad\tmore\ty\n', None, 2, "'bad more y'", 'separate text, label by one tab each'),
    extra_tab_in_pair=(Classification, 'f.tsv', 'text\ttext2\tlabel\na\tb\tx\na\tb\tc\ty\n', None, 3, "'a b c y'", 'separate text, text2, label'),
    stray_quote=(Classification, 'f.csv', 'text,label\na,x\n"b,y\nc,x\n', None, 3, '"b,y', 'put the text in quotes'),
    quote_within=(Classification, 'f.csv', 'text,label\n"so "good" it is",x\n', None, 2, '"so "good" it is",x', 'double quotes within'),
    no_label=(Classification, 'f.tsv', 'a\tx\nb\t\n', None, 2, 'the label is empty', 'fill it'),
    no_second_text=(Classification, 'f.tsv', 'text\ttext2\tlabel\na\t\tx\n', None, 2, 'the text is empty', 'fill it'),
    null=(Classification, 'f.jsonl', '{"text":"a","label":"x"}\n{"text":"b","label":null}\n', None, 2, 'None', 'give it a value'),
    several=(Classification, 'f.jsonl', '{"text":"a","label":["x","y"]}\n', None, 1, "['x', 'y']", 'give it a value'),
    unseen=(Classification, 'f.tsv', 'a\ta\nb\td\n', 'three', 2, "'d'", 'correct or train with it'),
    unseen_in_list=(MultiLabel, 'f.tsv', 'a\ta\nb\ta|d\n', ['a','b'], 2, "'d'", 'correct or train with it'),
    broken_list=(MultiLabel, 'f.tsv', 'a\tx\nb\t["x"\n', None, 2, '\'["x"\'', 'write ["a", "b"]'),
    list_of_lists=(MultiLabel, 'f.jsonl', '{"text":"a","label":[["x"]]}\n', None, 1, "['x']", 'write ["a", "b"]'),
    nan=(Regression, 'f.tsv', 'a\t1.5\nb\tnan\n', None, 2, "'nan'", 'correct it'),
    inf=(Regression, 'f.tsv', 'a\t1.5\nb\t-inf\n', None, 2, "'-inf'", 'correct it'),
    word=(Regression, 'f.csv', 'text,label\na,1.5\nb,good\n', None, 3, "'good'", 'correct it'),
    class_ids=(Regression, 'f.tsv', 'a\t1\nb\t0\nc\t2\n', None, 1, "'1'", 'read them with Classification'),
    classes_for_one_number=(Classification, 'f.tsv', 'a\tgood\nb\tbad\n', 'one', 1, "'good'", 'read the file with Regression'),
    class_numbers_for_one_number=(Classification, 'f.tsv', 'a\t0\nb\t1\n', 'one', 1, "'0'", 'use a model without a classifier'),
    amounts_for_classes=(Regression, 'f.tsv', 'a\t0.5\n', 'three', 1, "'0.5'", 'read the file with Classification'))

@pytest.mark.parametrize('name', BAD)
def test_bad_file(tok, tmp_path, name):
    "One line that names file, line, value and remedy"
    cls,f,content,config,line,value,remedy = BAD[name]; (f := tmp_path/f).write_text(content, encoding='utf-8')
    with pytest.raises(BadInput) as e: cls.read(f, tok, **(dict(names=config) if isinstance(config, list) else dict(config=config and CONFIG[config])))
    said = str(e.value); assert said.startswith(f'{f}:{line}: ') and value in said and remedy in said and '\n' not in said

@pytest.mark.parametrize('cls', CLASSIFIERS.values(), ids=lambda c: c.__name__)
def test_empty_file(tok, tmp_path, cls):
    (f := tmp_path/'f.csv').write_text('text,label\n')
    with pytest.raises(BadInput, match='f.csv: holds no examples; write'): cls.read(f, tok)

def test_good_files(tok, tmp_path):
    "Labels that start from 1, labels that are words, and whole numbers that are amounts"
    def read(cls, s, **kw): (tmp_path/'f.tsv').write_text(s); return cls.read(tmp_path/'f.tsv', tok, **kw)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        a = read(Classification, 'a\t1\nb\t2\nc\t10\nd\t1\ne\t2\nf\t10\n'); assert a.names == ['1','2','10'] and a.y.tolist() == [0,1,2,0,1,2]
        assert read(Classification, 'a\tgood\nb\tbad\nc\tgood\nd\tbad\n').y.tolist() == [1,0,1,0]
        assert read(Classification, 'a\tb\n', config=CONFIG['three']).y.tolist() == [1]
        assert read(Regression, 'a\t1\nb\t2\n').y.tolist() == [1,2] and read(Regression, 'a\t1.0\nb\t0.0\n').y.tolist() == [1,0]
        assert read(Regression, 'a\t1\nb\t0\n', config=CONFIG['one']).y.tolist() == [1,0]

@pytest.mark.parametrize('cls,s', [(Classification, 'a\tx\nb\ty\nc\ty\nd\tz\n'), (MultiLabel, 'a\tx|y\nb\ty\nc\ty|z\nd\t\n')], ids=['single','many'])
def test_class_of_one_example(tok, tmp_path, cls, s):
    "Counted and warned of in training; nothing is said of a test file"
    (f := tmp_path/'f.tsv').write_text(s)
    with pytest.warns(UserWarning, match="f.tsv:1: class 'x' has one example, and so have 1 more; add some"): task = cls.read(f, tok)
    with warnings.catch_warnings(): warnings.simplefilter('error'); cls.read(f, tok, names=task.names)

@pytest.mark.parametrize('items', [[], [3], ['a',None], ['a',('a','b')], [('a','b','c')], {}], ids=str)
def test_raw_texts_that_are_none(tok, items):
    with pytest.raises(BadInput, match='give'): Classification.raw(items, tok, config=CONFIG['three'])

def test_raw_text_longer_than_the_network(tok):
    "Cut to what the network can read, and counted"
    task = Classification.raw('word '*500, tok, T=1000, config=CONFIG['three']); assert task.lengths == [SMALL.T] and task.cut == 1
