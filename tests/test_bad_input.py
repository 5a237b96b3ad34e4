"Each mistake on the command line: one line that names it and a remedy; nothing trained, nothing lost. Files: `battery/test_B.py`"
import os, subprocess, sys

import pytest, torch
from safetensors.torch import save
from conftest import ROOT, spawn, write_rows
from lm_lifecycle.training import locked

REMEDY = 'add check choose convert correct drop fill free give make needs put remove rename see separate use wait write'.split()

def refused(answer, code, *names):
    "`code`, and one line on standard error that has every name and a remedy"
    got,_,err = answer; lines = err.splitlines()
    assert got == code, (got,err)
    assert len(lines) == 1 and lines[0].startswith('lm-lifecycle') and all(str(n) in err for n in names), err
    assert any(f' {w} ' in err for w in REMEDY), err

@pytest.fixture
def files(tmp_path, texts, labels):
    "A folder of small good files: `text.txt`, `labels.jsonl`"
    (tmp_path/'text.txt').write_text('\n\n'.join(texts), encoding='utf-8'); write_rows(tmp_path/'labels.jsonl', labels)
    return tmp_path

@pytest.fixture
def life(cli, files, monkeypatch):
    "`lm-lifecycle life` on them, but for what is given; it must not train"
    def started(*args, **kw): raise AssertionError('training has started')
    monkeypatch.setattr('lm_lifecycle.life.train', started)
    def f(**kw):
        args = dict(text=files/'text.txt', labels=files/'labels.jsonl', out=files/'life') | kw
        return cli('life', *(w for k,v in args.items() for w in (f'--{k}', v)))
    return f

@pytest.fixture
def train(cli, work):
    "`lm-lifecycle train`, one step of it"
    def f(out, *more):
        size = [] if '--max-seq-length' in more else ['--max-seq-length', 32]
        return cli('train', '--do-train', '--train-file', work/'text.tensor', '--output-dir', out, '--max-steps', 1, *size, *more)
    return f

def made(path, content):
    if content is not None: path.write_bytes(content)
    return path

def test_text_shorter_than_a_block(life, cli, files):
    f = made(files/'short.txt', b'Too short to learn from.\n'); o = files/'o.tensor'
    refused(cli('preprocess', '--input', f, '--output', o), 2, f, 'token')
    refused(life(text=f), 2, f, 'token')

@pytest.mark.parametrize('content', [None, b'Too short to learn from.'], ids=['missing','short'])
def test_the_folder_stays_free(life, files, content):
    "After a refusal the same command with a good file goes on to train"
    life(text=made(files/'bad.txt', content))
    with pytest.raises(AssertionError, match='training has started'): assert life()[0] == 0

def test_unknown_scale(life): refused(life(scale='huge'), 2, 'huge', 'small')

@pytest.mark.parametrize('words', [[], ['live'], ['life','--sed','1'], ['life','--seed','x'], ['train'], ['preprocess']], ids=' '.join)
def test_command_line(cli, words): refused(cli(*words), 2, '--help')

def test_output_folder_holds_something(life, files):
    mine = files/'mine'; mine.mkdir(); made(mine/'notes.txt', b'mine')
    refused(life(out=mine), 2, mine, '--out')
    assert [(p.name,p.read_bytes()) for p in mine.iterdir()] == [('notes.txt',b'mine')]

def test_training_into_a_folder_that_holds_something(train, files):
    mine = files/'mine'; mine.mkdir(); made(mine/'README.md', b'mine')
    r = train(mine, '--mlm')
    assert (mine/'README.md').read_bytes() == b'mine'
    refused(r, 2, mine)

def test_output_folder_holds_a_life(life, files):
    out = files/'life'; out.mkdir(); made(out/'run.json', b'{}'); refused(life(), 2, out, '--resume')
    assert (out/'run.json').read_bytes() == b'{}'

def test_output_below_a_file(life, train, files):
    f = made(files/'file', b'mine')
    for out in (f,f/'life'): refused(life(out=out), 2, out); refused(train(out, '--mlm'), 2, out)
    assert f.read_bytes() == b'mine'

def test_output_file_below_a_file(cli, files):
    f = made(files/'file', b'mine')
    refused(cli('preprocess', '--input', files/'text.txt', '--output', f/'o.tensor'), 3, f)
    assert f.read_bytes() == b'mine'

@pytest.mark.skipif(not hasattr(os, 'getuid') or os.getuid() == 0, reason='root may write anywhere')
def test_output_folder_read_only(life, files):
    out = files/'locked'; out.mkdir(); out.chmod(0o500); refused(life(out=out/'life'), 2, out)

def test_output_folder_in_use(life, train, files):
    out = files/'life'
    with locked(out): refused(life(), 4, out, os.getpid()); refused(train(out, '--mlm'), 4, out)

def test_a_life_in_progress(life, files):
    "The same command twice: in use, rather than 'holds a life'"
    out = files/'life'
    with locked(out): made(out/'run.json', b'{}'); refused(life(), 4, out, os.getpid())

WORDS = {'--task text-classification': 'pre-training', '--mlm --max-seq-length 64': '64', '--mlm --do-eval': '--validation-file',
         '--mlm --model-name-or-path nowhere': 'nowhere', '--mlm --model-type gpt2': 'gpt2'}

@pytest.mark.parametrize('words', WORDS)
def test_train_arguments(train, files, words):
    refused(train(files/'out', *words.split()), 2, WORDS[words])
    assert not (files/'out/checkpoints').exists() and not (files/'out/model.safetensors').exists()

TENSORS = dict(missing=lambda b: None, empty=lambda b: b'', garbage=lambda b: b'not a tensor file', cut=lambda b: b[:len(b)//2],
               foreign=lambda b: save(dict(a=torch.ones(3))))

@pytest.mark.parametrize('name', TENSORS)
def test_tensor_file(train, files, work, name):
    f = made(files/'x.tensor', TENSORS[name]((work/'text.tensor').read_bytes()))
    refused(train(files/'out', '--mlm', '--train-file', f), 2, f, 'preprocess')

def test_one_line_in_a_real_process(files):
    "No warning of a library, no traceback beside it"
    f = files/'no.txt'; p = spawn('preprocess', '--input', f, '--output', files/'o.tensor'); answer = p.communicate()
    refused((p.returncode, *answer), 2, f)

@pytest.mark.parametrize('words', [['--help'], ['life','--help'], ['preprocess','--help'], ['train','--help'], ['life','--scale','huge']], ids=' '.join)
def test_help_imports_nothing_slow(words):
    code = f'''import sys; from lm_lifecycle.cli.main import main
try: main({words!r})
except SystemExit: print(sorted({{'torch','transformers','numpy','matplotlib'}} & sys.modules.keys()))'''
    r = subprocess.run([sys.executable, '-c', code], env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True)
    assert r.stdout.splitlines()[-1] == '[]'
