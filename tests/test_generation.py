"Generation: three forms of one view, two decoders, their scores, and what is refused"
import itertools, json, os, subprocess, sys, warnings

import pytest, sacrebleu, torch
from conftest import ROOT, jsonl
from hypothesis import given, settings, strategies as st
from rouge_score.rouge_scorer import RougeScorer
from tokenizers import pre_tokenizers, processors
from transformers import AutoModelForSeq2SeqLM, T5Config

from lm_lifecycle.core import BadInput, IGNORE, Plan, total
from lm_lifecycle.network import Net, Size, build, leaks, may, quiet, ready, to_hf
from lm_lifecycle.pretraining import save_model
from lm_lifecycle.tasks.classification import predict
from lm_lifecycle.tasks.generation import *
from lm_lifecycle.tasks.generation import conditional
from lm_lifecycle.tokens import Vocab, train_tokenizer
from lm_lifecycle.training import Recipe, train

pytestmark = pytest.mark.filterwarnings('ignore:.*cut at their end')
FP32 = Plan('cpu', 'fp32', 'eager'); VOCAB = Vocab(40, 0, 2, 3, 4, (0,1,2,3,4))
FAMILY = dict(bart=('seq2seq','bart'), prefix=('seq2seq','bert'), causal=('clm','bert'))
WAYS = [{}, dict(beams=3), dict(tau=1., k=20, top=.9, seed=5)]
ids = st.lists(st.lists(st.integers(5, 39), min_size=1, max_size=11), min_size=1, max_size=4)

def network(form, vocab, T=64, **kw): kind,family = FAMILY[form]; return build(kind, Size(2, 64, T=T), vocab, family, **kw)
def said(y): return [r[r != IGNORE].tolist() for r in y]

@pytest.fixture(scope='module')
def pairs(texts):
    "Some real lines, and what comes after their middle"
    ts = [t.split() for t in texts if len(t.split()) > 8][:24]
    return Sources([' '.join(t[:len(t)//2][:20]) for t in ts], [' '.join(t[len(t)//2:][:10]) for t in ts])

@settings(max_examples=60, deadline=None)
@given(ids, ids, st.sampled_from([0, 3, None]))
def test_the_forms_ask_for_the_same(src, tgt, pad):
    "Whatever pads, every target is asked for whole, its end included"
    n = min(len(src), len(tgt)); src,tgt = src[:n],[y + [3] for y in tgt[:n]]; vocab = Vocab(40, pad, 2, 3, 4, (0,1,2,3,4))
    for f in FAMILY:
        v = conditional(src, tgt, vocab, f); x = v.inputs.get('decoder_input_ids', v.inputs['input_ids']); y = v.labels['lm']
        assert said(y) == tgt and len({len(t) for t in (x,y)}) == 1
        for b in range(n): # What stands at a place is what was to be said at the place before
            at = (y[b] != IGNORE).nonzero()[:,0]; start = [src[b][-1]] if f == 'causal' else [3]
            assert x[b,at].tolist() == start + tgt[b][:-1]

def test_prefix_leaks_nothing():
    src,tgt = [[2,7,8,9,3],[2,9,3]], [[10,11,12,3],[12,3]]; v = conditional(src, tgt, VOCAB); net = network('prefix', VOCAB, initializer_range=.5)
    S,T = 8,8; known = torch.cat([torch.zeros(S), torch.arange(T)]).expand(2, -1)
    doc = torch.ones(2, S+T, dtype=torch.int); doc[0,5:S],doc[1,3:S] = 0,0 # Padding is nobody's
    found = leaks(net.model, v, may(known, known, doc)); assert len(found) == 0, found
    blind = leaks(net.model, v, may(known - 1, known, doc)) # A detector that sees nothing proves nothing
    assert len(blind)

@pytest.mark.parametrize('form', FAMILY)
def test_loss_does_not_depend_on_the_batch(form, pairs, tok):
    task = Generation(pairs, tok, 40, 24, form); net = network(form, task.vocab).eval()
    with torch.no_grad(): whole,l = net(task.encode(range(12)))['lm'], sum(net(task.encode([i]))['lm'] for i in range(12))
    assert l.n == whole.n and abs(float(l.sum) - float(whole.sum)) < 1e-4*float(whole.sum)
    assert sorted(i for rows,_ in task.views(5) for i in rows) == list(range(len(task)))

def test_loss_is_that_of_transformers(pairs, tok):
    for form in ('bart','causal'):
        task = Generation(pairs, tok, 40, 24, form); net = network(form, task.vocab).eval(); v = task.encode(range(8))
        with torch.no_grad(): assert abs(float(net.model(**to_hf(v)).loss) - float(total(net(v)))) < 1e-5

@pytest.mark.parametrize('form', FAMILY)
@pytest.mark.parametrize('how', WAYS, ids=['greedy','beam','drawn'])
def test_text_does_not_depend_on_the_batch(form, how, pairs, tok):
    task = Generation(pairs, tok, 40, 12, form); net = network(form, task.vocab, initializer_range=.3); d = Decoding(**how)
    rows = torch.arange(6); by = by_us if form == 'prefix' else by_transformers; net.eval()
    with torch.no_grad():
        alone = [by(net, [task.ids[i]], rows[i:i+1], task.vocab, 12, d)[0] for i in range(6)]
        assert by(net, task.ids[:6], rows, task.vocab, 12, d) == alone
    few = Generation(pairs.pick(range(6)), tok, 40, 12, form, **how)
    assert generate_ids(net, few, FP32, 2) == generate_ids(net, few, FP32, 6) == alone and len({tuple(a) for a in alone}) > 1

def test_our_decoder_says_what_generate_says(pairs, tok):
    "One causal network without cache or padding, our two decoders against `generate`"
    task = Generation(pairs, tok, 40, 12, 'causal'); net = network('causal', task.vocab, initializer_range=.3).eval(); eos = task.vocab.sep
    for i,how in itertools.product(range(6), [Decoding(**w) for w in (*WAYS, dict(beams=2, penalty=0.), dict(beams=5, penalty=2.))]):
        def say(y): return net.model(torch.cat([torch.tensor([task.ids[i]]*len(y)), y], 1)).logits[:,-1]
        with torch.no_grad():
            ours = beam_search(say, 1, eos, 12, how) if how.beams > 1 else draw(say, torch.tensor([i]), eos, 12, how)
            assert ours == by_transformers(net, [task.ids[i]], torch.tensor([i]), task.vocab, 12, how)

@pytest.mark.parametrize('alpha', [0., .6, 1., 2.])
@pytest.mark.parametrize('seed', range(4))
def test_beam_against_every_text(alpha, seed):
    V,new,eos = 4,3,1; g = torch.Generator().manual_seed(seed); table = torch.randn(97, V, generator=g)*2
    say = lambda y: table[[hash((7, *r)) % 97 for r in y.tolist()]]
    words = [w for w in range(V) if w != eos]
    every = [(*r,eos) for n in range(new) for r in itertools.product(words, repeat=n)] + list(itertools.product(words, repeat=new))
    logp = lambda r: sum(float(say(torch.tensor([r[:t]], dtype=torch.long)).log_softmax(-1)[0,w]) for t,w in enumerate(r))
    score = lambda r: logp(r)/len(r)**alpha; best = max(map(score, every)); greedy = draw(say, torch.tensor([0]), eos, new, Decoding())
    assert abs(score(beam_search(say, 1, eos, new, Decoding(beams=V**new, penalty=alpha))[0]) - best) < 1e-5
    assert beam_search(say, 1, eos, new, Decoding(penalty=alpha)) == greedy
    two = lambda y: torch.cat([say(y[:len(y)//2]), say(y[len(y)//2:]).flip(1)]) # A second row, with another table
    assert beam_search(two, 2, eos, new, Decoding(beams=3, penalty=alpha))[0] == beam_search(say, 1, eos, new, Decoding(beams=3, penalty=alpha))[0]

def test_decoder_sees_what_training_showed(pairs, tok):
    task = Generation(pairs, tok, 40, 24, 'prefix'); net = network('prefix', task.vocab, initializer_range=.1).eval(); v = task.encode(range(6))
    k = (v.labels['lm'] != IGNORE).nonzero()[:,1].min()
    with torch.no_grad():
        taught = net.model(**ready(net.model, v)).logits
        for b in range(6):
            for t in range(len(task.y[b])):
                z = writer(net, [task.ids[b]], task.vocab, 'cpu')(torch.tensor([task.y[b][:t]], dtype=torch.long).view(1, t))
                assert torch.allclose(z[0], taught[b,k+t], atol=1e-5)

def bare_bpe(texts):
    "As GPT-2's: nothing before or after a text, and padding by the end token"
    tok = train_tokenizer(texts, 400, kind='bpe'); tok.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.pad_token = tok.sep_token; return tok

@pytest.mark.parametrize('form,hint', [('bart',None), ('prefix',None), ('causal',None), ('causal',' TL;DR:')])
def test_what_is_learnt_is_written(form, hint, pairs, tok, texts):
    "Four pairs by heart, to the very end, in each form; also where padding is the end token"
    few = pairs.pick(sorted(range(len(pairs)), key=lambda i: len(pairs.sources[i]))[:4]); tok = bare_bpe(texts) if hint else tok; task = Generation(few, tok, 64, 56, form, hint=hint); net = network(form, task.vocab, 128)
    assert all(y[-1] == task.vocab.sep for y in task.y) and (not hint or task.vocab.pad == task.vocab.sep and task.cut == dict(source=0, target=0))
    assert said(task.encode(range(4)).labels['lm']) == task.y
    train(net, lambda step: task.encode(range(4)), Recipe(50, lr=4e-3), FP32)
    assert generate_ids(net, task, FP32) == task.y
    wanted = [tok.decode(y, skip_special_tokens=True).strip() for y in task.y]; task.data.targets[:] = wanted
    assert predict(net, task, FP32) == wanted and task.score(wanted)['exact'] == 1. == task.score(wanted)['rougeL']

def test_other_encoder_decoders(pairs, tok):
    "T5: another start, no absolute positions"
    v = Vocab.of(tok); c = T5Config(vocab_size=len(tok), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, pad_token_id=v.pad, eos_token_id=v.sep, decoder_start_token_id=v.pad)
    net = Net(AutoModelForSeq2SeqLM.from_config(c)).eval(); task = Generation(pairs, tok, 40, 12, config=c); view = task.encode(range(5))
    assert task.form == 'bart' and (view.inputs['decoder_input_ids'][:,0] == v.pad).all()
    with torch.no_grad(): assert abs(float(net.model(**to_hf(view)).loss) - float(total(net(view)))) < 1e-4
    assert generate(net, task, p=FP32, B=3, new=6) == generate(net, task, p=FP32, B=24, new=6)

def test_scores_are_the_libraries(lm_data):
    rows = jsonl(lm_data('multi30k_en_de')/'test_2016_flickr.jsonl.gz', 60); out,right = [r['en'] for r in rows], [[r['de']] for r in rows]; out[0] = right[0][0]
    s = score_texts(out, right); scorer = RougeScorer(['rouge1','rougeL'], use_stemmer=True)
    assert s['bleu'] == sacrebleu.corpus_bleu(out, [[r for r, in right]]).score and s['chrf'] == sacrebleu.corpus_chrf(out, [[r for r, in right]]).score
    for k in ('rouge1','rougeL'): assert abs(s[k] - sum(scorer.score(r, o)[k].fmeasure for o,(r,) in zip(out, right))/60) < 1e-12
    assert s['exact'] == 1/60 and 'tok:13a' in corpus_scores(out, right)['bleu'][1]

def test_real_files(lm_data, tok, tmp_path):
    "Columns by name, and several right answers: any of them counts"
    f = lm_data('multi30k_en_de')/'val.jsonl.gz'
    with pytest.warns(UserWarning, match='longer than 32 tokens'): task = Generation.read(f, tok, 32, 'en', 'de', metric='bleu')
    assert len(task) == 1014 and task.cut['source'] == sum(len(i) > 32 for i in tok(task.data.sources)['input_ids']) > 0
    data = read_sources(lm_data('scitldr_a')/'test.jsonl.gz', 'document', 'summaries'); assert len(data) == 618 and max(map(len, data.targets)) > 1
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); task = Generation(data.pick(range(5)), tok, 64)
    assert task.score([t[-1] for t in data.targets[:5]])['rougeL'] == 1. and set(task.each([t[-1] for t in data.targets[:5]])) == {1.}
    with pytest.raises(BadInput, match='test.jsonl.gz:1: no column .target.'): read_sources(lm_data('scitldr_a')/'test.jsonl.gz', 'document')

@pytest.mark.parametrize('name,text,why', [
    ('a.tsv', 'one\ttwo\nonly one\n', r'a.tsv:2: 1 cells where 2'), ('a.tsv', 'one\ttwo\tthree\n', r'a.tsv:1: 3 cells'), ('a.tsv', '\n', 'holds no examples'),
    ('a.tsv', 'one\ttwo\n \ttwo\n', r"a.tsv:2: 'source' is ' ', an empty text; fill"), ('a.csv', 'source,target\none,\n', r"a.csv:2: 'target' is '', an empty"),
    ('a.csv', 'source,target\n"one,two\n', r'a.csv:2'), ('a.jsonl', '{"source":"a","target":["b",""]}\n', r"a.jsonl:1: 'target' is '', an empty"),
    ('a.jsonl', '{"source":"a","target":[]}\n', r"a.jsonl:1: 'target' is \[\], not text"), ('a.jsonl', '{"source":null,"target":"b"}\n', r"a.jsonl:1: 'source' is None")])
def test_bad_files(name, text, why, tmp_path):
    (tmp_path/name).write_text(text)
    with pytest.raises(BadInput, match=why) as e: read_sources(tmp_path/name)
    assert e.value.code == 2 and len(str(e.value).splitlines()) == 1

def test_bad_wishes(pairs, tok):
    for kw,why in [(dict(form='both'), 'bart, prefix, causal'), (dict(metric='meteor'), 'bleu'), (dict(T=2), 'leave no room'), (dict(beams=4, tau=.5), 'does not draw'), (dict(top=0.), 'top')]:
        with pytest.raises(BadInput, match=why): Generation(pairs, tok, **kw)
    with pytest.raises(BadInput, match='source 2 is'): Generation.raw(['a',''], tok)
    with pytest.raises(BadInput, match='no targets'): Generation.raw(['a'], tok).encode([0])
    with pytest.raises(BadInput, match="form='prefix'"): generate(build('mlm', Size(1, 64), Vocab.of(tok)), Generation(pairs, tok, form='causal'))

def test_too_long_is_cut_and_counted(tok):
    long,short = 'word '*90,'a word'; net = network('causal', Vocab.of(tok), 64); cs = {'bart':(network('bart', Vocab.of(tok)), 64), 'prefix':(network('prefix', Vocab.of(tok)), 64), 'causal':(net, 52)}
    for form,(net,most) in cs.items(): # The source may be as long as the model reads; a causal one leaves room for the answer
        with pytest.warns(UserWarning) as w: task = Generation(Sources([long,short,long], [short,short,long]), tok, 500, 12, config=net.model.config)
        assert task.form == form and task.cut == dict(source=2, target=1) and len(w) == 2
        assert max(map(len, task.ids)) == most and max(map(len, task.y)) == 12 and {i[-1] for i in task.ids + task.y} == {task.vocab.sep}
        assert len(generate(net, task, p=FP32)) == 3

AGAIN = '''
import json, sys, torch; torch.set_num_threads(1)
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer
from lm_lifecycle.network import Net
from lm_lifecycle.tasks.generation import Generation
for folder,name,form in json.loads(sys.argv[1]):
    model,tok = globals()[name].from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    task = Generation.raw(json.loads(sys.argv[2]), tok, 40, model.config, out=12); assert task.form == form
    print(json.dumps(task.predict(Net(model))))
'''

def test_saved_models_write_the_same(pairs, tok, tmp_path):
    "Twenty steps, saved, opened by `transformers` in another process: one predict call on raw text"
    autos = dict(bart='AutoModelForSeq2SeqLM', prefix='AutoModelForMaskedLM', causal='AutoModelForCausalLM'); raw,ours = pairs.sources[:5], []
    for form in autos:
        task = Generation(pairs, tok, 40, 12, form); net = network(form, task.vocab)
        train(net, lambda step: task.encode(range(8)), Recipe(20, lr=3e-3)); save_model(net, tok, tmp_path/form, task.kind, 'It continues.', 'a few lines', {})
        ours.append(Generation.raw(raw, tok, 40, net.model.config, out=12).predict(net))
    args = [json.dumps([(str(tmp_path/f), a, f) for f,a in autos.items()]), json.dumps(raw)]
    r = subprocess.run([sys.executable, '-c', AGAIN, *args], env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]
    assert [json.loads(l) for l in r.stdout.splitlines()] == ours and any(any(o) for o in ours)

def test_summaries_are_honest():
    "No summary in its source, no pair on both sides, nothing but prose"
    sets = {s: docstring_summaries(s) for s in ('valid','test')}
    for d in sets.values():
        assert len(d) > 100
        for s,t in zip(d.sources, d.targets): assert ' '.join(words(t)) not in ' '.join(words(s)) and 4 <= len(words(t)) <= 20 and '\n>>> ' not in s and 'Parameters\n---' not in s
    assert not set(sets['valid'].sources) & set(sets['test'].sources)
    d = sets['test']; low = score_texts(lead(d), [[t] for t in d.targets])['rougeL']; assert .1 < low < .4
