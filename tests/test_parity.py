"Our numbers are the leaders' numbers: losses, gradients, random words, masking shares"
import math
from functools import partial

import numpy as np, torch
from hypothesis import assume, given, settings, strategies as st

from lm_lifecycle.autoencoding import mlm, nll
from lm_lifecycle.autoregressive import clm
from lm_lifecycle.core import IGNORE, View, philox, uniform, words32
from lm_lifecycle.network import LinearNLL, Size, build, to_hf
from lm_lifecycle.tokens import Vocab

settings.register_profile('house', deadline=None, max_examples=30, derandomize=True); settings.load_profile('house')
SEEDS = st.integers(0, 2**31-1)

def vocab(V): return Vocab(V, 0, 2, 3, 4, (0,1,2,3,4))

@st.composite
def batches(draw):
    "A vocabulary, ids, documents, and an attention mask of right-padded rows, one of them full"
    V,B,T,seed = draw(st.integers(20, 300)), draw(st.integers(1, 4)), draw(st.integers(4, 24)), draw(SEEDS)
    g = torch.Generator().manual_seed(seed); x = torch.randint(5, V, (B,T), generator=g); doc = torch.rand(B, T, generator=g).lt(.15).cumsum(1)
    n = torch.randint(2, T+1, (B,1), generator=g); n[0] = T; seen = torch.arange(T) < n
    return vocab(V), x.where(seen, 0), doc.where(seen, -1), seen.long(), seed

def ours_and_theirs(net, view):
    "The mean loss of one head, by us and by the `transformers` model"
    net.eval()
    with torch.no_grad(): (loss,),theirs = net(view).values(), net.model(**to_hf(view)).loss
    return float(loss.mean), float(theirs)

def agrees(kind, family, v, b, view, **kw):
    "To 1e-5; both are silent where nothing is asked"
    *_,seen,seed = b; net = build(kind, Size(2, 64, T=24), v, family, seed=seed, **kw)
    view = View(view.inputs | dict(attention_mask=seen), view.labels, view.shift); assume(sum(view.counts.values()))
    ours,theirs = ours_and_theirs(net, view)
    assert abs(ours - theirs) <= 1e-5*max(1, theirs)

@given(batches())
def test_bert_mlm(b):
    v,x,_,_,seed = b; agrees('mlm', 'bert', v, b, mlm(x, torch.arange(len(x)), v, key=(seed,'mlm',0), p=.4))

@given(batches(), st.sampled_from(['gpt2','bert']))
def test_clm(b, family):
    v,x,doc,*_ = b; view = clm(x, doc); view.labels['lm'][x == v.pad] = IGNORE; agrees('clm', family, v, b, view)

@given(batches(), st.integers(2, 5))
def test_bert_classification(b, C):
    v,x,_,_,seed = b; y = torch.randint(0, C, (len(x),), generator=torch.Generator().manual_seed(seed))
    agrees('cls', 'bert', v, b, View(dict(input_ids=x), dict(cls=y)), num_labels=C)

@given(batches(), st.sampled_from(['bert','gpt2','modernbert']))
def test_tagging(b, family):
    v,x,_,seen,seed = b; y = torch.where((seen > 0) & (x%4 > 0), x%3, IGNORE)
    agrees('tag', family, v, b, View(dict(input_ids=x), dict(tag=y)), num_labels=3)

@given(batches(), st.sampled_from(['regression','multi_label_classification']))
def test_values(b, problem):
    "Theirs is the squared error alone, twice our Gaussian's part of it"
    v,x,_,seen,seed = b; K = 1 if problem == 'regression' else 3; y = (x[:,:K]%2).float(); y = y[:,0] if K == 1 else y
    net = build('cls', Size(2, 64, T=24), v, seed=seed, num_labels=K, problem_type=problem)
    ours,theirs = ours_and_theirs(net, View(dict(input_ids=x, attention_mask=seen), dict(value=y)))
    assert abs((2*ours - math.log(2*math.pi) if K == 1 else ours) - theirs) <= 1e-5*max(1, theirs)

@torch.no_grad()
def test_spans_and_padding():
    "Theirs is the mean of two losses, ours their sum; and theirs takes padding for possible answers"
    v = vocab(100); x = torch.randint(5, 100, (4,16), generator=torch.Generator().manual_seed(0)); y = dict(start=x[:,0]%16, end=x[:,1]%16)
    net = build('qa', Size(2, 64, T=24), v).eval(); both = lambda view: (sum(float(l.mean) for l in net(view).values())/2, float(net.model(**to_hf(view)).loss))
    short = View(dict(input_ids=x, attention_mask=torch.ones_like(x)), y); wide = View({k: torch.nn.functional.pad(t, (0,8)) for k,t in short.inputs.items()}, y)
    (ours,theirs),(ours_wide,theirs_wide) = both(short), both(wide)
    assert abs(ours - theirs) <= 1e-5 and abs(ours - ours_wide) <= 1e-5 and theirs_wide > theirs + .1

def linear(n, D, V, bias, seed):
    g = torch.Generator().manual_seed(seed); r = lambda *s: torch.randn(*s, generator=g, dtype=torch.double, requires_grad=True)
    return r(n, D), r(V, D), r(V) if bias else None, torch.randint(0, V, (n,), generator=g)

@given(st.integers(0, 40), st.integers(1, 16), st.integers(2, 50), st.booleans(), st.integers(1, 50), SEEDS)
def test_linear_nll(n, D, V, bias, chunk, seed):
    h,W,b,y = linear(n, D, V, bias, seed); ps = [p for p in (h,W,b) if p is not None]; close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
    ours,theirs = LinearNLL.apply(h, W, b, y, chunk), nll(torch.nn.functional.linear(h, W, b), y).sum
    close(ours, theirs); close(torch.autograd.grad(3*ours, ps), torch.autograd.grad(3*theirs, ps))

def test_linear_nll_by_finite_differences():
    h,W,b,y = linear(7, 5, 11, True, 0)
    assert torch.autograd.gradcheck(lambda *a: LinearNLL.apply(*a, y, 3), (h,W,b))

def words(c, k):
    "Philox-4×32-10 once more, in Python's whole numbers, after the paper's figure 2"
    for _ in range(10):
        (h0,l0),(h1,l1) = divmod(0xD2511F53*c[0], 2**32), divmod(0xCD9E8D57*c[2], 2**32)
        c,k = (h1^c[1]^k[0], l1, h0^c[3]^k[1], l0), ((k[0] + 0x9E3779B9)%2**32, (k[1] + 0xBB67AE85)%2**32)
    return list(c)

ONES,PI = 2**32-1, (0x243f6a88,0x85a308d3,0x13198a2e,0x03707344)
KNOWN = [((0,)*4, (0,)*2, [0x6627e8d5,0xe169c58d,0xbc57ac4c,0x9b00dbd8]),
         ((ONES,)*4, (ONES,)*2, [0x408f276d,0x41c83b0e,0xa20bc7c6,0x6d5451fd]),
         (PI, (0xa4093822,0x299f31d0), [0xd16cfe09,0x94fdcceb,0x5001e420,0x24126ea1])]

def test_philox_known_answers():
    "Random123's own vectors: `kat_vectors`"
    for c,k,want in KNOWN: assert words(c, k) == want == [int(w[0]) for w in philox([np.array([i], np.uint32) for i in c], k)]

@given(st.lists(st.integers(0, 2**63-1), min_size=1, max_size=5), st.integers(1, 13), SEEDS)
def test_uniform_of_any_row(rows, T, seed):
    "Far beyond 2³² rows, too"
    key = (seed,'test',1); u = uniform(key, torch.tensor(rows), T)
    want = [[words((r%2**32, r>>32, t//4, 0), words32(key))[t%4]/2**32 for t in range(T)] for r in rows]
    assert u.dtype == torch.double and u.tolist() == want

def test_rows_beyond_32_bits_differ():
    r = torch.tensor([5, 5+2**32, 5+2**40]); u = uniform((0,'test',0), r, 64)
    assert len(u.unique()) > 150 and torch.equal(u[1:2], uniform((0,'test',0), r[1:2], 64))

def test_mask_shares_of_a_million_tokens():
    v = vocab(8000); x = torch.randint(5, 8000, (8000,128), generator=torch.Generator().manual_seed(0)); y = x.clone()
    view = mlm(x, torch.arange(8000), v); xt,M = view.inputs['input_ids'],view.labels['lm'] != IGNORE
    hid,kept = xt[M] == v.mask, xt[M] == x[M]
    for m,share in ((M,.15), (hid,.8), (~hid & ~kept,.1), (kept,.1)): assert abs(m.double().mean() - share) < .005
    assert torch.equal(x, y) and torch.equal(xt[~M], x[~M]) and torch.equal(view.labels['lm'][M], x[M])

@given(st.integers(6, 400), SEEDS, st.floats(0, 1))
def test_no_special_token_is_hidden_or_invented(V, seed, p):
    v = vocab(V); x = torch.randint(0, V, (8,32), generator=torch.Generator().manual_seed(seed)); special = x < 5
    view = mlm(x, torch.arange(8), v, (seed,'mlm',0), p); xt = view.inputs['input_ids']
    assert torch.equal(xt[special], x[special]) and (view.labels['lm'][special] == IGNORE).all()
    assert ((xt >= 5) | (xt == v.mask) | special).all()

def test_no_special_token_of_a_real_tokenizer(tok, texts):
    x = torch.tensor(tok(texts[:64], padding='max_length', truncation=True, max_length=64)['input_ids'])
    view = mlm(x, torch.arange(64), Vocab.of(tok), p=1.)
    assert ((view.labels['lm'] == IGNORE) == torch.isin(x, torch.tensor(tok.all_special_ids))).all()
