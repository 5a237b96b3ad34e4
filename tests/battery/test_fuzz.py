"Thousands of odd files for each reader: read, or refused in a line that names the file; never anything else"
import gzip, os, signal
from itertools import count

import pytest
from battery.fuzz import GOOD, TEXT, check, files, tried, zipped
from battery.test_B import model
from hypothesis import HealthCheck, given, settings, strategies as st
from lm_lifecycle.cli.main import main
from lm_lifecycle.text import LONG, read_csv, read_jsonl, read_tsv, read_txt

FAST,WHOLE = 100,2000
often = [FAST, pytest.param(WHOLE, marks=pytest.mark.whole)]

def within(seconds, f, *args):
    "Call it; to hang is a failure, too"
    def late(*_): raise TimeoutError(f'still busy after {seconds} s')
    old = signal.signal(signal.SIGALRM, late); signal.alarm(seconds)
    try: return f(*args)
    finally: signal.alarm(0); signal.signal(signal.SIGALRM, old)

def many(n, strategy, f):
    "`f` of `n` made things"
    made = count(); how = settings(max_examples=n, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @how
    @given(strategy)
    def run(x): next(made); f(x)
    run(); return next(made)

@pytest.mark.parametrize('n', often)
@pytest.mark.parametrize('kind', GOOD)
def test_fuzz_files(tmp_path, kind, n):
    f = tmp_path/f'a [1]*.{kind}'
    def one(b): f.write_bytes(b); within(20, check, f)
    assert many(n, files(kind), one) >= n

@pytest.mark.parametrize('n', often)
def test_fuzz_zipped(tmp_path, n):
    def one(x): f = tmp_path/f'a.{x[0]}.gz'; f.write_bytes(x[1]); within(20, check, f)
    assert many(n, zipped(), one) >= n

@pytest.mark.parametrize('n', [5, pytest.param(200, marks=pytest.mark.whole)])
@pytest.mark.parametrize('kind', GOOD)
def test_fuzz_command(tmp_path, capsys, model, kind, n):
    "`preprocess` ends with 0 or 2 and, if with 2, one line that names the file"
    f,out = tmp_path/f'a.{kind}', tmp_path/'o.tensor'
    def one(b):
        f.write_bytes(b); capsys.readouterr()
        for task in ([], ['--task','text-classification'], ['--skip-bad-rows']):
            code = within(60, main, ['preprocess', '--input', str(f), '--output', str(out), '--tokenizer-name', str(model), '--max-seq-length', '8', *task])
            err = capsys.readouterr().err.splitlines(); assert code in (0,2), (code,err)
            if code: assert len(err) == 1 and err[0].startswith(f'lm-lifecycle: {f}'), err
    with pytest.MonkeyPatch.context() as m: m.setattr('warnings.showwarning', lambda *a, **kw: None); many(n, files(kind), one)

# What is good comes back as it was

ROW = st.tuples(TEXT, TEXT).filter(lambda r: any(r) and '\0' not in ''.join(r))

def unlike_lines(s): return s.replace('\r\n', '\n').replace('\r', ' ').replace('\ufeff', '')

@pytest.mark.parametrize('n', often)
def test_fuzz_csv_round_trip(tmp_path, n):
    import csv, io
    def one(rows):
        rows = [[unlike_lines(c) for c in r] for r in rows]; rows = [r for r in rows if any(r)]; s = io.StringIO(); csv.writer(s, lineterminator='\n').writerows([['text','label'], *rows])
        f = tmp_path/'a.csv'; f.write_text(s.getvalue(), encoding='utf-8', newline='\n'); assert [list(r.values()) for _,r in read_csv(f, ('text','label'))] == rows
    many(n, st.lists(ROW, max_size=5), one)

@pytest.mark.parametrize('n', often)
def test_fuzz_jsonl_and_tsv_round_trip(tmp_path, n):
    import json
    def one(rows):
        dicts = [dict(text=a, label=b) for a,b in rows]; f = tmp_path/'a.jsonl'; f.write_text('\n'.join(json.dumps(d) for d in dicts), encoding='utf-8')
        assert [r for _,r in read_jsonl(f, ('text',))] == dicts
        flat = [[unlike_lines(c).replace('\n', ' ').replace('\t', ' ') for c in r] for r in rows]; flat = [r for r in flat if any(r)]
        f = tmp_path/'a.tsv'; f.write_bytes('\r\n'.join('\t'.join(r) for r in [['text','label'], *flat]).encode()); assert [list(r.values()) for _,r in read_tsv(f, ('text','label'))] == flat
    many(n, st.lists(ROW, max_size=5), one)

def documents(s):
    "What a txt file holds, by its definition and without regard to memory"
    ls = [(n, l.removesuffix('\r').replace('\0', '').removeprefix('\ufeff')) for n,l in enumerate(s.split('\n'), 1)]; blank = any(not l.strip() for _,l in (ls if ls[-1][1] else ls[:-1]))
    doc,out = [],[]
    for n,l in [*ls, (0,'')]:
        if l.strip(): doc.append((n,l))
        if doc and not (blank and l.strip()): out.append((doc[0][0], '\n'.join(l for _,l in doc))); doc = []
    return out

@pytest.mark.parametrize('n', often)
def test_fuzz_txt_is_what_it_says(tmp_path, n):
    f = tmp_path/'a.txt'
    def one(ls):
        s = '\n'.join(ls); f.write_bytes(s.encode()); found,error = tried(lambda f: [(n, r['text']) for n,r in read_txt(f, ('text',))], f); assert error is None and found == documents(s)
    many(n, st.lists(TEXT, max_size=8), one)

@pytest.mark.parametrize('n', often)
def test_fuzz_txt_in_pieces(tmp_path, monkeypatch, n):
    "Cut after 10 characters instead of a million: no character is lost but line ends between texts, and no piece is much longer"
    monkeypatch.setattr('lm_lifecycle.text.LONG', 10); f = tmp_path/'a.txt'
    def one(ls):
        s = '\n'.join(ls); f.write_bytes(s.encode()); found,error = tried(lambda f: [(n, r['text']) for n,r in read_txt(f, ('text',))], f)
        plain = lambda s: ''.join(s.replace('\ufeff', '').replace('\0', '').split()); assert error is None and plain(''.join(t for _,t in found)) == plain(s) and all(len(t) <= 20 for _,t in found)
        assert [n for n,_ in found] == sorted(n for n,_ in found)
    many(n, st.lists(TEXT, max_size=8), one)
