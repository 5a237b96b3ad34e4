"Processes with less than usual: no network, no right to write, no home, nothing but a notebook"
import ctypes, functools, json, os, shutil, subprocess, sys, tempfile
from pathlib import Path

from conftest import ROOT

# No network: Linux takes it away where it lets us; strace sees every attempt to connect where it may, Python's audit hook elsewhere

HOOK = '''import os, sys
def told(event, args):
    host = args[1][0] if event == 'socket.connect' and isinstance(args[1], tuple) else args[0] if event == 'socket.getaddrinfo' else None
    if host not in (None,'','localhost','127.0.0.1','::1'):
        with open(os.environ['TRIED'], 'a') as f: f.write(f'{event} {host}\\n')
sys.addaudithook(told)
'''
NOT_OURS = 'HF_HUB_OFFLINE','LM_LIFECYCLE_CACHE','HF_HOME','MPLCONFIGDIR','XDG_CACHE_HOME','XDG_CONFIG_HOME','TMPDIR' # Variables that would help

def works(*argv): return shutil.which(argv[0]) and subprocess.run([*argv, 'true'], capture_output=True).returncode == 0

@functools.cache
def walls(): # Words before those of a command: that take the network away, that watch
    cut = next((w for w in (['unshare','-n'], ['unshare','-rn']) if works(*w)), [])
    watch = ['strace','-f','-qq','--seccomp-bpf','-e','trace=connect','-o']
    return cut, watch if works(*watch, os.devnull) else []

def environment(**kw): # None: without that variable
    env = {k:v for k,v in os.environ.items() if k not in NOT_OURS} | dict(PYTHONPATH=ROOT) | kw
    return {k: str(v) for k,v in env.items() if v is not None}

def offline(argv, cwd, said='', **env): # … on its standard input
    "Run without a network; the finished process, and what it tried to connect to"
    with tempfile.TemporaryDirectory() as d:
        tried,seen = Path(d)/'tried', Path(d)/'seen'; Path(d, 'sitecustomize.py').write_text(HOOK); cut,watch = walls()
        env = environment(TRIED=tried, **env); env['PYTHONPATH'] = f"{d}:{env['PYTHONPATH']}"
        r = subprocess.run([*cut, *watch, *[seen][:len(watch)], *map(str, argv)], cwd=cwd, env=env, input=said, capture_output=True, text=True)
        lines = [l for f in (tried,seen) if f.exists() for l in f.read_text(errors='replace').splitlines()]
    return r, [l for l in lines if 'AF_INET' in l and '127.0.0.1' not in l and '"::1"' not in l or l.startswith('socket.')]

COMMANDS = '''import json, sys
from lm_lifecycle.cli.main import main
for words in json.load(sys.stdin): print(json.dumps(['done', words[0], main(words)]), flush=True)
'''

def codes(said): return {name: code for _,name,code in (json.loads(l) for l in said.splitlines() if l.startswith('["done", '))} # Command → exit code

# No rights: what the owner may not write, root may; but not once it has dropped its capabilities

def powerless():
    "Before a command starts: whoever it is, file permissions hold for them (PR_CAPBSET_DROP, for root on Linux)"
    if os.getuid() == 0: c = ctypes.CDLL(None); [c.prctl(24, cap, 0, 0, 0) for cap in range(64)]

def bound(argv, cwd, said='', **env): # … on its standard input
    "Run where permissions hold; the finished process"
    return subprocess.run([*map(str, argv)], cwd=cwd, env=environment(**env), input=said, capture_output=True, text=True, preexec_fn=powerless)

# A notebook, alone in an empty folder

NOTEBOOK = '''import sys
from nbdev.test import test_nb
sys.exit(not test_nb(sys.argv[1], save=True, cell_timeout=300)[0])
'''

def notebooks(): return [p.stem for p in sorted((ROOT/'nbs').glob('*.ipynb'))]
def cells(path): return {c['id']: c for c in json.loads(Path(path).read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code'}

@functools.cache
def executed(name): # The finished process; cells by id; what it tried to connect to; files left behind
    "Run it from top to bottom in a process, a kernel and a folder of its own, without a network; of the tree it sees only `results`"
    with tempfile.TemporaryDirectory() as d:
        at = Path(d)/'nbs'; at.mkdir(); (Path(d)/'results').symlink_to(ROOT/'results'); f = Path(shutil.copy(ROOT/f'nbs/{name}.ipynb', at))
        r,tried = offline([sys.executable, '-c', NOTEBOOK, f], at, MPLBACKEND=None)
        return r, cells(f), tried, sorted(p.name for p in at.iterdir() if p != f)
