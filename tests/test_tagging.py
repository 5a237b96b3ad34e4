"A word in, a tag out: none lost, none doubled, however words, files and rows are cut"
import json, re, subprocess, sys
from types import SimpleNamespace

import pytest, torch
from hypothesis import example, given, settings, strategies as st
from transformers import PreTrainedTokenizerFast
from lm_lifecycle.core import BadInput, IGNORE, Plan, rows_at
from lm_lifecycle.network import Size, build, load
from lm_lifecycle.pretraining import save_model
from lm_lifecycle.tasks.classification import predict
from lm_lifecycle.tasks.tagging import (Tagged, Tagging, docstring_tags, entities, entity_scores, iob2, mistakes, pieces, read_tagged,
                                        scheme_of, tag_prose, tokenise_words, words_of)
from lm_lifecycle.text import sections, shingles
from lm_lifecycle.tokens import bare, train_tokenizer
from lm_lifecycle.training import Recipe, train

FP32,TYPES = Plan('cpu', 'fp32', 'eager'), ('person','place')
NAMES = ['O', *(f'{p}-{x}' for x in TYPES for p in 'BI')]

# Words and rows
ODD = st.sampled_from(['', ' ', '\u200b', '\u00ad\u200d', '\x00', '你好', '東京', '\U0001f680\u200d', 'e\u0301', '[MASK]', 'a'*150, '\ud800', "don't"])
WORDS = st.lists(st.lists(st.one_of(ODD, st.text(max_size=12), st.sampled_from(['to','be','speech','First'])), max_size=25), min_size=1, max_size=3)

@pytest.fixture(scope='module')
def toks(texts, tok): return [tok, train_tokenizer(texts, 400, 'bpe')]

class Echo(torch.nn.Module):
    "A 'network' whose tag at a position is a function of the token there"
    def __init__(self, names):
        super().__init__(); config = SimpleNamespace(model_type='none', num_labels=len(names), id2label=dict(enumerate(names)))
        self.model = lambda input_ids, attention_mask: SimpleNamespace(logits=torch.eye(len(names))[input_ids%len(names)])
        self.model.config = config

@settings(max_examples=60, deadline=None)
@given(words=WORDS, T=st.integers(3, 40), context=st.one_of(st.none(), st.integers(0, 50)), which=st.integers(0, 1))
@example(words=[['\u200b','a','\ud800','\u200b']], T=3, context=None, which=0)
def test_every_word_is_answered_once(toks, words, T, context, which):
    "Each word gets the answer of its own first token, and is asked once, whatever the words and the rows"
    tok = toks[which]; tags = [['O']*len(ws) for ws in words]; task = Tagging(Tagged(words, tags, NAMES), tok, T, context)
    ids = tokenise_words(words, tok); first = lambda w: NAMES[(ids[w] or [tok.unk_token_id])[0]%len(NAMES)]
    assert task.predict(Echo(NAMES), FP32, B=4) == [[first(w) for w in ws] for ws in words]
    assert sum(v.counts['tag'] for _,v in task.views(4)) == sum(map(len, words)) and max(task.lengths, default=0) <= T
    assert task.dropped == sum(not ids[w] for ws in words for w in ws)

@settings(max_examples=200, deadline=None)
@given(n=st.lists(st.integers(1, 6), max_size=40), room=st.integers(6, 30), context=st.integers(0, 40))
def test_pieces(n, room, context):
    "Every word is answered once; what is read fits, holds what is answered, and is no narrower at an inner edge than room allows"
    ps = list(pieces(n, room, context))
    assert [i for *_,c,d in ps for i in range(c, d)] == list(range(len(n)))
    for a,b,c,d in ps:
        assert a <= c < d <= b and sum(n[a:b]) <= room and (b == len(n) or sum(n[a:b+1]) > room)
        assert sum(n[a:c]) <= context and (d == len(n) or d == c + 1 or sum(n[d:b]) <= context)
    if sum(n) <= room and n: assert len(ps) == 1

def test_tokens_are_those_of_transformers(texts, toks):
    "The same ids and first tokens as `is_split_into_words`; for bytes, of a tokenizer that puts a space before each word"
    words = [re.findall(r'\w+|[^\w\s]', s)[:30] for s in texts[:40]]; words = [w for w in words if w]
    state = bare(toks[1]).to_str(); spaced = re.sub(r'"add_prefix_space": ?false', '"add_prefix_space":true', state); assert spaced != state
    file = PreTrainedTokenizerFast(tokenizer_object=type(bare(toks[1])).from_str(spaced))
    for tok,theirs in ((toks[0],toks[0]), (toks[1],file)):
        task = Tagging(Tagged(words, None, NAMES), tok, 512)
        for ids,first,ws in zip(task.ids, task.first, words):
            e = theirs(ws, is_split_into_words=True); k = e.word_ids(); assert e['input_ids'] == ids
            assert first == [k.index(i) for i in range(len(ws))]

# Schemes
@st.composite
def spans(draw, apart=False):
    "A sentence's length, and entities that do not overlap; `apart`: nor touch"
    n,at,out = draw(st.integers(1, 12)), 0, []
    while at < n:
        at += draw(st.integers(int(apart and bool(out)), 3)); end = min(at + draw(st.integers(1, 3)), n)
        if at < end: out.append((draw(st.sampled_from(TYPES)), at, end))
        at = end
    return n, out

def write(n, es, scheme):
    "Tags of entities, written without the code under test"
    out = ['O']*n
    for x,a,b in es:
        joined = scheme == 'IOB1' and a and out[a-1][2:] == x
        for i in range(a, b): out[i] = f'I-{x}'
        if scheme in ('IOB2','BIOES','BILOU','BMES') or joined: out[a] = f'B-{x}'
        if scheme[0] == 'B':
            if scheme == 'BMES': out[a+1:b] = [f'M-{x}']*(b - a - 1)
            out[b-1] = ('L-' if scheme == 'BILOU' else 'E-') + x
            if b - a == 1: out[a] = ('U-' if scheme == 'BILOU' else 'S-') + x
    return out

@pytest.mark.parametrize('scheme', ['IOB1','IOB2','BIOES','BILOU','BMES'])
@settings(max_examples=60, deadline=None)
@given(sentences=st.lists(spans(), min_size=1, max_size=3))
def test_schemes(scheme, sentences):
    "What was written in any scheme is read back, without repairs"
    tags = [write(*s, scheme) for s in sentences]; found = scheme_of(tags)
    for ts,(n,es) in zip(tags, sentences):
        fixed,repaired = iob2(ts, found or 'IOB2'); assert (fixed,repaired) == (write(n, es, 'IOB2'),0) and entities(fixed) == es

@settings(max_examples=60, deadline=None)
@given(s=spans(apart=True))
def test_io_keeps_what_does_not_touch(s):
    assert entities(iob2(write(*s, 'IO'), 'IO')[0]) == s[1]

@settings(max_examples=100, deadline=None)
@given(ts=st.lists(st.sampled_from(['O', *(f'{p}-{x}' for p in 'BIESLUM' for x in TYPES)]), max_size=15))
def test_repairs_are_legal_and_final(ts):
    assert iob2(['B-a','S-a','E-b'], 'BIOES') == (['B-a','B-a','B-b'], 2)
    fixed,_ = iob2(ts, 'BIOES'); again,repaired = iob2(fixed)
    assert again == fixed and repaired == 0 and [t[2:] for t in fixed] == [t[2:] for t in ts]

# Metrics
@st.composite
def two_readings(draw):
    rows = [(s, draw(st.lists(st.sampled_from(NAMES), min_size=s[0], max_size=s[0]))) for s in draw(st.lists(spans(), min_size=1, max_size=4))]
    return [write(*s, 'IOB2') for s,_ in rows], [ts for _,ts in rows]

def spelled(rows):
    "Entities as a set, by a reading of its own: a run goes on through `I-` of its type only"
    end = lambda ts, i: next((j for j in range(i+1, len(ts)) if ts[j] != 'I'+ts[i][1:]), len(ts))
    return {(s, i, end(ts, i), t[2:]) for s,ts in enumerate(rows) for i,t in enumerate(ts)
            if t[0] == 'B' or t[0] == 'I' and (i == 0 or ts[i-1][1:] != t[1:])}

@settings(max_examples=150, deadline=None)
@given(two_readings())
def test_f1_is_that_of_sets(rows):
    G,F = map(spelled, rows); hit = len(G & F); p,r = hit/max(len(F), 1), hit/max(len(G), 1)
    s = entity_scores(*rows); assert [s[k] for k in ('precision','recall','f1')] == pytest.approx([p, r, 2*p*r/max(p + r, 1e-9)], abs=1e-6)
    data = Tagged([['w']*len(ts) for ts in rows[0]], rows[0], NAMES); wrong = mistakes(data, rows[1])
    assert sum(m.true is not None for m in wrong) == len(G - F) and not [m for m in wrong if m.true is None and m.found is None]

# Files
BAD = [('a.jsonl', '{"tokens":["a","b"],"tags":["O"]}\n', "a.jsonl:1: 2 words but 1 tags in 'a b'; give each word one tag"),
       ('a.jsonl', '{"tokens":["a"],"tags":["O"]}\n{"tokens":[],"tags":[]}\n', 'a.jsonl:2: the sentence is empty; give it words or remove it'),
       ('a.jsonl', '{"tokens":["a"],"labels":["O"]}\n', "a.jsonl:1: no column 'tags' among tokens, labels; rename one or name another"),
       ('a.jsonl', '{"text":"a","tags":["O"]}\n', "a.jsonl:1: no column 'tokens' among text, tags; rename one"),
       ('a.jsonl', '{"tokens":"a b","tags":["O"]}\n', """a.jsonl:1: 'tokens' is 'a b', not a list; write ["one", "two"]"""),
       ('a.jsonl', '{"tokens":["a"],"tags":[null]}\n', "a.jsonl:1: 'tags' holds None, neither text nor a number; correct it"),
       ('a.jsonl', '{"tokens":["a"],"tags":[""]}\n', "a.jsonl:1: the tag of 'a' is empty; fill it"),
       ('a.conll', 'a B-person\nb I-person\n\nc\n', "a.conll:4: 'c' is one column; write a word, a tab and its tag"),
       ('a.tsv', 'a\tB-person\n\nb\tO\nc\tB-city\n', "a.tsv:4: label 'B-city' was not in training (O, B-person, I-person"),
       ('a.txt', '\n\n', 'a.txt: holds no sentences; write a word, a tab and its tag a line'),
       ('a.csv', 'tokens,tags\na,O\n', "a.csv:2: 'tokens' is 'a', not a list")]

@pytest.mark.parametrize('name,content,message', BAD)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path/name).write_text(content, encoding='utf-8')
    with pytest.raises(BadInput) as e: read_tagged(tmp_path/name, NAMES)
    assert message in str(e.value) and '\n' not in str(e.value)

def test_one_tag_is_no_task(tmp_path):
    (tmp_path/'a.tsv').write_text('a\tO\n\nb\tO\n')
    with pytest.raises(BadInput, match="every tag is 'O'; a tagger needs two or more"): read_tagged(tmp_path/'a.tsv')

def test_parts_of_speech_pass_untouched(tmp_path):
    "Also those that look like letters of a scheme"
    (tmp_path/'a.tsv').write_text('a\tX\nb\tB\n\nc\tI-\nd\tS\n'); t = read_tagged(tmp_path/'a.tsv')
    assert t.scheme is None and t.tags == [['X','B'],['I-','S']] and t.names == ['B','I-','S','X']

SETS = [('wnut17','ner_tags','IOB2',6,0), ('resume_ner_zh','ner_tags','BIOES',8,4), ('ud_english_ewt','upos',None,17,0)]

@pytest.mark.parametrize('name,tags,scheme,types,repaired', SETS)
def test_real_sets(lm_data, tok, name, tags, scheme, types, repaired):
    "Read, numbered as in training, and answered word by word though the rows are short; two of the résumés' names were cut in two"
    d = lm_data(name); ext = 'jsonl' if name == 'wnut17' else 'jsonl.gz'; a,b = (read_tagged(d/f'{s}.{ext}', tags=tags) for s in ('train','test'))
    assert (a.scheme,a.repaired) == (scheme,repaired) and len(a.names) == (2*types + 1 if scheme else types)
    t = Tagging(Tagging.read(d/f'test.{ext}', tok, names=a.names, tags=tags).data.sample(150), tok, 24)
    assert [len(f) for f in t.predict(Echo(a.names), FP32)] == [len(ws) for ws in t.data.words] and len(t) > 150

# A life: train, save, use
@pytest.fixture(scope='module')
def tagger(tok, tmp_path_factory):
    "A network after 20 steps, on words in capitals; its folder; test sentences"
    rows = [('in the morning PARIS and ROME'.split(), [*'OOO','B-place','O','B-place']), ('then JULIET speaks'.split(), ['O','B-person','O'])]*8
    task = Tagging(Tagged(*map(list, zip(*rows)), NAMES), tok, 24); net = build('tag', Size(1, 64, T=24), task.vocab, **task.head)
    h = train(net, lambda step: task.encode(rows_at(step, len(task), 16)[0]), Recipe(20, lr=1e-2), FP32)
    folder = tmp_path_factory.mktemp('tagger'); save_model(net, tok, folder, 'tag', 'A tagger.', 'Two sentences', {})
    return net, h, folder, [['in','the','morning','PARIS','\u200b','and','ROME'], ['then','JULIET','speaks']]

FRESH = '''
import json, sys, torch
from transformers import AutoModelForTokenClassification, AutoTokenizer
m,tok,out = AutoModelForTokenClassification.from_pretrained(sys.argv[1]).eval(), AutoTokenizer.from_pretrained(sys.argv[1]), []
for ws in json.loads(sys.argv[2]):
    x = tok(ws, is_split_into_words=True, return_tensors='pt'); k = x.word_ids(); z = m(**x).logits[0].argmax(-1)
    out.append([m.config.id2label[int(z[k.index(i)])] for i in range(len(ws))])
print(json.dumps(out))'''

def test_saved_and_used_elsewhere(tagger, tok):
    "`AutoModelForTokenClassification` in a fresh process says the same, and so does one `predict` on raw text"
    net,h,folder,words = tagger; words = [[w for w in ws if w != '\u200b'] for ws in words]; assert h[19]['loss']['tag'] < h[0]['loss']['tag']
    r = subprocess.run([sys.executable, '-c', FRESH, str(folder), json.dumps(words)], capture_output=True, text=True, check=True)
    found = predict(net, Tagging.raw(words, tok, config=net.model.config), FP32); assert json.loads(r.stdout) == found
    assert len({t for ts in found for t in ts}) > 1, 'learnt nothing: any two networks would agree'
    again = load('tag', folder); raw = Tagging.raw([' '.join(ws) for ws in words], tok, config=again.model.config)
    assert predict(again, raw, FP32) == found and raw.decode(found) == [[('PARIS','place'),('ROME','place')], [('JULIET','person')]]

def test_a_word_without_tokens_moves_nobody(tagger, tok):
    "It stands as one `[UNK]`, and the words around it keep their own tokens"
    net,_,_,words = tagger; task = Tagging.raw(words, tok, config=net.model.config); n = [len(tok(w, add_special_tokens=False)['input_ids']) for w in words[0]]
    assert (n[4],task.dropped) == (0,1) and [len(f) for f in predict(net, task, FP32)] == [7,3]
    assert task.first[0] == [1 + sum(max(k, 1) for k in n[:i]) for i in range(7)] and task.ids[0][task.first[0][4]] == tok.unk_token_id

def test_other_names_are_refused(tagger, tok):
    with pytest.raises(BadInput, match='build or load a network with'): Tagging(Tagged([['a']], [['X']], ['X','Y']), tok).predict(tagger[0], FP32)
    with pytest.raises(BadInput, match='config=net.model.config'): Tagging.raw(['a'], tok)
    with pytest.raises(BadInput, match='give 3 at least'): Tagging(Tagged([['a']], None, NAMES), tok, 2)

# The embedded set
DOC = '''Move {q}axis{q} to {q}source{q}, then roll the axis.

Raises {q}ValueError{q} unless max_iter fits.

Args:
    axis (int): {text}
    source (int): {text}
    max_iter (int): {text}
'''
LEX = dict(ValueError='exception')

def test_marks_and_sections_are_not_shown():
    "The input is the same with and without marks, and whatever the sections say; the tags come from both"
    see = lambda **kw: [list(x) for x in zip(*tag_prose(sections(DOC.format(**kw)), LEX))]
    words,tags = see(q='`', text='One.')
    for q in ('``','*','**',"'",'"'): assert see(q=q, text='One.') == [words,tags]
    assert see(q='`', text='The `axis` and the source, axis.') == [words,tags]
    assert [w for ws,ts in zip(words, tags) for w,t in zip(ws, ts) if t != 'O'] == ['axis','source','ValueError','max_iter']
    assert [w for w,_ in words_of("a `b c` and *d e* 'f g'")] == [*'abc','and',*'defg'] # Also marks around more than a word
    bare_words,bare_tags = see(q='', text='One.'); assert bare_words == words[1:] and bare_tags == tags[1:] # Without marks the first mentions nothing

def test_docstring_sets_keep_apart():
    "No sentence is in two splits, and next to none has a near copy in training"
    sets = {s: docstring_tags(s) for s in ('train','valid','test')}; have = {s: {tuple(ws) for ws in d.words} for s,d in sets.items()}
    assert not have['train'] & (have['valid'] | have['test']) and all(len(have[s]) == len(sets[s]) for s in sets)
    texts = [' '.join(ws) for s in ('train','test') for ws in sets[s].words]; code,doc = shingles(texts); k = len(sets['train']); by,size = {}, {}
    for c,i in zip(code.tolist(), doc.tolist()): by.setdefault(c, []).append(i); size[i] = size.get(i, 0) + 1
    near = 0
    for i in range(k, len(texts)):
        both = {}
        for c in code[doc == i].tolist():
            for j in by[c]:
                if j < k: both[j] = both.get(j, 0) + 1
        near += any(n/(size[i] + size[j] - n) >= .6 for j,n in both.items())
    assert near <= .02*(len(texts) - k)
    for d in sets.values(): assert d.names[0] == 'O' and not [t for ts in d.tags for t in ts if t[0] == 'I']
