"""How fast is every objective, beside Hugging Face's own? python benchmarks/objectives.py [--quick] [--out FILE]

Two questions, each answered by alternating in one run (`step.py` says how): how long does it take to make a view of
64×128 tokens, and how long does a whole step take? Ours is always the one network, BERT, and for comparison the native
class as well; theirs is `Trainer` with the native class of the objective: BERT, GPT-2, XLNet, BART, at the same width
and depth. `transformers` has no collator for denoising, so `Trainer` gets the noise ready-made and pays nothing for it."""
import argparse, tempfile, time, timeit
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from datasets import Dataset
from transformers import (DataCollatorForLanguageModeling, DataCollatorForPermutationLanguageModeling, Trainer,
                          TrainerCallback, TrainingArguments, default_data_collator)

import step
from lm_lifecycle.autoencoding import Pairs
from lm_lifecycle.core import keep_memory, order, plan, rows_at, write_json
from lm_lifecycle.life import versions
from lm_lifecycle.network import SIZES, auto, build, config
from lm_lifecycle.pretraining import view_of
from lm_lifecycle.tokens import Vocab
from lm_lifecycle.training import Recipe, train

B,T = step.B,step.T
NATIVE = dict(mlm='bert', clm='gpt2', plm='xlnet', dae='bart')
NEED = dict(mlm=3., clm=1.2, plm=2., dae=1.2)   # Full step, against its best flags
VIEWS = dict(mlm=15., plm=20.)                  # A view, against the collator
FLAGS = [dict(attn=a, format=f) for a in ('eager','sdpa') for f in (None,'torch')]
OUT = Path(__file__).parents[1]/'results/bench_objectives.json'

def ours(turn, kind, family, size, tok, data):
    "The loop of notebook 08 on a view of chapters 4 and 5"
    vocab = Vocab.of(tok)
    def batch(s):
        turn(); rows,epoch = rows_at(s, len(data), B)
        return view_of(kind, data, rows, vocab, (0,kind,epoch), family)
    train(build(kind, size, vocab, family), batch, Recipe(step.FOREVER))

def feed(kind, tok, data, format): # Dataset and collator
    "What `Trainer` reads, and how it makes batches of it"
    if kind == 'dae':
        v = view_of('dae', data, torch.arange(len(data)), Vocab.of(tok), family='bart')
        rows = Dataset.from_dict({k: t.tolist() for k,t in dict(v.inputs, labels=v.labels['lm']).items()})
        return rows.with_format(format), default_data_collator
    lm = DataCollatorForLanguageModeling(tok, mlm=kind == 'mlm')
    collate = DataCollatorForPermutationLanguageModeling(tok) if kind == 'plm' else lm
    return step.dataset(data, tok, format, special=bool(format) and kind == 'mlm'), collate

def trainer(turn, kind, size, tok, data, attn=None, format=None):
    "`Trainer` with the native class; everything not named is at its default"
    class Begin(TrainerCallback):
        def on_step_begin(self, *args, **kw): turn()
    family,vocab = NATIVE[kind], Vocab.of(tok)
    model = auto(kind, family).from_config(config(family, size, vocab, kind == 'clm', attn=attn))
    rows,collate = feed(kind, tok, data, format)
    args = TrainingArguments(tempfile.mkdtemp(), max_steps=step.FOREVER, per_device_train_batch_size=B, save_strategy='no',
        bf16=plan().precision == 'bf16', use_cpu=plan().device == 'cpu', report_to='none',
        remove_unused_columns=kind != 'mlm' or not format)
    Trainer(model, args, collate, rows, callbacks=[Begin()]).train()

def case(kind, name, tok, data, rounds): # One line of the result
    "Heats between the flags, then the final"
    args = kind, SIZES[name], tok, data; flags = [f for f in FLAGS if kind != 'plm' or f['attn'] == 'eager']
    heats = {step.named(f): (trainer, args, f) for f in flags}
    with step.sides(heats, 2) as up: tried = step.alternate(up, max(rounds//3, 2), 1)
    tried = {n: B*T/median(t) for n,t in tried.items()}; best = max(tried, key=tried.get)
    calls = dict(default=(trainer, args, {}), best=(trainer, args, next(f for f in flags if step.named(f) == best)),
                 ours=(ours, (kind, 'bert', *args[1:]), {}))
    if NATIVE[kind] != 'bert': calls['ours, native'] = ours, (kind, NATIVE[kind], *args[1:]), {}
    with step.sides(calls, 3) as up: times = step.alternate(up, rounds); peak = {n: s.peak for n,s in up.items()}
    return dict(objective=kind, size=name, theirs=NATIVE[kind], tried=tried, best=best, seconds=times, peak_bytes=peak,
        tokens_per_second={n: B*T/median(t) for n,t in times.items()},
        ratio={n: {m: step.ratio(times[m], times[n]) for m in ('default','best')} for n in times if n.startswith('ours')})

def views(tok, data, rounds=20): # Objective → seconds a view, ours and the collator's, medians; ratio
    "Views of 64×128 tokens on one thread, taking turns, the best of three in a row; memory kept as in training"
    keep_memory(); threads = torch.get_num_threads(); torch.set_num_threads(1); vocab = Vocab.of(tok); times = {}
    pairs,plain = Pairs.of(data.ids, data.doc, vocab), step.dataset(data, tok)
    collators = dict(mlm=DataCollatorForLanguageModeling(tok), plm=DataCollatorForPermutationLanguageModeling(tok),
                     clm=DataCollatorForLanguageModeling(tok, mlm=False))
    for i in range(rounds):
        rows,epoch = rows_at(i, len(data), B); given = plain.__getitems__(rows.tolist())
        for kind in ('mlm','plm','clm','dae','nsp'):
            src,at = (pairs,order((0,'pairs',i), len(pairs))[:B]) if kind == 'nsp' else (data,rows)
            calls = dict(ours=lambda: view_of(kind, src, at, vocab, (0,kind,epoch)))
            if kind in collators: calls['collator'] = lambda: collators[kind](given)
            for n,f in calls.items(): times.setdefault(kind, {}).setdefault(n, []).append(min(timeit.repeat(f, number=1, repeat=3)))
    torch.set_num_threads(threads)
    ratio = lambda ts: step.ratio(ts['collator'], ts['ours']) if 'collator' in ts else None
    return {k: dict(seconds={n: median(t) for n,t in ts.items()}, ratio=ratio(ts)) for k,ts in times.items()}

def verdicts(cases, made): # Threshold → asked, found, met
    found = {f"{c['objective']} {c['size']} step": (NEED[c['objective']], c['ratio']['ours']['best']) for c in cases}
    found |= {f'{k} view': (need, made[k]['ratio']) for k,need in VIEWS.items()}
    return {k: dict(asked=a, found=r, met=r >= a) for k,(a,r) in found.items()}

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0]); p.add_argument('--out', default=OUT)
    p.add_argument('--quick', action='store_true', help='fewer rounds, one size'); a = p.parse_args()
    t0 = time.perf_counter(); rounds = 3 if a.quick else 7; tok,data = step.rows_of(); made = views(tok, data); cases = []
    for k,v in made.items():
        beside = f'the collator takes {v["ratio"]:.1f}×' if v['ratio'] else '(no collator to compare)'
        print(f'{k:4} view {1e6*v["seconds"]["ours"]:8,.0f} µs,', beside)
    for name in ('small',) if a.quick else ('tiny','small'):
        for kind in NATIVE:
            cases.append(c := case(kind, name, tok, data, rounds))
            print(f"\n{kind} {name} against {c['theirs']}, best: {c['best']}")
            for n,v in c['tokens_per_second'].items():
                ratios = (f'{r:.2f}× {m}' for m,r in c['ratio'].get(n, {}).items())
                print(f"  {n:14}{v:10,.0f} tokens/s", *ratios, flush=True)
    met = verdicts(cases, made); took = time.perf_counter() - t0; print()
    for k,v in met.items():
        print(f"{k:22} asked {v['asked']:5.1f}, found {v['found']:6.2f}: {'' if v['met'] else 'NOT '}met")
    write_json(a.out, dict(versions=versions(), cpu=step.cpu(), threads=torch.get_num_threads(), plan=asdict(plan()),
        B=B, T=T, V=len(tok), rounds=rounds, views=made, cases=cases, thresholds=met, seconds=took))
    print(f'{a.out} in {took:.0f} s')

if __name__ == '__main__': main()
