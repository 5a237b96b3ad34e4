"Numbers: the same whatever the cut, the padding, the company, the processes; and what the formulas say"
import math, os
from functools import partial
from types import SimpleNamespace

import pytest, torch
from battery.conftest import later
from battery.warm import Fork, OBJECTIVES, done, ranks, weights, words
from hypothesis import given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad
from transformers.modeling_outputs import QuestionAnsweringModelOutput, TokenClassifierOutput

from lm_lifecycle.autoencoding import NOISES, UNITS, Pairs, corrupt, mlm, nll
from lm_lifecycle.autoregressive import plm
from lm_lifecycle.core import FORMULAS, IGNORE, Loss, Plan, View, digest, is_asked, seed_torch, total, uniform
from lm_lifecycle.evaluation import evaluate
from lm_lifecycle.network import FAMILIES, LinearNLL, Size, build, cls_loss, double, span_loss, value_loss
from lm_lifecycle.pretraining import RACE, view_of
from lm_lifecycle.tasks.classification import Classification
from lm_lifecycle.text import Labelled
from lm_lifecycle.tokens import Blocks, Vocab
from lm_lifecycle.training import accelerator, accumulate

WHAT = dict(
    D1='the same command twice', D2='accumulation 1/2/4', D3='1/2/4 processes, same global batch', D4='padding right, left, +k; batch order; one by one',
    D5='each loss against float64, 1,000 random shapes; finite differences', D6='masks under other workers, batch size, processes')

# D1

@pytest.mark.parametrize('what', ['mlm','cls', *map(later, OBJECTIVES[1:])])
def test_D1_the_same_command_twice(work, whole, tmp_path, what):
    "The second time in a process of its own"
    done(*words(work, what, tmp_path/'again')); assert weights(tmp_path/'again') == weights(whole(what))

# What D2 to D4 look at: every objective in every family, and every kind of answer that fine-tuning asks for

B,T = 16,24
PLAN,VOCAB = Plan('cpu','fp32','eager'), Vocab(200, 0, 2, 3, 4, (0,1,2,3,4), stops=(5,))
HEADS = [('cls','bert'),('cls','modernbert'),('cls','gpt2'),('tag','bert'),('tag','llama'),('qa','bert'),('qa','modernbert'),
         ('value','bert'),('several','bert')]
CASES = [(k,f) for f,kinds in FAMILIES.items() for k in kinds.split()] + HEADS
SHAPE = dict(cls=dict(num_labels=3), tag=dict(num_labels=3), value=dict(num_labels=1, problem_type='regression'),
             several=dict(num_labels=3, problem_type='multi_label_classification'))
CUTS = [(n,k) for n in (0,7) for k in (1,2,4,16)] # Padding, micro-batches
cases = pytest.mark.parametrize('kind,family', CASES)

def net(kind, family, dtype, attn='eager'):
    n = build('cls' if kind in ('value','several') else kind, Size(2, 64, T=T+7), VOCAB, family, attn=attn, **SHAPE.get(kind, {}))
    if dtype == torch.double: n.model = double(n.model).train()
    return n

def asked(kind, rows, x):
    "Labels of a head, some rows without any"
    if kind == 'cls': return dict(cls=torch.where(rows%5 == 0, IGNORE, rows%3))
    if kind == 'tag': return dict(tag=torch.where((x%3 == 0) & (rows%5 > 0)[:,None], x%3, IGNORE))
    if kind == 'qa': return dict(start=torch.where(rows%5 == 0, IGNORE, rows%T), end=torch.where(rows%4 == 0, IGNORE, rows%T))
    if kind == 'value': return dict(value=torch.where(rows%5 == 0, torch.nan, rows/7))
    return dict(value=torch.where(x[:,:3]%7 == 0, torch.nan, (x[:,:3]%2).double()))

def view(kind, family='bert', B=B):
    "Rows with different numbers of answers"
    seed_torch(('view',kind)); x,rows = torch.randint(6, 200, (B,T)), torch.arange(B); x[:,0] = VOCAB.cls
    if (kind,family) in HEADS: return View(dict(input_ids=x, attention_mask=torch.ones_like(x)), asked(kind, rows, x))
    x[torch.rand(B, T) < .1] = VOCAB.sep; doc = (x == VOCAB.sep).cumsum(1)
    if kind == 'nsp': ids = torch.randint(6, 200, (600,)); ids[::7] = 5
    data = Pairs.of(ids, torch.arange(600)//60, VOCAB) if kind == 'nsp' else Blocks(x, doc, '')
    return view_of(kind, data, rows, VOCAB, family=family, exact=family != 'bart',
                   **dict(nsp=dict(T=T), plm=dict(p=.95)).get(kind, {}))

def padded(v, n, left=False):
    "`n` more tokens on the right, or left, to be neither seen nor asked for"
    ids = v.inputs['input_ids']; N = ids.shape[1]; new,side = {}, (n,0) if left else (0,n); eye = torch.eye(N+n, dtype=torch.bool)
    inputs = dict(dict(attention_mask=torch.ones_like(ids)), **v.inputs)
    if left and 'perm_mask' not in inputs: inputs = dict(dict(position_ids=torch.arange(N).expand_as(ids)), **inputs)
    for k,t in inputs.items():
        if k == 'perm_mask': new[k] = pad(t, side*2, value=1.)
        elif t.dim() == 4: new[k] = pad(t, side*2) | eye
        else: new[k] = pad(t, side, value=VOCAB.pad if 'input_ids' in k else 0)
    labels = {h: pad(t, side, value=IGNORE) if h in ('lm','tag') and 'perm_mask' not in new else t for h,t in v.labels.items()}
    if left: labels |= {h: torch.where(t == IGNORE, t, t+n) for h,t in labels.items() if h in ('start','end')}
    return View(new, labels, v.shift)

def name(dtype): return str(dtype).removeprefix('torch.')
def grads(m): return {n: p.grad for n,p in m.named_parameters()}

def gradient(kind, family, v, micro=1, dtype=torch.double):
    "Name → gradient of the batch's mean loss"
    m,acc = net(kind, family, dtype), accelerator(PLAN); accumulate(acc, acc.prepare(m.train()), v, micro, PLAN)
    return grads(m)

def flat(g): return torch.cat([g[k].flatten().double() for k in sorted(g) if g[k] is not None])

def distance(a, b):
    "Relative norm over all gradients"
    assert a.keys() == b.keys() and all((a[k] is None) == (b[k] is None) for k in a)
    return float((flat(a) - flat(b)).norm()/flat(b).norm())

def mean(m, *views): return {h: float(l.mean) for h,l in evaluate(m, views, PLAN).items()} # Head → loss

def off(a, b): assert a.keys() == b.keys(); return max(abs(a[h] - b[h])/max(1, abs(b[h])) for h in b)

# D2

@pytest.mark.parametrize('dtype,limit,cuts', [(torch.double, 1e-9, [(7,4)]), later(torch.double, 1e-9, CUTS), later(torch.float, 1e-5, CUTS)])
@cases
def test_D2_gradient(most, kind, family, dtype, limit, cuts):
    "However it is cut, padded or not"
    v = view(kind, family); whole = gradient(kind, family, v, dtype=dtype); y = next(iter(v.labels.values()))
    assert kind == 'dae' or len(is_asked(y).view(B,-1).sum(1).unique()) > 1
    for n,micro in cuts: assert most(f'gradient {name(dtype)}', distance(gradient(kind, family, padded(v, n), micro, dtype), whole)) <= limit, (n,micro)

def descended(kind, family, micro, dtype, steps=4):
    "Losses and weights of some steps of plain gradient descent"
    m,acc = net(kind, family, dtype).train(), accelerator(PLAN); model,opt,losses = acc.prepare(m), torch.optim.SGD(m.parameters(), .1), []
    for s in range(steps):
        losses.append(sum(accumulate(acc, model, view(kind, family), micro, PLAN).values())); opt.step(); opt.zero_grad()
    return torch.tensor(losses), torch.cat([p.detach().flatten() for p in m.parameters()])

def same_descent(a, b):
    "Losses to 1e-6, weights to 1e-7; float32 weights of one or more lie further apart than that, and may differ by one place"
    (l,w),(losses,ws) = a, b; most = ws.abs().clamp(min=1)*(1e-7 if ws.dtype == torch.double else 2**-23)
    return bool(((l - losses).abs() <= 1e-6*losses).all() and ((w - ws).abs() <= most).all())

@pytest.mark.parametrize('dtype', [torch.double,torch.float])
@pytest.mark.parametrize('kind,family', [('mlm','bert'), ('clm','gpt2'), ('cls','bert'), *(later(k, 'bert') for k in ('dae','plm','nsp'))])
def test_D2_loss_and_weights(kind, family, dtype):
    whole = descended(kind, family, 1, dtype)
    for micro in (2,4): assert same_descent(descended(kind, family, micro, dtype), whole)

# D3

DESCENTS = [(k,f,d) for k,f in (('mlm','bert'),('clm','gpt2'),('cls','bert')) for d in (torch.double,torch.float)]

def save_all(folder, sizes):
    "What the first of several processes has: gradients of batches that divide evenly and do not; losses and weights of some steps"
    def keep(name, **ts):
        if os.environ['RANK'] == '0': save_file(ts, f'{folder}/{name}.safetensors')
    for kind,family in CASES:
        for n in sizes: keep(f'{kind} {family} {n}', **{k: t.contiguous() for k,t in gradient(kind, family, view(kind, family, n), 3).items() if t is not None})
    for case in DESCENTS: keep(' '.join(map(str, case)), **dict(zip('lw', descended(*case[:2], 1, case[2]))))

@pytest.mark.parametrize('k,sizes', [(2,(15,)), later(2, (16,15)), later(4, (16,15))])
def test_D3_gradients_losses_weights(most, tmp_path, k, sizes):
    for code,said in [p.wait(300) for p in ranks(k, save_all, str(tmp_path), sizes)]: assert code == 0, said
    for kind,family in CASES:
        for n in sizes:
            one = {k:g for k,g in gradient(kind, family, view(kind, family, n)).items() if g is not None}
            assert most('gradient float64', distance(load_file(tmp_path/f'{kind} {family} {n}.safetensors'), one)) <= 1e-9, (kind,family,n)
    for kind,family,dtype in DESCENTS:
        found = load_file(tmp_path/f'{kind} {family} {dtype}.safetensors')
        assert same_descent((found['l'],found['w']), descended(kind, family, 1, dtype)), (kind,family,dtype)

# D4

LEFT = [c for c in CASES if c not in [('dae','bart'),('nsp','bert')] and (c[0] not in ('cls','value','several') or c[1] == 'gpt2')]

@pytest.mark.parametrize('dtype,limit', [(torch.float,1e-6), later(torch.double, 1e-9)])
@cases
def test_D4_batches(most, kind, family, dtype, limit):
    "More padding, one by one, the other way round"
    v = view(kind, family); loss = partial(mean, net(kind, family, dtype)); whole = loss(v)
    for views in ([v[i:i+5] for i in range(0, B, 5)], [v[i:i+1] for i in range(B)], [padded(v, 1)], [padded(v, 7)], [v[torch.arange(B).flip(0)]]):
        assert most(f'loss {name(dtype)}', off(loss(*views), whole)) <= limit

@pytest.mark.parametrize('kind,family', LEFT)
def test_D4_padding_left(most, kind, family):
    "Positions then begin where the row does. (BART counts them itself; BERT answers from the first place, wherever the row is.)"
    v,m = view(kind, family), net(kind, family, torch.float)
    for n in (1,7): assert most('left float32', off(mean(m, padded(v, n, left=True)), mean(m, v))) <= 1e-6

def test_D4_a_tokenizer_that_pads_left(tok, texts):
    "Pads right, here"
    data = Labelled(texts[:20], [i%2 for i in range(20)], ['a','b'])
    other = Classification(data, tok, 16).encode(range(20)); tok.padding_side = 'left'
    try: mine = Classification(data, tok, 16).encode(range(20))
    finally: tok.padding_side = 'right'
    assert all(torch.equal(mine.inputs[k], t) for k,t in other.inputs.items())

def test_D4_padding_without_a_mask_is_unseen_by_a_causal_network():
    v = view('clm'); w = padded(v, 7); del w.inputs['attention_mask']
    assert distance(gradient('clm', 'gpt2', w, 4), gradient('clm', 'gpt2', v)) <= 1e-9

# D5

SHAPES = st.tuples(st.integers(1, 5), st.integers(2, 14), st.integers(8, 40), st.integers(0, 2**31-1))
often = pytest.mark.parametrize('n', [25, later(1000)])

def every(n, check):
    "Hold for `n` random B, T, V and seeds"
    @settings(max_examples=n, derandomize=True, deadline=None, database=None)
    @given(SHAPES)
    def f(shape): check(*shape)
    f()

@often
@pytest.mark.parametrize('name', sorted(FORMULAS))
def test_D5_formula(most, name, n):
    "Each view and loss against its formula, term by term"
    def check(*shape): assert most('formula', FORMULAS[name].check(*shape)) <= 1e-6
    every(n, check)

def terms(z, y):
    "Float64: minus log p of every answer"
    z = z.double().flatten(0, -2); y = y.flatten(); at = y != IGNORE
    return [math.log(sum(math.exp(v - max(r)) for v in r)) + max(r) - r[i] for r,i in zip(z[at].tolist(), y[at].tolist())]

def spans(z, y, mask): return [t for r,i,m in zip(z, y, mask) for t in terms(r[m > 0][None], i[None])]
def numbers(z, y): return [(w - v)**2/2 + math.log(2*math.pi)/2 for v,w in zip(z.double().tolist(), y.double().tolist())]
def coins(z, y): return [math.log1p(math.exp(-abs(v))) + max(v, 0) - v*w for v,w in zip(z.double().flatten().tolist(), y.flatten().tolist())]

def draw(seed, *shape, scale=1.): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))*scale
def ids(seed, n, *shape): # Some of them `IGNORE`, never all
    g = torch.Generator().manual_seed(seed+1); y = torch.randint(n, shape, generator=g); y[torch.rand(shape, generator=g) < .3] = IGNORE
    y.view(-1)[0] = 0; return y

def model(problem=None): return SimpleNamespace(config=SimpleNamespace(problem_type=problem, num_labels=1))
def logits(z): return TokenClassifierOutput(logits=z)

def lm(B, T, V, s): # Hidden states and output embedding
    h,W,b,y = draw(s, B*T, 16), draw(s+1, V, 16, scale=.3), draw(s+2, V, scale=.3), ids(s, V, B*T)
    ours = lambda h,W,b: LinearNLL.apply(h, W, b, y, 7)
    return ours, (h,W,b), terms(h.double()@W.double().T + b.double(), y)
def one(B, T, V, s): z,y = draw(s, B, V), ids(s, V, B); return (lambda z: cls_loss(None, logits(z), y).sum), (z,), terms(z, y)
def tags(B, T, V, s): z,y = draw(s, B, T, V), ids(s, V, B, T); return (lambda z: cls_loss(None, logits(z), y).sum), (z,), terms(z, y)
def says(B, T, V, s): z,y = draw(s, B*T, V), ids(s, V, B*T).clamp(min=0); return (lambda z: nll(z, y).sum), (z,), terms(z, y)
def span(B, T, V, s):
    z,y = draw(s, B, T), ids(s, T, B); mask = (torch.arange(T) <= y[:,None].clamp(min=0) + s%3).long()
    return (lambda z: span_loss(None, QuestionAnsweringModelOutput(start_logits=z), y, mask).sum), (z,), spans(z, y, mask)
def value(B, T, V, s): z,y = draw(s, B, 1), draw(s+1, B); return (lambda z: value_loss(model('regression'), logits(z), y).sum), (z,), numbers(z[:,0], y)
def several(B, T, V, s):
    z,y = draw(s, B, V), (draw(s+1, B, V) > 0).float(); return (lambda z: value_loss(model('multi_label_classification'), logits(z), y).sum), (z,), coins(z, y)
def heads(B, T, V, s): # The total of some of them, weighted
    parts = [f(B, T, V, s) for f in (tags,span,several)]; w = {i: i+1. for i in range(3)}
    ours = lambda *zs: total({i: Loss(p[0](z), len(p[2])) for i,(p,z) in enumerate(zip(parts, zs))}, weights=w)
    return ours, tuple(p[1][0] for p in parts), [w[i]*sum(p[2])/len(p[2]) for i,p in enumerate(parts)]

LOSSES = dict(lm=lm, one=one, tags=tags, says=says, span=span, value=value, several=several, heads=heads)

@often
@pytest.mark.parametrize('name', LOSSES)
def test_D5_float32(most, name, n):
    "Against float64, written out: 1e-6, relative; answers that cost next to nothing count as one nat"
    def check(*shape):
        ours,xs,terms = LOSSES[name](*shape); S = math.fsum(terms)
        assert most('loss float32', abs(float(ours(*xs)) - S)/max(S, len(terms))) <= 1e-6
    every(n, check)

@pytest.mark.parametrize('name', LOSSES)
def test_D5_finite_differences(name):
    "In float64: 1e-7"
    for seed in range(3):
        ours,xs,_ = LOSSES[name](2, 5, 9, seed); xs = [x.double().requires_grad_() for x in xs]
        assert torch.autograd.gradcheck(ours, xs, eps=1e-5, atol=1e-7, rtol=1e-7)

@cases
def test_D5_finite_differences_of_a_network(most, kind, family):
    "Along its gradient, the loss rises by the gradient's norm: 1e-7, relative. (Eager attention of `transformers` is float32 here and there; SDPA is not.)"
    m,v,e = net(kind, family, torch.double, 'sdpa'), view(kind, family), 1e-4; total(m(v)).backward()
    ps = [p for p in m.parameters() if p.grad is not None]; norm = math.sqrt(sum(float((p.grad**2).sum()) for p in ps))
    def rise(k): # Per unit, from k steps back to k steps on
        def at(k):
            with torch.no_grad():
                for p in ps: p += k*e*p.grad/norm
                return float(total(m(v)))
        up = at(k); down = at(-2*k); at(k); return (up - down)/(2*k*e)
    assert most('finite differences', abs((4*rise(1) - rise(2))/3/norm - 1)) <= 1e-7

# D6

SEEDS = st.integers(0, 2**31); V = 60; WORDS = Vocab(V, 0, 2, 3, 4, (0,1,2,3,4), inside=tuple(range(30, 45)), stops=(5,6))

def random_rows(B, T, seed=0, special=.1):
    "Random rows, some of their tokens special"
    u,v = uniform((seed,'test'), torch.arange(B), 2*T).chunk(2, 1)
    return torch.where(v < special, (v/special*4).long(), 5 + (u*(V - 5)).long())

def real(xt, at): return [r[a >= 0].tolist() for r,a in zip(xt, at)]
def same(a, b): return a.keys() == b.keys() and all(torch.equal(t, b[k]) for k,t in a.items())
def equal(a, b): return same(a.inputs, b.inputs) and same(a.labels, b.labels)

@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.permutations(range(30)), st.integers(1, 30), SEEDS, st.sampled_from([*UNITS,'plm']))
def test_D6_masks_and_orders_are_the_rows_own(rows, B, seed, how):
    "Whatever the batch: its size, its order, its company"
    x,key = random_rows(30, 20, seed), (seed,'mlm',3); f = lambda r: plm(x[r], r, WORDS, key) if how == 'plm' else mlm(x[r], r, WORDS, key, unit=how)
    whole = f(torch.arange(30))
    for r in torch.tensor(rows).split(B): assert equal(f(r), whole[r])

@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.permutations(range(30)), st.integers(1, 30), SEEDS, st.lists(st.sampled_from([*NOISES]), max_size=3))
def test_D6_noise_is_the_rows_own(rows, B, seed, noises):
    x,key = random_rows(30, 20, seed), (seed,'noise',3); f = lambda r: corrupt(x[r], r, WORDS, key, noises)
    whole = real(*f(torch.arange(30)))
    for r in torch.tensor(rows).split(B): assert real(*f(r)) == [whole[i] for i in r]

class Batches(torch.utils.data.Dataset):
    "Views of ten rows each"
    def __init__(self, kind):
        g = torch.Generator().manual_seed(0); x = torch.randint(5, V, (40,16), generator=g); doc = torch.arange(40)[:,None].expand(40, 16)
        self.kind,self.data = kind, Pairs.of(x, doc//4, WORDS) if kind == 'nsp' else Blocks(x, doc, '')
    def __len__(self): return 4
    def __getitem__(self, i):
        rows = torch.arange(10*i, 10*i+10)%len(self.data)
        return view_of(self.kind, self.data, rows, WORDS, (7,self.kind,1), **(dict(T=16) if self.kind == 'nsp' else {}))

@pytest.mark.parametrize('kind', RACE)
def test_D6_other_workers(kind):
    one,many = ([v for v in torch.utils.data.DataLoader(Batches(kind), batch_size=None, num_workers=n)] for n in (0,2))
    for a,b in zip(one, many, strict=True): assert equal(a, b)

def seen(): print(digest(*(t for kind in RACE for i in range(4) for v in [Batches(kind)[i]] for d in (v.inputs,v.labels) for t in d.values())))

def test_D6_other_processes(capsys):
    "One that knows of nothing, and two that work together"
    seen(); mine = capsys.readouterr().out; assert len(mine.strip()) == 64
    for p in [Fork(seen), *ranks(2, seen)]: assert p.wait() == (0,mine)
