"What can befall a command; each is done in its process, before it starts"
import os, resource, shutil, signal
from pathlib import Path

from lm_lifecycle import training

def die(*args, **kw): os.kill(os.getpid(), signal.SIGKILL)

def half(path):
    "Cut a file in two, and die"
    with open(path, 'r+b') as f: f.truncate(os.path.getsize(path)//2)
    die()

def half_moments(tensors, path, real=training.save_file): real(tensors, path); half(path)
def half_manifest(path, text): path.write_bytes(text.encode()); half(path)

POINTS = dict( # Where to die in a save: what stands there, what to put in its place
    weights=(training, 'save_file', die), half_moments=(training, 'save_file', half_moments), moments=(training, 'seal', die),
    half_manifest=(Path, 'write_text', half_manifest), unmoved=(os, 'replace', die), moved=(shutil, 'rmtree', die))

def dying(point, step):
    "`kill -9` within the save of a step"
    save = training.save_checkpoint
    def f(out, s, *args, **kw):
        if s == step: setattr(*POINTS[point])
        return save(out, s, *args, **kw)
    training.save_checkpoint = f

def at_step(step, do):
    "Something happens when the gradient of a step (from 0) is computed"
    real = training.accumulate
    def f(*args, **kw):
        if args[5][1] == step: do()
        return real(*args, **kw)
    training.accumulate = f

class Send:
    "Signals to oneself"
    def __init__(self, *signals): self.signals = signals
    def __call__(self): [os.kill(os.getpid(), s) for s in self.signals]

def run_out():
    "Memory is at an end, as PyTorch says it on a GPU"
    import torch
    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')

def limit(what, n): resource.setrlimit(what, (n, resource.getrlimit(what)[1]))

def ration():
    "Memory is at an end: what the process has now is all it gets"
    limit(resource.RLIMIT_AS, int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize() + 2**20)

def small_files(most):
    "No file may be longer than `most` bytes: to a program that writes, a full disk"
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN); limit(resource.RLIMIT_FSIZE, most)

def write_nothing(folder):
    "To put anything into the folder is death; but for what frozen blocks make of the rows, which each process may keep for itself"
    real = os.replace
    def f(a, b): die() if str(b).startswith(folder) and not str(b).endswith('.bin') else real(a, b)
    os.replace = f
