"Commands in processes that start warm: what they import is imported once, and every process is forked from there"
import multiprocessing, os, socket, subprocess, sys, tempfile
from pathlib import Path

from lm_lifecycle.cli.main import main
from lm_lifecycle.training import newest, sha256

WARM = multiprocessing.get_context('forkserver')
WARM.set_forkserver_preload(['battery.warm','lm_lifecycle.cli.train','lm_lifecycle.cli.pretrain','lm_lifecycle.cli.finetune',
                             'transformers.models.bert.modeling_bert'])

def inside(f, args, said, env, first):
    "What the new process does"
    os.environ |= env; fd = os.open(said, os.O_WRONLY); os.dup2(fd, 1); os.dup2(fd, 2)
    for do in first: do()
    sys.exit(f(*args))

class Fork:
    "A function in a process of its own; what it returns is the exit code"
    def __init__(self, f, *args, env={}, first=()): # … more environment; what to do before
        h,self.said = tempfile.mkstemp(); os.close(h)
        self.process = WARM.Process(target=inside, args=(f, args, self.said, env, first), daemon=True); self.process.start()

    @property
    def pid(self): return self.process.pid
    def running(self): return self.process.exitcode is None
    def kill(self): self.process.kill()
    def wait(self, seconds=100): # Exit code; what was printed
        self.process.join(seconds); late = self.running(); self.kill(); self.process.join()
        said = Path(self.said).read_text(); Path(self.said).unlink()
        assert not late, f'still running after {seconds} s: {said}'
        return self.process.exitcode, said

def go(*words, **kw): return Fork(main, [str(w) for w in words], **kw) # `lm-lifecycle …`

def done(*words):
    "Run a command to its good end; what it printed"
    code,said = go(*words).wait(); assert code == 0, said
    return said

def ranks(n, f, *args, first={}): # … rank → what it does before
    "As many processes, joined the way torchrun joins them"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = dict(WORLD_SIZE=n, LOCAL_WORLD_SIZE=n, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    return [Fork(f, *args, env={k: str(v) for k,v in dict(env, RANK=r, LOCAL_RANK=r).items()}, first=first.get(r, ())) for r in range(n)]

def together(n, *words, **kw):
    "A command in several processes, to its good end"
    for code,said in [p.wait() for p in ranks(n, main, [str(w) for w in words], **kw)]: assert code == 0, said

def torchrun(n, *words):
    "The same by torchrun itself, running"
    argv = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={n}', '-m', f'lm_lifecycle.cli.{words[0]}']
    env = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]))
    return subprocess.Popen([*argv, *map(str, words[1:])], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

STEPS,EVERY = 12,4
COMMON = ['--do-train', '--max-steps', STEPS, '--save-steps', EVERY, '--max-seq-length', 32, '--dropout', .1, '--precision', 'bf16',
          '--learning-rate', 1e-3]
OBJECTIVES = 'mlm','dae','clm','plm'

def words(work, what, out, *more):
    "The command line of one run: pre-training by an objective, or fine-tuning (`cls`)"
    how = ['--task', 'text-classification', '--train-file', work/'labels.tensor'] if what == 'cls' else \
          ['--objective', what, '--train-file', work/'text.tensor']
    return [str(w) for w in ('train', *how, '--output-dir', out, *COMMON, *more)]

def weights(out): return sha256(Path(out)/'model.safetensors')
def step_of(out): return (newest(Path(out)/'checkpoints') or [0,dict(step=0)])[1]['step'] # Of the newest whole checkpoint; 0: there is none
def checkpoint(step): return f'checkpoints/step-{step:07}'
LAST = checkpoint(STEPS)
