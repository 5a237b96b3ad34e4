"The gradient of a batch does not depend on how it is cut, padded or spread over processes"
import os, subprocess, sys
from pathlib import Path

import pytest, torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad

from lm_lifecycle.autoencoding import Pairs
from lm_lifecycle.core import IGNORE, Plan, View, is_asked, seed_torch
from lm_lifecycle.evaluation import evaluate
from lm_lifecycle.network import FAMILIES, Size, build, double
from lm_lifecycle.pretraining import view_of
from lm_lifecycle.tokens import Blocks, Vocab
from lm_lifecycle.training import accelerator, accumulate

B,T = 16,24
PLAN,VOCAB = Plan('cpu','fp32','eager'), Vocab(200, 0, 2, 3, 4, (0,1,2,3,4), stops=(5,))
HEADS = [('cls','bert'),('cls','modernbert'),('cls','gpt2'),('tag','bert'),('tag','llama'),('qa','bert'),('qa','modernbert'),
         ('value','bert'),('several','bert')] # Kinds of answers that fine-tuning asks for
CASES = [(k,f) for f,kinds in FAMILIES.items() for k in kinds.split()] + HEADS
SHAPE = dict(cls=dict(num_labels=3), tag=dict(num_labels=3), value=dict(num_labels=1, problem_type='regression'),
             several=dict(num_labels=3, problem_type='multi_label_classification'))

def net(kind, family, dtype):
    n = build('cls' if kind in ('value','several') else kind, Size(2, 64, T=T+7), VOCAB, family, **SHAPE.get(kind, {}))
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

def padded(v, n):
    "`n` more tokens on the right, to be neither seen nor asked for"
    ids = v.inputs['input_ids']; N = ids.shape[1]; new = {}
    for k,t in dict(dict(attention_mask=torch.ones_like(ids)), **v.inputs).items():
        if k == 'perm_mask': new[k] = pad(t, (0,n,0,n), value=1.)
        elif t.dim() == 4: new[k] = pad(t, (0,n,0,n)) | torch.eye(N+n, dtype=torch.bool)
        else: new[k] = pad(t, (0,n), value=VOCAB.pad if 'input_ids' in k else 0)
    labels = {h: pad(t, (0,n), value=IGNORE) if h in ('lm','tag') and 'perm_mask' not in new else t for h,t in v.labels.items()}
    return View(new, labels, v.shift)

def gradient(kind, family, v, micro=1, dtype=torch.double):
    "Name → gradient of the batch's mean loss"
    m,acc = net(kind, family, dtype), accelerator(PLAN); accumulate(acc, acc.prepare(m.train()), v, micro, PLAN)
    return {n: p.grad for n,p in m.named_parameters()}

def distance(a, b):
    "Relative norm over all gradients"
    assert a.keys() == b.keys() and all((a[k] is None) == (b[k] is None) for k in a)
    flat = lambda g: torch.cat([g[k].flatten().double() for k in sorted(g) if g[k] is not None])
    return float((flat(a) - flat(b)).norm()/flat(b).norm())

@pytest.mark.parametrize('dtype,most', [(torch.double,1e-9), (torch.float,1e-5)])
@pytest.mark.parametrize('kind,family', CASES)
def test_cut_and_padding(kind, family, dtype, most):
    v = view(kind, family); whole = gradient(kind, family, v, dtype=dtype); y = next(iter(v.labels.values()))
    assert kind == 'dae' or len(is_asked(y).view(B,-1).sum(1).unique()) > 1
    for n in (0,7):
        for micro in (1,2,4,16): assert distance(gradient(kind, family, padded(v, n), micro, dtype), whole) <= most, (micro,n)

def test_padding_without_a_mask_is_unseen_by_a_causal_network():
    v = view('clm'); w = padded(v, 7); del w.inputs['attention_mask']
    assert distance(gradient('clm', 'gpt2', w, 4), gradient('clm', 'gpt2', v)) <= 1e-9

@pytest.mark.parametrize('kind,family', CASES)
def test_evaluation_does_not_depend_on_the_batch_size(kind, family):
    v,m = view(kind, family), net(kind, family, torch.double)
    one,*more = [evaluate(m, [v[i:i+k] for i in range(0, B, k)], PLAN) for k in (16,5,1)]
    for e in more:
        for h,l in one.items(): assert e[h].n == l.n and abs(e[h].sum - l.sum) <= 1e-9*abs(l.sum)

def test_reported_loss_does_not_depend_on_the_cut():
    loss = lambda micro: accumulate(acc := accelerator(PLAN), net('clm', 'gpt2', torch.double), view('clm'), micro, PLAN)['lm']
    assert all(abs(loss(m) - loss(1)) < 1e-12 for m in (2,4,16))

def test_two_processes(tmp_path):
    "Started by torchrun, joined by gloo"
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(Path(__file__).parents[1]))
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    r = subprocess.run([*launch, __file__, tmp_path], env=env, timeout=120, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr[-2000:]
    for kind,family in CASES:
        for n in (16,15):
            one = {k:g for k,g in gradient(kind, family, view(kind, family, n)).items() if g is not None}
            assert distance(load_file(tmp_path/f'{kind}-{family}-{n}.safetensors'), one) <= 1e-9, (kind,family,n)

if __name__ == '__main__':
    for kind,family in CASES:
        for n in (16,15):
            g = {k:t.contiguous() for k,t in gradient(kind, family, view(kind, family, n), 3).items() if t is not None}
            if os.environ['RANK'] == '0': save_file(g, f'{sys.argv[1]}/{kind}-{family}-{n}.safetensors')
    torch.distributed.destroy_process_group()
