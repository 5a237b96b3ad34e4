"""Characters of Shakespeare, beside nanoGPT's recipe. LM_DATA=… python benchmarks/shakespeare.py [--quick] [--out FILE]

One budget: 4 layers, 128 wide, context 64, 2,000 × 12 × 64 tokens of training, and at most as many parameters. `plain` is
what one writes by hand after nanoGPT: its network, its batches, its published settings for a CPU (AdamW, 100 steps of
warm-up, cosine 1e-3 → 1e-4, no dropout, float32). `ours` is the package: `build`, `clm`, `train`. They take turns, each in
a process of its own. A time is the whole training, first step included, without imports, reading and scoring; nothing is
compiled. `ours` is a Llama of three layers, one head and fewer parameters, trained by Muon. Both are scored in float32,
over all of the validation split, in blocks of 64 that do not overlap."""
import argparse, math, multiprocessing, os, sys, time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from lm_lifecycle.autoregressive import clm
from lm_lifecycle.core import plan, rows_at, uniform, write_json
from lm_lifecycle.evaluation import evaluate
from lm_lifecycle.life import versions
from lm_lifecycle.network import Size, build
from lm_lifecycle.tokens import Vocab
from lm_lifecycle.training import Recipe, train
from step import PRELOAD, cpu

L,D,H,T,V = 4,128,4,64,65
B,STEPS,WARMUP = 12,2000,100
TOKENS = STEPS*B*T
SEEDS = 1337,1338,1339 # nanoGPT's own, and the next two
NEED = dict(plain=1.90, loss=1.60, time=.6)
FILE = Path(os.environ.get('LM_DATA', ''))/'tinyshakespeare/input.txt'
OUT = Path(__file__).parents[1]/'results/bench_shakespeare.json'

def splits(): # Ids of the first 90 %, and of the rest
    "One id a character"
    text = FILE.read_text(encoding='utf-8'); ids = {c:i for i,c in enumerate(sorted(set(text)))}
    x = torch.tensor([ids[c] for c in text]); return x.split([n := int(.9*len(x)), len(x) - n])

def cut(x, start): # `(B,T+1)`: T inputs, and the last target
    return x[start[:,None] + torch.arange(T+1)]

def view_of(x): # A causal view in which every position is asked
    return clm(x).map(lambda t: t[:,:T])

class Block(nn.Module):
    "Attention, then a feed-forward, each after a norm and added"
    def __init__(self):
        super().__init__(); linear = lambda i,o: nn.Linear(i, o, bias=False)
        self.norm1,self.norm2 = (nn.LayerNorm(D, bias=False) for _ in '12')
        self.qkv,self.out,self.up,self.down = linear(D, 3*D), linear(D, D), linear(D, 4*D), linear(4*D, D)

    def forward(self, h):
        q,k,v = self.qkv(self.norm1(h)).view(*h.shape[:2], 3, H, D//H).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.out(a.transpose(1, 2).reshape(h.shape))
        return h + self.down(F.gelu(self.up(self.norm2(h))))

class GPT(nn.Module):
    "nanoGPT's network: no biases, tied embeddings, learned positions"
    def __init__(self):
        super().__init__(); self.norm = nn.LayerNorm(D, bias=False)
        self.tok,self.pos,self.blocks = nn.Embedding(V, D), nn.Embedding(T, D), nn.Sequential(*(Block() for _ in range(L)))
        for n,p in self.named_parameters():
            if p.dim() > 1: nn.init.normal_(p, std=.02/math.sqrt(2*L) if n.endswith(('out.weight','down.weight')) else .02)

    def forward(self, x): return F.linear(self.norm(self.blocks(self.tok(x) + self.pos.weight)), self.tok.weight) # (B,T,V)

def rate(s): # nanoGPT's learning rate at step s
    if s < WARMUP: return 1e-3*(s+1)/(WARMUP+1)
    return 1e-4 + 9e-4*.5*(1 + math.cos(math.pi*(s-WARMUP)/(STEPS-WARMUP)))

def nats(model, b, reduction): # Of next characters
    return F.cross_entropy(model(b[:,:-1]).flatten(0, 1), b[:,1:].flatten(), reduction=reduction)

def plain(seed, x): # Seconds; the model; what scores a block
    "A loop as one writes it"
    t0 = time.perf_counter(); torch.manual_seed(seed); model = GPT(); ps = list(model.parameters())
    groups = [dict(params=[p for p in ps if p.dim() > 1], weight_decay=.1),
              dict(params=[p for p in ps if p.dim() < 2], weight_decay=0.)]
    opt = torch.optim.AdamW(groups, lr=1e-3, betas=(.9,.99))
    for s in range(STEPS):
        for g in opt.param_groups: g['lr'] = rate(s)
        b = cut(x, torch.randint(len(x) - T, (B,)))
        nats(model, b, 'mean').backward()
        nn.utils.clip_grad_norm_(ps, 1.); opt.step(); opt.zero_grad()
    return time.perf_counter() - t0, model, lambda b: float(nats(model, b, 'sum'))

BATCH,RECIPE = 64, dict(lr=1.2e-2, betas=(.9,.95), optimiser='muon')
SHAPE = dict(family='llama', num_hidden_layers=3, intermediate_size=448, num_attention_heads=1, num_key_value_heads=1,
             tie_word_embeddings=False)

def ours(seed, x): # As `plain`
    "The package: disjoint blocks, cut elsewhere in every epoch"
    def batch(s):
        rows,epoch = rows_at(s, len(x)//T - 1, BATCH, seed)
        return view_of(cut(x, rows*T + int(T*uniform((seed,'cut',epoch), torch.tensor([0]), 1))))
    t0 = time.perf_counter(); vocab = Vocab(V, None, None, None, None, ())
    net = build('clm', Size(L, D, V, T), vocab, seed=seed, **SHAPE)
    train(net, batch, Recipe(TOKENS//(BATCH*T), seed=seed, **RECIPE))
    return time.perf_counter() - t0, net, lambda b: float(evaluate(net, [view_of(b)], plan(precision='fp32'))['lm'].sum)

def once(side, seed): # One training: seconds, validation loss, parameters
    "In a process of its own"
    sys.stderr = open(os.devnull, 'w'); x,valid = splits(); seconds,model,score = side(seed, x)
    rows = torch.arange((len(valid) - 1)//T)*T
    with torch.no_grad(): loss = sum(score(cut(valid, r)) for r in rows.split(128))/(len(rows)*T)
    return dict(seconds=seconds, loss=loss, parameters=sum(p.numel() for p in model.parameters()))

def verdicts(runs): # Threshold → asked, found, met
    "Every seed must reach its loss; the times are compared seed by seed"
    worst = {n: max(r['loss'] for r in rs) for n,rs in runs.items()}
    time = median(a['seconds']/b['seconds'] for a,b in zip(runs['ours'], runs['plain']))
    found = dict(plain=('plain loss', worst['plain']), loss=('our loss', worst['ours']), time=('our time', time))
    met = {name: dict(asked=NEED[k], found=v, met=v <= NEED[k]) for k,(name,v) in found.items()}
    n = {k: rs[0]['parameters'] for k,rs in runs.items()}
    return met | dict(parameters=dict(asked=n['plain'], found=n['ours'], met=n['ours'] <= n['plain']))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0]); p.add_argument('--out', default=OUT)
    p.add_argument('--quick', action='store_true', help='one seed'); a = p.parse_args()
    if not FILE.is_file(): return print('skipped: $LM_DATA has no tinyshakespeare/input.txt; set it to a folder of data sets')
    t0 = time.perf_counter(); seeds = SEEDS[:1] if a.quick else SEEDS; runs = dict(plain=[], ours=[])
    ctx = multiprocessing.get_context('forkserver'); ctx.set_forkserver_preload(PRELOAD)
    with ctx.Pool(1, maxtasksperchild=1) as pool:
        for seed in seeds:
            for side in (plain,ours):
                r = pool.apply(once, (side,seed)); runs[side.__name__].append(r)
                print(f"{side.__name__:6} seed {seed}: {r['loss']:.4f} nats, {r['seconds']:.1f} s, {r['parameters']:,} parameters", flush=True)
    met = verdicts(runs); took = time.perf_counter() - t0; print()
    for k,v in met.items(): print(f"{k:12} asked at most {v['asked']:.6g}, found {v['found']:.6g}: {'' if v['met'] else 'NOT '}met")
    settings = dict(batch=BATCH, steps=TOKENS//(BATCH*T), recipe=RECIPE, shape=SHAPE)
    write_json(a.out, dict(versions=versions(), cpu=cpu(), threads=torch.get_num_threads(), plan=asdict(plan()), tokens=TOKENS,
        ours=settings, runs=runs, thresholds=met, seconds=took))
    print(f'{a.out} in {took:.0f} s')

if __name__ == '__main__': main()
