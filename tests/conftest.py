"What the tests share: real text, a tokenizer, and the command line in a process of its own or in this one"
import gzip, json, os, subprocess, sys
from itertools import islice
from pathlib import Path

os.environ |= dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', MPLBACKEND='Agg')
import pytest, torch
from lm_lifecycle.cli.main import main
from lm_lifecycle.text import docs, read_texts, which_library
from lm_lifecycle.tokens import train_tokenizer

torch.set_num_threads(1)
DATA,ROOT = os.environ.get('LM_DATA'), Path(__file__).parents[1]

def has(name): return DATA and (Path(DATA)/name).is_dir()

def jsonl(path, n=None):
    "The first `n` rows of a JSON lines file, gzipped or not"
    with (gzip.open if str(path).endswith('.gz') else open)(path, 'rt', encoding='utf-8') as f: return [json.loads(l) for l in islice(f, n)]

def write_rows(path, rows):
    "`text` and `label`, one JSON object a line"
    path.write_text('\n'.join(json.dumps(dict(text=t, label=l), ensure_ascii=False) for t,l in rows)+'\n', encoding='utf-8')
    return path

def spawn(*words):
    "`lm-lifecycle …`, running"
    argv = [sys.executable, '-m', f'lm_lifecycle.cli.{words[0]}', *map(str, words[1:])]
    return subprocess.Popen(argv, env=dict(os.environ, PYTHONPATH=str(ROOT)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

@pytest.fixture(scope='session')
def lm_data():
    "Path of a real data set, or a reason to skip"
    def f(name):
        if not has(name): pytest.skip(f'$LM_DATA has no {name}: set it to a folder of data sets')
        return Path(DATA)/name
    return f

@pytest.fixture(scope='session')
def texts():
    "Some 400 short real texts: Shakespeare's speeches, or docstrings where he is absent"
    return read_texts(Path(DATA)/'tinyshakespeare/input.txt')[:400] if has('tinyshakespeare') else [d.text[:300] for d in docs('test')[:400]]

@pytest.fixture(scope='session')
def labels():
    "Some 240 real (text, label): questions by what they ask for, or docstrings by library"
    if has('trec'): return [(r['text'], r['coarse']) for r in jsonl(Path(DATA)/'trec/train.jsonl', 240) if r['coarse'] != 'ABBR']
    d = which_library('test'); return [(d.texts[i][:300], d.names[d.labels[i]]) for i in range(0, len(d), len(d)//240)]

@pytest.fixture(scope='session')
def tok(texts): return train_tokenizer(texts, 600)

@pytest.fixture(scope='session')
def work(tmp_path_factory, texts, labels):
    "A folder with `text.txt`, `labels.jsonl`, and what `preprocess` made of them: `text.tensor`, `labels.tensor`"
    d = tmp_path_factory.mktemp('work'); (d/'text.txt').write_text('\n\n'.join(texts), encoding='utf-8'); write_rows(d/'labels.jsonl', labels)
    cut = ['--max-seq-length', '32', '--vocab-size', '600']
    assert main(['preprocess', '--input', str(d/'text.txt'), '--output', str(d/'text.tensor'), *cut]) == 0
    assert main(['preprocess', '--task', 'text-classification', '--input', str(d/'labels.jsonl'), '--output', str(d/'labels.tensor'), *cut]) == 0
    return d

@pytest.fixture
def cli(capsys):
    "`lm-lifecycle …` in this process: exit code, standard output, standard error"
    def f(*words):
        capsys.readouterr()
        try: code = main([str(w) for w in words])
        except SystemExit as e: code = e.code
        return code, *capsys.readouterr()
    return f
