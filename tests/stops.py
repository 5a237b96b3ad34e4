"What is done to a `preprocess` before it starts, so that it can be stopped anywhere"
import os, signal

from lm_lifecycle.cli import preprocess

def hurry():
    "Small groups, and an entry in the journal after each"
    preprocess.JOURNAL = 1; preprocess.groups.__defaults__ = (8_000,)

def die_at(n):
    "`kill -9` when the disk is asked, for the n-th time, to keep what it has"
    real,calls = os.fsync, iter(range(1, 10**9))
    os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == n else real(fd)

def count(path):
    "How often it is asked"
    real = os.fsync
    def f(fd):
        with open(path, 'a') as tally: tally.write('.')
        real(fd)
    os.fsync = f
