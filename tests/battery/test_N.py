"Notebooks and places: alone, anywhere, again; installed where nobody may write, run where there is no home"
import json, os, shutil, sys

import pytest
from battery.sandbox import COMMANDS, bound, cells, codes, executed, notebooks
from conftest import ROOT

sys.path.append(str(ROOT/'.ci'))
from stable import comparable, said, same, varies

WHAT = dict(N1='restart and run all; the same numbers', N2='each alone, in reverse order, in an empty directory',
            N3='read-only install', N4='HOME unwritable')

def no_error(name):
    r,after,*_ = executed(name)
    assert r.returncode == 0, r.stderr[-2000:]
    assert not [o for c in after.values() for o in c['outputs'] if o['output_type'] == 'error']
    return after

# N1

@pytest.mark.whole
@pytest.mark.parametrize('name', notebooks()[::-1])
def test_N1_restart_and_run_all(name): no_error(name)

@pytest.mark.whole
@pytest.mark.parametrize('name', notebooks()[::-1])
def test_N1_the_same_numbers(name):
    "As `.ci/stable.py` says: within a hundredth, in every cell but those that say that they vary"
    if not comparable(): pytest.skip('the stored numbers are from another corpus or another device')
    stored,now = said(cells(ROOT/f'nbs/{name}.ipynb').values()), said(no_error(name).values())
    assert {i: (s, now[i]) for i,s in stored.items() if not same(s, now[i])} == {}

def test_N1_few_vary():
    n = [c for name in notebooks() for c in cells(ROOT/f'nbs/{name}.ipynb').values()]; assert 0 < sum(map(varies, n)) <= len(n)/50

# N2

@pytest.mark.whole
@pytest.mark.parametrize('name', notebooks()[::-1])
def test_N2_alone_in_an_empty_directory(name):
    no_error(name); assert executed(name)[3] == [] # It leaves nothing there

# N3

def tree(d): return {p.relative_to(d): (p.stat().st_mode, p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in d.rglob('*')}

@pytest.fixture
def place(tmp_path, work):
    "A folder with a text and labels in it, and a temporary folder of its own"
    (tmp_path/'tmp').mkdir(); [shutil.copy(work/n, tmp_path) for n in ('text.txt','labels.jsonl')]; return tmp_path

def lived(place, **env):
    "From text to answers; standard error"
    short,to = ['--max-seq-length',32], ['--output-dir','m','--max-steps',2,'--batch-size',8,'--vocab-size',600]
    ws = [['preprocess','--input','text.txt','--output','text.tensor','--vocab-size',600], ['pretrain','--text','text.txt',*to],
          ['finetune','--task','text-classification','--model-name-or-path','m','--train-file','labels.jsonl','--output-dir','c','--num-train-epochs',.1],
          ['predict','--model-name-or-path','c','--input','text.txt','--output','said.txt']]
    said = json.dumps([[str(w) for w in [*x,*short]] for x in ws])
    r = bound([sys.executable, '-c', COMMANDS], place, said, TMPDIR=place/'tmp', MPLBACKEND=None, **env)
    assert codes(r.stdout) == {w[0]: 0 for w in ws}, r.stderr[-2000:]
    return r.stderr

def test_N3_read_only_install(place):
    "A copy of the package that may not be written to, by the one who runs it"
    site = place/'site'; shutil.copytree(ROOT/'lm_lifecycle', site/'lm_lifecycle', ignore=shutil.ignore_patterns('__pycache__'))
    for p in [*site.rglob('*'), site]: p.chmod(0o555 if p.is_dir() else 0o444)
    may = '''import lm_lifecycle, os, sys; all = (os.path.join(d, f) for d,_,fs in os.walk(sys.argv[1]) for f in ['',*fs])
print(lm_lifecycle.__file__.startswith(sys.argv[1]), [f for f in all if os.access(f, os.W_OK)])'''
    before = tree(site); (place/'home').mkdir(); assert bound([sys.executable, '-c', may, site], place, PYTHONPATH=site).stdout == 'True []\n'
    lived(place, PYTHONPATH=site, HOME=place/'home'); assert tree(site) == before
    for p in [site, *site.rglob('*')]: p.chmod(0o755)

# N4

@pytest.mark.parametrize('home', ['locked', pytest.param('locked/none', marks=pytest.mark.whole)])
def test_N4_home_unwritable(place, home):
    "It works, keeps what it builds in a temporary folder, and says so once"
    (place/'locked').mkdir(); (place/'locked').chmod(0o555); err = lived(place, HOME=place/home)
    assert list((place/f'tmp/lm_lifecycle-{os.getuid()}/blocks').glob('*.safetensors'))
    assert not list((place/'locked').iterdir())
    told, = err.splitlines(); assert 'is not writable: caching in' in told # And nothing else
