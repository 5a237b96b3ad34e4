"""How fast is a step, beside Hugging Face's `Trainer`? python benchmarks/step.py [--quick] [--out FILE]

Every side is a process of its own: it trains the same network, in memory, on the same rows of the installed
documentation, and waits while another has its turn. A time runs from the beginning of one step to the beginning of the
next, whatever a side does in between. Ratios are taken round by round, then their median: a busy machine slows both.
First all flags that could help `Trainer` are tried; the winner, with and without `torch.compile`, then meets the
defaults and our own `train`. Compilation is warm-up, not timed."""
import argparse, contextlib, itertools, multiprocessing, os, platform, re, tempfile, time, timeit, traceback
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from datasets import Dataset
from torch.utils.flop_counter import FlopCounterMode
from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

from lm_lifecycle.autoencoding import mlm
from lm_lifecycle.autoregressive import clm
from lm_lifecycle.core import amp, keep_memory, plan, rows_at, total, write_json
from lm_lifecycle.life import peak_memory, versions
from lm_lifecycle.network import AUTO, SIZES, build, config, quiet, to_hf
from lm_lifecycle.text import docs
from lm_lifecycle.tokens import Vocab, blocks, train_tokenizer
from lm_lifecycle.training import Recipe, train

B,T,V,FOREVER = 64,128,8192,10**6
NEED = dict(mlm={'default':4., 'best':3.}, clm={'default':1.5, 'best':1.2}, masking=15.)
FLAGS = [dict(attn=a, format=f, workers=w) for a,f,w in itertools.product(('eager','sdpa'), (None,'torch'), (0,1))]
PRELOAD = ['lm_lifecycle.life','transformers.trainer','transformers.models.bert.modeling_bert'] # Imported once for all
OUT = Path(__file__).parents[1]/'results/bench_step.json'

def rows_of(texts=8000, n=32*B): # Tokenizer, and `Blocks` of whole batches
    "Real text, packed"
    texts = [d.text for d in docs('train')[:texts]]; tok = train_tokenizer(texts, V); data = blocks(texts, tok, T)
    data.ids,data.doc = data.ids[:n],data.doc[:n]
    return tok, data

def view_of(kind, data, vocab, step): # The view of one step, straight from the blocks
    rows,epoch = rows_at(step, len(data), B); x,_ = data.batch(rows)
    return mlm(x, rows, vocab, (0,'mlm',epoch)) if kind == 'mlm' else clm(x)

class Done(Exception): pass

class Turn:
    "Called where a step begins: notes how long the last one took, and waits when its turn is over"
    def __init__(self, pipe): self.pipe,self.took,self.steps,self.t0 = pipe,[],0,None
    def __call__(self):
        if torch.cuda.is_available(): torch.cuda.synchronize()
        if self.t0: self.took.append(time.perf_counter() - self.t0)
        if len(self.took) == self.steps:
            self.pipe.send((self.took, peak_memory())); self.took,self.steps = [], self.pipe.recv()
            if not self.steps: raise Done
        self.t0 = time.perf_counter()

def ours(turn, kind, size, tok, data):
    "The loop of notebook 08, as `lm-lifecycle life` calls it"
    vocab = Vocab.of(tok)
    def batch(step): turn(); return view_of(kind, data, vocab, step)
    train(build(kind, size, vocab), batch, Recipe(FOREVER))

def dataset(data, tok, format=None, special=False): # What `Trainer` reads
    "Rows as lists, or as tensors; with their special tokens marked beforehand, or not"
    cols = dict(input_ids=data.ids.tolist())
    if special: cols['special_tokens_mask'] = (~Vocab.of(tok).ok(data.ids.long())).long().tolist()
    return Dataset.from_dict(cols).with_format(format)

def trainer(turn, kind, size, tok, data, attn=None, format=None, workers=0, compile=False):
    "`Trainer` with its own collator; everything not named is at its default"
    class Begin(TrainerCallback):
        def on_step_begin(self, *args, **kw): turn()
    vocab = Vocab.of(tok); special = bool(format) and kind == 'mlm'
    model = AUTO[kind].from_config(config('bert', size, vocab, kind == 'clm', attn=attn))
    args = TrainingArguments(tempfile.mkdtemp(), max_steps=FOREVER, per_device_train_batch_size=B, save_strategy='no',
        bf16=plan().precision == 'bf16', use_cpu=plan().device == 'cpu', report_to='none',
        dataloader_num_workers=workers, torch_compile=compile, remove_unused_columns=not special)
    collate,rows = DataCollatorForLanguageModeling(tok, mlm=kind == 'mlm'), dataset(data, tok, format, special)
    Trainer(model, args, collate, rows, callbacks=[Begin()]).train()

def work(pipe, f, *args, **kw):
    "One side's process"
    null = os.open(os.devnull, os.O_WRONLY); os.dup2(null, 1); os.dup2(null, 2)
    try: f(Turn(pipe), *args, **kw)
    except (Done,EOFError): pass
    except Exception: pipe.send(traceback.format_exc())

class Side:
    "A process that trains when told to"
    def __init__(self, f, *args, **kw):
        ctx = multiprocessing.get_context('forkserver'); ctx.set_forkserver_preload(PRELOAD)
        self.pipe,theirs = ctx.Pipe(); self.times,self.peak = [],0
        self.process = ctx.Process(target=work, args=(theirs, f, *args), kwargs=kw); self.process.start()
        theirs.close(); self.hear()
    def hear(self):
        said = self.pipe.recv()
        if isinstance(said, str): raise RuntimeError(said)
        took,self.peak = said; return took
    def go(self, steps): self.pipe.send(steps); return self.hear()
    def end(self): self.pipe.send(0); self.process.join()

@contextlib.contextmanager
def sides(calls:dict, warmup): # Name → `Side`, warmed up
    "Start them one after another, end them all"
    with contextlib.ExitStack() as stack:
        up = {}
        for name,(f,args,kw) in calls.items():
            up[name] = Side(f, *args, **kw); stack.callback(up[name].end); up[name].go(warmup)
        yield up

def alternate(up, rounds, steps=2): # Name → seconds a step, one number a round
    "A B C A B C …"
    for _ in range(rounds):
        for s in up.values(): s.times.append(median(s.go(steps)))
    return {name: s.times for name,s in up.items()}

def ratio(slow, fast): # How many times faster `fast` is
    return median(a/b for a,b in zip(slow, fast))

def named(flags): return ' '.join(f'{k}={v}' for k,v in flags.items() if v) or 'defaults'

def choose(args, rounds): # Flags → tokens/s
    "Try every combination that could help `Trainer`"
    with sides({named(f): (trainer, args, f) for f in FLAGS}, 2) as up: times = alternate(up, rounds, 1)
    return {n: B*T/median(t) for n,t in times.items()}

def flops(kind, size, tok, data): # Floating point operations of a step: `ours`, `trainer`
    "Counted by PyTorch as they are dispatched, forward and backward; eager attention"
    view = view_of(kind, data, Vocab.of(tok), 0); net = build(kind, size, Vocab.of(tok), attn='eager')
    def count(loss):
        with quiet(), FlopCounterMode(display=False) as c, amp(plan('cpu')): loss().backward()
        return c.get_total_flops()
    return dict(ours=count(lambda: total(net(view))), trainer=count(lambda: net.model(**to_hf(view)).loss))

def ceiling(dtype, n=2048, tries=12): # FLOP/s
    "The fastest matrix product found"
    a,b = (torch.randn(n, n, device=plan().device).to(dtype) for _ in '12')
    def once():
        t0 = time.perf_counter(); (a@b)[0,0].item(); return time.perf_counter() - t0
    return 2*n**3/min(once() for _ in range(tries))

def case(kind, name, tok, data, rounds): # One line of the result
    "Heats, then the final"
    args = kind, SIZES[name], tok, data; tried = choose(args, max(rounds//3, 2)); best = max(tried, key=tried.get)
    flags = next(f for f in FLAGS if named(f) == best); count = flops(*args)
    calls = dict(default=(trainer, args, {}), best=(trainer, args, flags),
                 compiled=(trainer, args, dict(flags, compile=True)), ours=(ours, args, {}))
    with sides(calls, 3) as up: times = alternate(up, rounds); peak = {n: s.peak for n,s in up.items()}
    rate = {n: B*T/median(t) for n,t in times.items()}
    speed = {n: count['ours' if n == 'ours' else 'trainer']/median(t) for n,t in times.items()}
    return dict(objective=kind, size=name, tried=tried, best=best, tokens_per_second=rate, peak_bytes=peak, flops=count,
        flops_per_second=speed, ratio={n: ratio(times[n], times['ours']) for n in calls if n != 'ours'}, seconds=times)

def masking(tok, data, rounds=20, repeat=1): # Seconds a batch, medians; ratios to ours
    "Rows to inputs and labels, ours and the collator's, on one thread; the best of `repeat` in a row, every round; memory kept as in training"
    keep_memory(); threads = torch.get_num_threads(); torch.set_num_threads(1); times = {}
    vocab,collate = Vocab.of(tok), DataCollatorForLanguageModeling(tok)
    plain,fast = dataset(data, tok), dataset(data, tok, 'torch', True)
    for i in range(rounds):
        rows,epoch = rows_at(i, len(data), B); at = rows.tolist(); a,b = plain.__getitems__(at), fast.__getitems__(at)
        calls = dict(ours=lambda: mlm(data.batch(rows)[0], rows, vocab, (0,'mlm',epoch)),
            collator=lambda: collate(a), best=lambda: collate([dict(r) for r in b]),
            fetched=lambda: collate(plain.__getitems__(at)), best_fetched=lambda: collate(fast.__getitems__(at)))
        for n,f in calls.items(): times.setdefault(n, []).append(min(timeit.repeat(f, number=1, repeat=repeat)))
    torch.set_num_threads(threads)
    return dict(seconds={n: median(t) for n,t in times.items()},
                ratio={n: ratio(t, times['ours']) for n,t in times.items() if n != 'ours'})

def cpu(): # Its name
    try: return re.search(r'model name\s*:\s*(.+)', Path('/proc/cpuinfo').read_text())[1]
    except (OSError,TypeError): return platform.processor() or platform.machine()

def show(c, top): # One case, on the terminal
    print(f"\n{c['objective']} {c['size']}: flags tried on Trainer, tokens/s")
    for n,v in c['tried'].items(): print(f'  {n:40}{v:10,.0f}')
    print(f"  {'side':10}{'tokens/s':>10}{'ours is':>9}{'% bf16':>8}{'% fp32':>8}{'peak GB':>9}")
    for n,v in c['tokens_per_second'].items():
        r,f,m = c['ratio'].get(n), c['flops_per_second'][n], c['peak_bytes'][n]/1e9
        r = f'{r:.2f}×' if r else ''
        print(f"  {n:10}{v:10,.0f}{r:>9}{f/top['bf16']:8.1%}{f/top['fp32']:8.1%}{m:9.2f}", flush=True)

def verdicts(cases, mask): # Threshold → asked, found, met
    found = {f"{c['objective']} {c['size']} {n}": (NEED[c['objective']][n], c['ratio'][n])
             for c in cases for n in ('default','best')}
    found['masking'] = NEED['masking'], mask['1 in a row']['ratio']['collator']
    return {k: dict(asked=a, found=r, met=r >= a) for k,(a,r) in found.items()}

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0]); p.add_argument('--out', default=OUT)
    p.add_argument('--quick', action='store_true', help='fewer rounds'); a = p.parse_args()
    t0 = time.perf_counter(); rounds = 3 if a.quick else 7; tok,data = rows_of(); cases = []
    mask = {f'{k} in a row': masking(tok, data, repeat=k) for k in (1,3)}
    top = dict(bf16=ceiling(torch.bfloat16), fp32=ceiling(torch.float))
    print('matrix products, GFLOP/s:', ', '.join(f'{n} {v/1e9:,.0f}' for n,v in top.items()))
    for k,m in mask.items():
        print(f'masking, {k}: ours is faster than', ', '.join(f'{n} {v:.1f}×' for n,v in m['ratio'].items()))
    for name,kind in itertools.product(('tiny','small'), ('mlm','clm')):
        cases.append(case(kind, name, tok, data, rounds)); show(cases[-1], top)
    met = verdicts(cases, mask); took = time.perf_counter() - t0; print()
    for k,v in met.items():
        print(f"{k:22} asked {v['asked']:5.1f}, found {v['found']:6.2f}: {'' if v['met'] else 'NOT '}met")
    write_json(a.out, dict(versions=versions(), cpu=cpu(), threads=torch.get_num_threads(), plan=asdict(plan()),
        B=B, T=T, V=len(tok), rounds=rounds, ceiling=top, masking=mask, cases=cases, thresholds=met, seconds=took))
    print(f'{a.out} in {took:.0f} s')

if __name__ == '__main__': main()
