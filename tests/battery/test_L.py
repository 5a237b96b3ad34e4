"Load: a line without an end, millions of lines, words without an end"
import gzip, json, subprocess, sys, time, warnings

import pyarrow as pa, pyarrow.parquet as pq, pytest
from battery.test_B import model
from conftest import ROOT
from lm_lifecycle.text import LONG, ROW, iter_texts, read_texts
from lm_lifecycle.tokens import train_tokenizer, unknowns

WHAT = dict(L1='1 GB in one line', L2='2 M lines', L3='a 101-character word; 4 MB unbroken word')
MB = 2**20

PEAK = '''
import json, resource, sys, warnings
from pathlib import Path
def peak(afresh=False): # Of this program, from now on: what `getrusage` says begins with the program that started it
    s = Path('/proc/self/status')
    if not s.exists(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == 'darwin' else 1024)
    if afresh: Path('/proc/self/clear_refs').write_text('5')
    return int(s.read_text().split('VmHWM:')[1].split()[0])*1024
'''
ITERATE = PEAK + '''
import pyarrow.parquet
from lm_lifecycle.text import iter_texts
for path in sys.argv[1:]:
    base,texts,chars,error = peak(True),0,0,None
    with warnings.catch_warnings(record=True) as heard:
        try:
            for *_,s in iter_texts(path): texts += 1; chars += len(s)
        except Exception as e: error = f'{type(e).__name__}: {e}'
    print(json.dumps(dict(peak=peak() - base, texts=texts, chars=chars, error=error, heard=[str(w.message) for w in heard])))'''
COMMAND = PEAK + '''
from lm_lifecycle.cli.main import main
import lm_lifecycle.cli.preprocess
base = peak(True); code = main(sys.argv[1:])
print(json.dumps(dict(peak=peak() - base, code=code)))'''

def alone(code, *words):
    "What a program of its own finds, and how much memory it takes beyond its beginning"
    r = subprocess.run([sys.executable, '-c', code, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(l) for l in r.stdout.splitlines() if l.startswith('{"peak"')]

def one_line(path, size, text='The same words, again and again. ', head=''):
    "`head`, then `size` bytes of `text` over and over"
    piece = (text*(MB//len(text) + 1))[:MB]
    with open(path, 'w') as f: f.write(head); f.writelines([piece]*(size//MB))
    return path

def shown(n): return f'+{n/MB:,.0f} MB'

# L1

@pytest.mark.parametrize('size,limit', [(48,24), pytest.param(1024, 1024, marks=pytest.mark.whole)])
def test_L1_one_line(tmp_path, record_property, size, limit):
    "Every character arrives, in pieces, with one warning; the fast version asks for half the file's size"
    f = one_line(tmp_path/'one.txt', size*MB); r, = alone(ITERATE, f); record_property('shown', f"{size} MB: {shown(r['peak'])}")
    assert r['error'] is None and r['chars'] == size*MB and r['texts'] >= size*MB//LONG and r['peak'] <= limit*MB, r
    assert len(r['heard']) == 1 and r['heard'][0].startswith(f'{f}:1: longer than {LONG:,} characters')

@pytest.mark.parametrize('size', [48, pytest.param(1024, marks=pytest.mark.whole)])
def test_L1_one_row(tmp_path, size):
    "A row cannot be cut, so it is refused, and is not read first; nor is the rest of a csv file after a quote"
    heads = {'a.jsonl':'{"text":"', 'a.tsv':'text\tlabel\n', 'a.csv':'text\n"', 'open.csv':'text\n"open\n'}; fs = [tmp_path/name for name in heads]
    for f,head in zip(fs, heads.values()): one_line(f, size*MB, 'some words of a row\n' if 'open' in f.name else 'words of a row, ', head)
    for f,head,r in zip(fs, heads.values(), alone(ITERATE, *fs)):
        why = 'field larger than field limit' if 'open' in f.name else f'more than {ROW:,} characters'
        assert r['error'].startswith(f"BadInput: {f}:{1 + ('text' in head[:4])}: {why}") and r['peak'] <= min(12*ROW, 1024*MB), r

def test_L1_a_document_without_blank_lines(tmp_path):
    "Lines, but one document: its only blank line is the last one"
    f = one_line(tmp_path/'a.txt', 48*MB, 'some words of a document\n'); f.open('a').write('\n\n'); r, = alone(ITERATE, f)
    assert r['texts'] >= 48 and r['peak'] <= 32*MB and 'longer than' in r['heard'][0], r

def test_L1_unbroken(tmp_path):
    "Without a space it is cut anywhere; nothing is lost or doubled"
    f = tmp_path/'a.txt'; s = ''.join(chr(0x4e00 + i%2000) for i in range(3*LONG + 7)); f.write_text(s)
    with pytest.warns(UserWarning, match='longer than'): ts = read_texts(f)
    assert ''.join(ts) == s and max(map(len, ts)) <= 2*LONG

@pytest.mark.parametrize('s', ['a' + ' '*2*LONG, ' '*2*LONG + 'a'])
def test_L1_spaces(tmp_path, s):
    "A million of them are not a blank line, so that the next lines stay texts of their own"
    f = tmp_path/'a.txt'; f.write_text(f'b\n{s}\nc\nd')
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); assert [t.strip() for t in read_texts(f)] == [*'bacd']

@pytest.mark.whole
def test_L1_preprocessed(tmp_path, model, record_property):
    "The whole command"
    f = one_line(tmp_path/'one.txt', 1024*MB); r, = alone(COMMAND, 'preprocess', '--input', f, '--output', tmp_path/'o.tensor', '--tokenizer-name', model)
    record_property('shown', f"preprocess {shown(r['peak'])}"); assert r['code'] == 0 and r['peak'] <= 1024*MB

# L2

LINES = dict(txt='{} words of a line\n', tsv='{} words of a line\tx\n', csv='"{} words of a line",x\n', jsonl='{{"text":"{} words of a line"}}\n')

def many_lines(folder, kind, n):
    f = folder/f'a.{kind}'; kind = kind.removesuffix('.gz')
    if kind == 'parquet': pq.write_table(pa.table(dict(text=[f'{i} words of a line' for i in range(n)])), f); return f
    with (gzip.open(f, 'wt', 1) if f.suffix == '.gz' else open(f, 'w')) as out:
        out.write(dict(tsv='text\tlabel\n', csv='text,label\n').get(kind, '')); out.writelines(LINES[kind].format(i) for i in range(n))
    return f

@pytest.mark.parametrize('n,limit,parquet', [(100_000,10,48), pytest.param(2_000_000, 200, 200, marks=pytest.mark.whole)])
def test_L2_many_lines(tmp_path, record_property, n, limit, parquet):
    fs = [many_lines(tmp_path, kind, n) for kind in (*LINES,'jsonl.gz','parquet')]
    for f,r in zip(fs, alone(ITERATE, *fs)):
        record_property('shown', f"{f.name[2:]} {shown(r['peak'])}"); assert (r['texts'],r['error'],r['heard']) == (n,None,[]) and r['peak'] <= (parquet if 'parquet' in f.name else limit)*MB, (f,r)

def test_L2_many_bad_rows(tmp_path):
    "What is skipped is remembered, not kept"
    f = tmp_path/'a.tsv'; f.write_text('text\tlabel\n' + ('y'*5000 + '\n')*4000 + 'a\tb\n')
    skip = []; assert [t for *_,t in iter_texts(f, skip=skip)] == ['a'] and len(skip) == 4000 and all(len(str(e)) < 300 and e.__traceback__ is None for e in skip)

# L3

@pytest.fixture(scope='module')
def toks(texts): return {kind: train_tokenizer(texts, 600, kind) for kind in ('wordpiece','bpe')}

def test_L3_a_long_word(tmp_path, toks):
    "WordPiece gives up on it, and that is counted; bytes do not"
    w = 'ab'*50; f = tmp_path/'a.txt'; f.write_text(f'{w} and {w}a, {w}a\n')
    lost = {k: unknowns(t, read_texts(f)) for k,t in toks.items()}
    assert lost['wordpiece'] == {w+'a': 2} and not lost['bpe']

@pytest.mark.parametrize('kind', ['wordpiece','bpe'])
def test_L3_an_unbroken_word(tmp_path, toks, kind, record_property):
    "4 MB of it, read and cut into tokens"
    f = tmp_path/'a.txt'; f.write_text('ab'*2*MB); t0 = time.perf_counter()
    with warnings.catch_warnings(record=True) as heard: warnings.simplefilter('always'); n = unknowns(toks[kind], read_texts(f)).total()
    seconds = time.perf_counter() - t0; record_property('shown', f'{kind} {seconds:.1f} s')
    assert seconds <= 10 and (n > 0) == (kind == 'wordpiece') and len(heard) == 1
