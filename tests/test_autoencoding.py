"What is hidden, spoilt and paired: whatever the batch, never a special token, exactly as much as promised"
import math
from collections import Counter

import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from lm_lifecycle.autoencoding import *
from lm_lifecycle.core import IGNORE, BadInput, uniform
from lm_lifecycle.tokens import Vocab, restart, same, stream, train_tokenizer

settings.register_profile('house', deadline=None, max_examples=30, derandomize=True); settings.load_profile('house')
SEEDS = st.integers(0, 2**31)
V = 60; VOCAB = Vocab(V, 0, 2, 3, 4, (0,1,2,3,4), inside=tuple(range(30, 45)), stops=(5,6))

def ids(B, T, seed=0, special=.1):
    "Random rows, some of their tokens special"
    u,v = uniform((seed,'test'), torch.arange(B), 2*T).chunk(2, 1)
    return torch.where(v < special, (v/special*4).long(), 5 + (u*(V - 5)).long())

def ok(x): return VOCAB.ok(x)
def real(at, xt): return [r[a >= 0].tolist() for r,a in zip(xt, at)]
def specials(row): return [i for i in row if i < 4]
def between(row, special=lambda i: i < 4):
    "What stands between special tokens"
    out = [[]]
    for i in row: out.append([]) if special(i) else out[-1].append(i)
    return out

@pytest.mark.parametrize('unit', UNITS)
def test_shares_of_a_million_tokens(unit):
    v = Vocab(8000, 0, 2, 3, 4, (0,1,2,3,4), inside=tuple(range(5000, 8000)))
    x = torch.randint(5, 8000, (8000,128), generator=torch.Generator().manual_seed(0))
    view = mlm(x, torch.arange(8000), v, unit=unit); xt,M = view.inputs['input_ids'],view.labels['lm'] != IGNORE
    hid,kept = xt[M] == v.mask, xt[M] == x[M]
    for m,share in ((M, 20/128 if unit == 'span' else .15), (hid,.8), (~hid & ~kept,.1), (kept,.1)): assert abs(m.double().mean() - share) < .005
    assert torch.equal(xt[~M], x[~M]) and torch.equal(view.labels['lm'][M], x[M]) and view.forced == 0

@given(st.sampled_from([*UNITS]), SEEDS, st.floats(0, 1), st.integers(1, 20))
def test_no_special_token_is_hidden_or_invented(unit, seed, p, T):
    x = ids(9, T, seed, .4); view = mlm(x, torch.arange(9), VOCAB, (seed,'mlm'), p, unit=unit); xt,y = view.inputs['input_ids'],view.labels['lm']
    assert torch.equal(xt[~ok(x)], x[~ok(x)]) and (y[~ok(x)] == IGNORE).all() and ((xt >= 4) | ~ok(x)).all()
    if p > 0: assert torch.equal((y != IGNORE).any(1), ok(x).any(1))

def test_forced_answers_are_counted_and_share_80_10_10():
    x = ids(20000, 2, 1, 0.); view = mlm(x, torch.arange(20000), VOCAB, p=.01); xt,y = view.inputs['input_ids'],view.labels['lm']
    M = y != IGNORE; assert (M.sum(1) >= 1).all() and abs(view.forced/20000 - .99**2) < .005
    assert abs((xt[M] == VOCAB.mask).double().mean() - .8) < .01

@given(SEEDS, st.floats(.05, .9))
def test_words_are_whole(seed, p):
    x = ids(8, 30, seed); y = mlm(x, torch.arange(8), VOCAB, (seed,'mlm'), p, unit='word').labels['lm']; M = y != IGNORE
    joined = VOCAB.inner[x[:,1:]] & ok(x)[:,:-1]
    assert (M[:,1:] == M[:,:-1])[joined].all()

@given(SEEDS, st.floats(.01, 1.), st.integers(1, 40))
def test_span_budget(seed, p, T):
    x = ids(20, T, seed, .2); y = mlm(x, torch.arange(20), VOCAB, (seed,'mlm'), p, unit='span').labels['lm']
    assert (y != IGNORE).sum(1).tolist() == [math.ceil(p*n) for n in ok(x).sum(1).tolist()]

@pytest.mark.parametrize('name', ['geometric','poisson'])
def test_lengths_follow_their_law(name):
    "All but the last span drawn, which is trimmed; none overlap, none touch while there are gaps enough"
    cdf,law = (GEOMETRIC, lambda k: .2*.8**(k-1)/(1 - .8**10)*(1 <= k <= 10)) if name == 'geometric' else \
              (poisson(3.), lambda k: math.exp(-3)*3**k/math.factorial(k))
    B,K = 3000,100; u,v = uniform((0,'law'), torch.arange(B), 2*K).numpy().reshape(B, 2, K).swapaxes(0, 1)
    n,m = (np.full((B,1), c) for c in (1000,200)); a,l,used = spans(u, v, n, m, cdf)
    assert (l.sum(1) == 200).all() and (a[used] + l[used]).max() <= 1000 and (a[:,1:] > (a + l)[:,:-1])[used[:,1:]].all()
    drawn = np.searchsorted(cdf, u[:,:20], 'right').ravel(); share = np.bincount(drawn, minlength=12)/len(drawn)
    assert abs(share[:12] - [law(k) for k in range(12)]).max() < .005
    mean = sum(k*law(k) for k in range(40)); assert abs(l[used].mean()/mean - 1) < .02

def test_infilling_budget_on_ten_thousand_rows():
    "Exact in every row; no special token moves; each run that lost tokens has a mask; no row grows beyond T"
    masks = 0
    for B,T,special,p,lam in ((4000,40,.1,.3,3.),(3000,17,.3,.15,3.),(2000,64,0.,.5,1.),(1000,5,.2,1.,3.)):
        x = ids(B, T, T, special); xt,at = corrupt(x, torch.arange(B), VOCAB, noises=('infill',), p=p, lam=lam); assert xt.shape[1] <= T
        for old,new in zip(x.tolist(), real(at, xt)):
            kept = [i for i in new if i > 4]; n = sum(i > 4 for i in old); assert len(kept) == n - math.ceil(p*n)
            assert specials(new) == specials(old)
            for a,b in zip(between(old), between(new)):
                assert len(a) == sum(i > 4 for i in b) or 4 in b
            masks += new.count(4)
    assert masks

def test_spans_of_length_zero_insert():
    x = ids(2000, 60, 3, 0.); xt,at = corrupt(x, torch.arange(2000), VOCAB, noises=('infill',))
    at,hid = torch.where(at < 0, 10**6, at), xt == VOCAB.mask
    inserted = (hid[:,:-1] & (at[:,1:] == at[:,:-1])).sum() # What stood there still does, right behind
    assert abs(inserted/hid.sum() - math.exp(-3)) < .01

@given(SEEDS, st.integers(1, 40))
def test_what_moves_stays_between_special_tokens(seed, T):
    x = ids(12, T, seed, .15); r = torch.arange(12)
    for old,new in zip(x.tolist(), real(*corrupt(x, r, VOCAB, (seed,'a'), ('rotate',))[::-1])):
        assert specials(old) == specials(new)
        for a,b in zip(between(old), between(new)): assert b in [a[k:] + a[:k] for k in range(len(a) or 1)]
    def sentences(run):
        "Cut after the last of neighbouring full stops"
        out = [[]]
        for i,nxt in zip(run, run[1:] + [None]):
            out[-1].append(i)
            if i in VOCAB.stops and nxt not in VOCAB.stops and nxt is not None: out.append([])
        return Counter(map(tuple, out))
    def cut(run, parts): # Is `run` these parts in some order?
        return not run or any(cut(run[len(q):], parts - Counter([q])) for q in parts if tuple(run[:len(q)]) == q)
    for old,new in zip(x.tolist(), real(*corrupt(x, r, VOCAB, (seed,'a'), ('permute',))[::-1])):
        assert specials(old) == specials(new)
        for a,b in zip(between(old), between(new)): assert cut(b, sentences(a))

def test_order_of_sentences_is_even():
    x = torch.tensor([[11,5,12,5,13,5]]).expand(6000, 6); xt,_ = corrupt(x, torch.arange(6000), VOCAB, noises=('permute',))
    orders = Counter(map(tuple, xt[:,::2].tolist())); assert len(orders) == 6 and max(abs(c - 1000) for c in orders.values()) < 150

@given(SEEDS, st.sampled_from([None,'mlm','dae','nsp']), st.integers(1, 9))
def test_loss_of_any_cut(seed, kind, B):
    "A batch's loss is the sum over its parts, whatever their padding"
    x = ids(9, 12, seed); e = torch.randn(V, V, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    pairs = Pairs.of(*corpus(), VOCAB); doc = torch.arange(12).expand(9, 12)//5
    view = {None: lambda r: mlm(x[r], r, VOCAB, doc=doc[r]), 'mlm': lambda r: mlm(x[r], r, VOCAB, unit='span'),
            'dae': lambda r: dae(x[r], r, VOCAB, doc=doc[r], noises=('permute','infill','delete')), 'nsp': lambda r: nsp(pairs, r, VOCAB, T=12)}[kind]
    def loss(r):
        v = view(r); M = v.labels['lm'] != IGNORE; return float(nll(standin(v.inputs, e)[M], v.labels['lm'][M]).sum)
    r = torch.arange(9); assert math.isclose(loss(r), sum(map(loss, r.split(B))), rel_tol=1e-9)

def test_documents_are_apart():
    doc = torch.tensor([[3,3,3,4,4,9]])
    assert restart(doc).tolist() == [[0,1,2,0,1,0]] and same(doc)[0,2].tolist() == [True]*3 + [False]*3
    x = ids(1, 6, 2, 0.); v = dae(x, torch.tensor([0]), VOCAB, noises=('infill',), doc=doc); S = v.inputs['input_ids'].shape[1] - 6
    assert v.inputs['input_ids'][0,S:].tolist() == [3,*x[0,:2].tolist(),3,int(x[0,3]),3]
    assert torch.equal(v.inputs['attention_mask'][0,0,S:,S:], same(doc)[0] & torch.ones(6, 6).tril().bool())
    assert torch.equal(v.inputs['position_ids'][:,S:], restart(doc))

def corpus(D=12):
    "Document d says its own word only, in two to four sentences of one to three words"
    docs = [[w for s in range(2 + d%3) for w in [7 + d]*(1 + (d + s)%3) + [5]] for d in range(D)]
    return torch.tensor([i for d in docs for i in (2,*d,3)]), torch.tensor([k for k,d in enumerate(docs) for _ in range(len(d) + 2)])

def segments(view):
    x,kind,here = (view.inputs[k] for k in ('input_ids','token_type_ids','attention_mask'))
    for i,k,h in zip(x, kind, here):
        assert i[0] == 2 and (i[h == 0] == 0).all() and (i[(h > 0)] == 3).sum() == 2
        yield i[(k == 0) & (h > 0)][1:-1].tolist(), i[k > 0][:-1].tolist()

def test_random_sentences_are_from_another_document():
    pairs = Pairs.of(*corpus(), VOCAB); N = len(pairs); labels = []
    for epoch in range(300):
        r = torch.arange(N); v = nsp(pairs, r, VOCAB, (0,'nsp',epoch), T=40, p=0.); labels += v.labels['cls'].tolist()
        for (a,b),c in zip(segments(v), v.labels['cls'].tolist()): assert (a[0] != b[0]) == c
    assert abs(np.mean(labels) - .5) < .01

def test_every_other_place_is_as_likely():
    pairs = Pairs.of(*corpus(4), VOCAB); N = len(pairs)
    for r in range(N):
        found = Counter(pairs.elsewhere(torch.full((4000,), r), uniform((r,'far'), torch.arange(4000), 1)[:,0]).tolist())
        others = [i for i in range(N) if pairs.doc[i] != pairs.doc[r]]
        assert sorted(found) == others and max(abs(c*len(others)/4000 - 1) for c in found.values()) < .2

@given(st.integers(5, 30), SEEDS)
def test_pairs_are_drawn_before_they_are_cut(T, seed):
    "Cut to any length, the pair and its label stay: A loses its beginning, B its end, the longer one first"
    pairs = Pairs.of(*corpus(), VOCAB); r = torch.arange(len(pairs)); full,part = (nsp(pairs, r, VOCAB, (seed,'nsp'), t, p=0.) for t in (40,T))
    assert torch.equal(full.labels['cls'], part.labels['cls'])
    for (A,B),(a,b) in zip(segments(full), segments(part)):
        assert a and b and A[-len(a):] == a and B[:len(b)] == b and len(a) + len(b) == min(T - 3, len(A) + len(B))
        assert (a == A or len(a) >= len(b) - 1) and (b == B or len(b) >= len(a))

def test_masks_and_sentences_together():
    pairs = Pairs.of(*corpus(), VOCAB); r = torch.arange(len(pairs))
    both,cls = (nsp(pairs, r, VOCAB, T=40, p=p) for p in (.15,0.)); M = both.labels['lm'] != IGNORE; x = cls.inputs['input_ids']
    assert cls.counts == dict(cls=len(r)) and torch.equal(both.labels['lm'][M], x[M]) and ok(x[M]).all() and M.any(1).all()

def test_words_and_stops_of_real_tokenizers(texts):
    for kind in ('wordpiece','bpe'):
        tok = train_tokenizer(texts, 600, kind); v = Vocab.of(tok); i = tok('Unquestionably, it is. Is it?', add_special_tokens=False)['input_ids']
        words = ' '.join(tok.decode(torch.tensor(i)[c]) for c in np.split(np.arange(len(i)), np.flatnonzero(~v.inner[i].numpy()))[1 if not v.inner[i[0]] else 0:])
        assert words.lower().split() == 'unquestionably , it is . is it ?'.split() and v.stop[i].sum() == 2

def test_errors(tok):
    x,r,bare = ids(2, 8), torch.arange(2), Vocab(V, 0, 2, 3, None, (0,1,2,3))
    for says,f in (('mask token', lambda: mlm(x, r, bare)), ('mask token', lambda: corrupt(x, r, bare)), ('mask token', lambda: dae(x, r, bare)),
                   ('mask token', lambda: corrupt(x, r, bare, noises=('mask',))), ('unit', lambda: mlm(x, r, VOCAB, unit='line')),
                   ('typos', lambda: corrupt(x, r, VOCAB, noises=('typos',))), ('form', lambda: dae(x, r, VOCAB, form='t5')),
                   ('apart', lambda: dae(x, r, VOCAB, doc=x, form='bart')), ('5 positions', lambda: nsp(Pairs.of(*corpus(), VOCAB), r, VOCAB, T=4)),
                   ('full stops', lambda: Pairs.of(*stream(['no stop','none']*3, tok), Vocab.of(tok))),
                   ('two documents', lambda: Pairs.of(*stream(['One. Two. Three.'], tok), Vocab.of(tok)))):
        with pytest.raises(BadInput, match=says) as e: f()
        assert '\n' not in str(e.value)
    corrupt(x, r, bare, noises=('delete','permute','rotate'))

@pytest.mark.parametrize('noise', [*NOISES,'permute + infill'])
def test_strips(tok, noise):
    text = 'It is so. Is it? Ask him again, and wait!'; words = tok.convert_ids_to_tokens(tok(text)['input_ids'])
    shown,kinds = noise_strip(text, tok, noise, .3, 1)
    assert len(shown) == len(kinds) and [t == '[MASK]' for t in shown] == [k == 1 for k in kinds] and set(shown) - {'[MASK]'} <= set(words)
    for how in MIXES: assert len(masked_strip(text, tok, .4, 1, how)[0]) == len(words)
