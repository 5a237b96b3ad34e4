"Question answering: windows, labels, n-best lists, the official figures, files, and a saved model"
import json, os, re, string, subprocess, sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest, torch
from conftest import ROOT, has, jsonl
from hypothesis import HealthCheck, example, given, settings, strategies as st
from tokenizers import processors
from lm_lifecycle.core import BadInput, Plan, rows_at, uniform
from lm_lifecycle.network import Size, build
from lm_lifecycle.pretraining import save_model
from lm_lifecycle.tasks.answering import (Answer, Answering, Questions, best_tau, docstring_questions, em_f1, letters, place, read_questions,
                                           squad, to_questions)
from lm_lifecycle.text import Span
from lm_lifecycle.tokens import Vocab, encode, train_tokenizer
from lm_lifecycle.training import Recipe, train

FP32 = Plan('cpu', 'fp32', 'eager')
ALPHABET = st.sampled_from(list('abcdeé ñ,.') + ['🙂','中','ẞ','e\u0301','\u200d','\n','[CLS]','[SEP]','the ','word '])
TEXT = st.lists(ALPHABET, min_size=1, max_size=60).map(''.join).filter(str.strip)
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

def wrapped(tok, template, side='right'):
    "The same pieces, put together in another way"
    from transformers import PreTrainedTokenizerFast
    t = type(tok.backend_tokenizer).from_str(tok.backend_tokenizer.to_str()); v = Vocab.of(tok)
    t.post_processor = processors.TemplateProcessing(single='$A', pair=template, special_tokens=[('[CLS]',v.cls),('[SEP]',v.sep)])
    return PreTrainedTokenizerFast(tokenizer_object=t, padding_side=side, model_input_names=tok.model_input_names,
                                   cls_token='[CLS]', sep_token='[SEP]', pad_token='[PAD]', mask_token='[MASK]', unk_token='[UNK]')

@pytest.fixture(scope='session')
def toks(tok, texts):
    "BERT's way; XLNet's, padded on the left; bytes, with two separators; nothing at all between the texts"
    b = train_tokenizer(texts, 600, 'bpe')
    return tok, wrapped(tok, '$A:0 [SEP]:0 $B:1 [SEP]:1 [CLS]:0', 'left'), wrapped(b, '[CLS] $A [SEP] [SEP] $B [SEP]'), wrapped(b, '$A $B')

def one(question, context, *answers, **kw): return Questions(['q'], [question], [context], [list(answers)])

@QUIET
@given(which=st.integers(0, 3), question=TEXT, context=TEXT, T=st.integers(12, 40), overlap=st.integers(0, 12))
@example(which=1, question='a', context='[CLS] [SEP] '*9, T=20, overlap=7)
def test_windows_lose_nothing_and_double_the_overlap_only(toks, which, question, context, T, overlap):
    tok = toks[which]; whole,q = encode([context, question], tok); cls = Vocab.of(tok).cls
    try: task = Answering(one(question, context), tok, T, overlap)
    except BadInput as e:
        assert 'use rows of at least' in str(e) and len(q) + overlap + 2 >= T - 4
        return assert_remedy_works(str(e), question, context, tok, overlap)
    read = Counter(); last = None
    for r,(_,a,b,base) in enumerate(task.at.tolist()):
        row = task.ids[r]; assert len(row) <= T and row.count(cls) == 1 and row[task.null[r]] == cls
        assert row[base:base+b-a] == whole[a:b] and row[:base][-len(q)-2:].count(cls) <= 1
        if last is not None: assert last - a == overlap and b > last
        read.update(range(a, b)); last = b
    assert sorted(read) == list(range(len(whole))) and max(read.values(), default=1) <= 1 + overlap//max(1, T - len(q) - overlap - 4) + 1
    v = task.encode(range(len(task))); x,m = v.inputs['input_ids'],v.inputs['attention_mask']
    assert [i[:len(r)].tolist() for i,r in zip(x, task.ids)] == task.ids and m.sum(1).tolist() == task.lengths  # Padded on the right

def assert_remedy_works(said, question, context, tok, overlap):
    least = int(re.search(r'at least (\d+)', said)[1]); Answering(one(question, context), tok, least, overlap)
    with pytest.raises(BadInput): Answering(one(question, context), tok, least - 1, overlap)

def bare_letters(s): return s.translate({0x301:None, 0x200d:None}).strip()  # BERT's tokenizer drops both: no token says where they belong

def test_an_accent_that_no_token_holds_is_not_lost(tok):
    c = 'Un cafe\u0301 noir, un re\u0301glisse\u0301'
    for text in ('cafe\u0301','re\u0301glisse\u0301','Un cafe\u0301 noir'):
        task = Answering(one('Quoi ?', c, (text, c.index(text))), tok, 64); (s,e),base = task.y[0].tolist(), int(task.at[0,3])
        assert letters(c, task.offsets[0], s-base, e-base) == (text, c.index(text))

def test_every_span_of_a_text_points_at_itself(tok):
    "All of them, also those that end where a window does"
    c = 'a b c d e f g h i j k l m n o'; o = [m.span() for m in re.finditer(r'\S', c)]
    spans = [(i, j) for i in range(len(o)) for j in range(i, len(o))]; golds = [[(c[o[i][0]:o[j][1]], o[i][0])] for i,j in spans]
    with pytest.warns(UserWarning, match='whole in no window'): task = Answering(Questions(spans, ['a']*len(spans), [c]*len(spans), golds), tok, 11, 3)
    assert len(task.offsets[0]) == len(o) and task.lost > 0
    for (s,e),(q,a,b,base) in zip(task.y.tolist(), task.at.tolist()):
        i,j = spans[q]; assert (s,e) == ((base+i-a, base+j-a) if a <= i and j < b else (0,0))

@QUIET
@given(which=st.integers(0, 3), context=TEXT, T=st.integers(24, 40), overlap=st.integers(0, 12), cut=st.tuples(st.floats(0, 1), st.floats(0, 1)), exact=st.booleans())
def test_labels_decode_to_the_answer(toks, which, context, T, overlap, cut, exact):
    "At token boundaries exactly, elsewhere as the shortest run of tokens that holds it; at [CLS] where it is not whole"
    tok = toks[which]; o = Answering(one('a', context), tok, 999, 0).offsets[0]
    n = len(o) if exact else len(context); i,j = sorted(min(int(u*n), n-1) for u in cut) if n else (0,0)
    start,end = (int(o[i,0]),int(o[j,1])) if exact and n else (i,j+1)
    text = context[start:end]
    if not text.strip(): return
    task = Answering(one('a', context, (text, start)), tok, T, overlap); held = 0
    for (s,e),null,(_,a,b,base) in zip(task.y.tolist(), task.null.tolist(), task.at.tolist()):
        inside = [t for t in range(len(o)) if o[t,0] < end and o[t,1] > start]
        whole = bool(inside) and a <= inside[0] and inside[-1] < b; held += whole
        assert (s,e) == ((base + inside[0] - a, base + inside[-1] - a) if whole else (null,null))
        if not whole: continue
        got = bare_letters(letters(context, o, s-base+a, e-base+a).text); assert bare_letters(text) in got
        if exact: assert got == bare_letters(text)
    assert task.lost == (not held) and (held or not len(inside) or len(inside) > overlap + 1)

class Random(torch.nn.Module):
    "Logits that are a function of the row's tokens and their places"
    config,dtype = SimpleNamespace(model_type='x', is_decoder=False, _attn_implementation='eager'), torch.float
    @property
    def model(self): return self
    def forward(self, input_ids, attention_mask, **kw):
        t = torch.arange(input_ids.shape[1]); z = lambda k: 3*torch.sin((input_ids*37 + t*11 + k).float()*1.7)
        return SimpleNamespace(start_logits=z(0), end_logits=z(5))

@pytest.mark.parametrize('which', range(4))
def test_the_best_of_all_windows_wins(toks, texts, which):
    "Against loops over every pair of every window; padding and neighbours change nothing"
    tok,longest = toks[which],4; cs = [t[:90*k] for k,t in enumerate(texts[:40]) if t[:90*k].strip()]
    task = Answering(Questions([str(i) for i in range(len(cs))], ['who is it?']*len(cs), cs, None), tok, 28, 6, longest); net = Random()
    found,null = defaultdict(dict),defaultdict(list)
    for r,(q,a,b,base) in enumerate(task.at.tolist()):
        ids = torch.tensor([task.ids[r]]); out = net(ids, torch.ones_like(ids)); z = [l.double()[0].log_softmax(0).tolist() for l in (out.start_logits, out.end_logits)]
        cls = task.ids[r].index(task.vocab.cls); null[q].append(z[0][cls] + z[1][cls])
        for s in range(base, base+b-a):
            for e in range(s, min(s + longest, base+b-a)):
                k = letters(cs[q], task.offsets[q], s-base+a, e-base+a)
                if k.text: found[q][k] = max(found[q].get(k, -1e9), z[0][s] + z[1][e])
    got = task.predict(net, FP32, B=7); assert max(map(len, null.values())) > 2
    for q,a in enumerate(got):
        best = max(found[q].values()); assert a.best[0][1] == pytest.approx(best, abs=1e-4) and a.null == pytest.approx(min(null[q]), abs=1e-4)
        every = sorted(found[q].values(), reverse=True)[:20]; assert [v for _,v in a.best][:10] == pytest.approx(every[:len(a.best)][:10], abs=1e-4)
        assert all(found[q][s] == pytest.approx(v, abs=1e-4) for s,v in a.best) and len(set(s for s,_ in a.best)) == len(a.best)
        assert all(cs[q][s.start:s.end] == s.text for s,_ in a.best) and (a.text == '') == (a.null > a.best[0][1])
        assert a.best == task.predict(net, FP32, B=1)[q].best if q < 1 else True

# The official evaluation of SQuAD 2.0, transcribed from its published formula and nothing of ours

def official_normal(s):
    s = s.lower(); s = ''.join(ch for ch in s if ch not in set(string.punctuation))
    s = re.compile(r'\b(a|an|the)\b', re.UNICODE).sub(' ', s)
    return ' '.join(s.split())

def official_f1(gold, pred):
    gold,pred = (official_normal(s).split() if s else [] for s in (gold,pred)); same = sum((Counter(gold) & Counter(pred)).values())
    if len(gold) == 0 or len(pred) == 0: return int(gold == pred)
    if same == 0: return 0
    precision,recall = same/len(pred), same/len(gold)
    return (2*precision*recall)/(precision + recall)

def official(said, data):
    ems,f1s = {},{}
    for q,a in said.items():
        golds = [t for t,_ in data[q] if official_normal(t)]
        if not golds: golds = ['']
        ems[q] = max(int(official_normal(g) == official_normal(a)) for g in golds); f1s[q] = max(official_f1(g, a) for g in golds)
    kinds = dict(all=list(data), has=[q for q in data if data[q]], none=[q for q in data if not data[q]])
    return {k: (sum(ems[q] for q in qs)/len(qs), sum(f1s[q] for q in qs)/len(qs)) for k,qs in kinds.items() if qs}

def perturbed(data, seed):
    "Right, cut, widened, punctuated, of another question, or nothing"
    u = uniform((seed,'perturb'), torch.arange(len(data)), 2).tolist()
    for n,(k,v) in enumerate(u):
        gold = data.answers[n][int(v*len(data.answers[n]))][0] if data.answers[n] else data.contexts[n][int(v*50):][:int(v*40)]
        yield [gold, gold[:len(gold)//2], 'The '+gold.upper()+'!', f'{gold} and an {gold}', ' '.join(gold.split()[1:]), '', data.questions[n], 'the'][int(k*8)]

def test_figures_are_the_official_ones(lm_data):
    data = read_questions(lm_data('squad2_half_dev')/'dev.jsonl.gz'); golds = dict(zip(data.ids, data.answers))
    said = list(perturbed(data, 0)); want,got = official(dict(zip(data.ids, said)), golds), squad(said, data.answers)
    for pre,k in (('','all'),('has_','has'),('none_','none')): assert (got[pre+'exact'],got[pre+'f1']) == pytest.approx(want[k], abs=1e-12)
    assert got['questions'] == 6078 and got['has'] == 2910 and .1 < got['f1'] < .9

@QUIET
@given(said=TEXT | st.just(''), golds=st.lists(TEXT, max_size=3))
@example(said='the', golds=['a'])
@example(said='', golds=['the', 'x'])
def test_figures_of_odd_texts(said, golds):
    golds = [(g,0) for g in golds]; em,f1 = official({0:said}, {0:golds})['all']; assert em_f1(said, golds) == pytest.approx((em,f1), abs=1e-12)

@pytest.mark.parametrize('seed', range(4))
def test_tau_is_the_best_of_all(seed):
    "Unanswerable questions have the wider gaps, more or less"
    u = uniform((seed,'tau'), torch.arange(50), 3).tolist(); golds = [[('x', 0)] if a < .6 else [] for a,_,_ in u]
    some = [Answer(((Span('x' if b < .7 else 'y', 0), -1.),), 2*(.5 + c/2 if a >= .6 else c*c) - 2) for a,b,c in u]
    f1 = lambda tau: squad([replace(a, tau=tau).text for a in some], golds)['f1']; tau = best_tau(some, golds)
    assert f1(tau) == max(f1(t) for t in [a.gap for a in some] + [-9, 9]) > max(f1(-9), f1(9))

@QUIET
@given(before=TEXT, answer=TEXT, after=TEXT)
@example(before='Né à ', answer='Zürich', after=' 🙂 Zürich')
def test_offsets_in_other_units_are_recognised(before, answer, after):
    c,i = before + answer + after, len(before); assert place(c, answer, i) == (i, None)
    for unit,start in (('bytes of UTF-8', len(before.encode())), ('units of UTF-16', len(before.encode('utf-16-le'))//2)):
        j,how = place(c, answer, start)
        assert c[j:j+len(answer)] == answer and (j == i or how is None or c.count(answer) > 1)
        if j == i and start != i: assert how in (unit, 'bytes of UTF-8')

def test_a_file_in_bytes_is_converted_and_said(tmp_path):
    c = 'Zürich, Köln und 🙂 Genève'; word = ['Zürich','Köln','Genève']; f = tmp_path/'q.jsonl'
    rows = [dict(id=w, question='Où ?', context=c, answers=dict(text=[w], answer_start=[len(c[:c.index(w)].encode())])) for w in word]
    f.write_text('\n'.join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match=r'q.jsonl:2: 2 of 3 answer_start count bytes of UTF-8'): data = read_questions(f)
    assert data.answers == [[(w, c.index(w))] for w in word]

def row(**kw): return dict(id='1', question='Who?', context='Ada wrote it. Ada did.', answers=dict(text=['Ada'], answer_start=[0])) | kw

@pytest.mark.parametrize('bad,why', [
    (dict(answers=dict(text=['Bob'], answer_start=[0])), "answer 'Bob' is not at 0 of its context, nor elsewhere"),
    (dict(context='Ada wrote this long text about the machine. Ada did.', answers=dict(text=['Ada'], answer_start=[25])), "but at 0, 44; correct answer_start"),
    (dict(context=' \n'), 'context is empty'), (dict(question=''), 'question is empty'), (dict(id='0'), "id '0' is that of 1 too"),
    (dict(context=None), "'context' is None"), (dict(answers=None), 'answers is None'), (dict(answers=dict(text=['Ada'], answer_start=[])), 'answers is'),
    (dict(answers=dict(text=[''], answer_start=[0])), 'not a text'), (dict(answers=dict(text=['Ada'], answer_start=[1.5])), '1.5'),
    (dict(is_impossible=True), 'is_impossible')])
def test_bad_input_is_one_line(tmp_path, bad, why):
    f = tmp_path/'q.jsonl'; f.write_text('\n'.join(json.dumps(r) for r in (row(id='0'), row(**bad))))
    with pytest.raises(BadInput) as e: read_questions(f)
    assert why in str(e.value) and f'{f}:2: ' in str(e.value) and '\n' not in str(e.value)

def test_missing_fields_and_strange_files(tmp_path):
    for n,(text,why) in enumerate([('{"data": 3}', 'SQuAD'), ('{"data": [{"paragraphs": [{"qas": []}, {}]}]}', 'SQuAD'), ('[]', 'no questions'), ('{"x": 1}', "no column 'question'"),
                                   ('{"question": "a", "context": "b"}', 'answers is missing'), ('{"a": \n', 'not JSON'), ('[3]', 'SQuAD')]):
        f = tmp_path/f'{n}.json'; f.write_text(text)
        with pytest.raises(BadInput, match=why): read_questions(f)

@pytest.mark.filterwarnings('error')
def test_both_layouts_hold_the_same(tmp_path):
    rows = [row(id='1'), row(id='2', question='Why?', answers=dict(text=[], answer_start=[]))]; want = to_questions(enumerate(rows, 1), '')
    qas = [dict(id=r['id'], question=r['question'], is_impossible=not r['answers']['text'], answers=[dict(text=t, answer_start=s) for t,s in zip(*r['answers'].values())]) for r in rows]
    for name,text in {'a.jsonl': '\n'.join(map(json.dumps, rows)), 'b.json': json.dumps(dict(data=[dict(paragraphs=[dict(context=rows[0]['context'], qas=qas)])])),
                      'c.json': json.dumps(rows), 'd.json': '\n'.join(map(json.dumps, rows)), 'e.json': json.dumps(dict(data=rows))}.items():
        (tmp_path/name).write_text(text); assert read_questions(tmp_path/name) == want, name

def test_docstring_questions_are_honest():
    sets = {s: docstring_questions(s) for s in ('valid','test')}
    assert not set(sets['valid'].contexts) & set(sets['test'].contexts)
    for d in sets.values():
        assert all(c[i:i+len(t)] == t and '\n' not in t for c,a in zip(d.contexts, d.answers) for t,i in a) and d.counts['answerable'] == 2*d.counts['unanswerable']
        for q,c,a in zip(d.questions, d.contexts, d.answers):  # An answer stands after its name, or after those it shares it with
            if a: assert re.search(rf'(^| ){re.escape(re.search("`(.+?)`", q)[1])}(, [\w.]+)* $', c[:a[0][1]]), (q, c, a)

@pytest.fixture(scope='module')
def some():
    "Real questions where they are, else the docs'"
    if not has('squadshifts_new_wiki'): return docstring_questions('test').few(24)
    return to_questions(enumerate(jsonl(Path(os.environ['LM_DATA'])/'squadshifts_new_wiki/train.jsonl.gz', 24), 1), 'wiki')

def test_a_saved_model_answers_alike_in_a_fresh_process(some, tok, tmp_path):
    "Twenty steps of fine-tuning, `AutoModelForQuestionAnswering`, and one `predict` on raw text"
    task = Answering(some, tok, T=96, overlap=24); net = build('qa', Size(2, 64, T=96), task.vocab)
    train(net, lambda s: task.encode(rows_at(s, len(task), 16)[0]), Recipe(20), FP32)
    save_model(net, tok, tmp_path/'qa', 'qa', 'Answers questions', 'a few questions', {})
    want = task.decode(task.predict(net, FP32)); pairs = list(zip(some.questions, some.contexts)); (tmp_path/'pairs.json').write_text(json.dumps(pairs))
    code = '''if 1:
        import json, sys; from transformers import AutoModelForQuestionAnswering, AutoTokenizer
        from lm_lifecycle.core import Plan; from lm_lifecycle.network import Net; from lm_lifecycle.tasks.answering import Answering
        folder,pairs = sys.argv[1:]; model = AutoModelForQuestionAnswering.from_pretrained(folder); tok = AutoTokenizer.from_pretrained(folder)
        task = Answering.raw(json.load(open(pairs)), tok, 96, model.config, overlap=24)
        print(json.dumps(task.decode(task.predict(Net(model), Plan('cpu', 'fp32', 'eager')))))'''
    out = subprocess.run([sys.executable, '-c', code, tmp_path/'qa', tmp_path/'pairs.json'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    got = json.loads(out.splitlines()[-1]); assert [(t, at and tuple(at)) for t,_,at in got] == [(t, at) for t,_,at in want]
    assert [p for _,p,_ in got] == pytest.approx([p for _,p,_ in want], abs=1e-5)
    assert 0 <= task.score(task.predict(net, FP32))['f1'] <= 1 and next(iter(task.score(['']*len(some)))) == 'f1'
