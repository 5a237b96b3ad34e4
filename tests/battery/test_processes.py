"Line D3 of whole commands: several processes do what one does, one of them writes, and their number may change"
import os, subprocess, sys
from functools import cache, partial

import pytest
from battery.conftest import later, rarely
from battery.sabotage import at_step, die, write_nothing
from battery.warm import done, main, newest, ranks, step_of, together, torchrun, weights
from conftest import ROOT
from lm_lifecycle.cli.preprocess import unpack
from safetensors.torch import load_file

STEPS,B,PRE = 50,16,('mlm','clm','dae')

@pytest.fixture(scope='module')
def commands(work, labels):
    "What → its command line into a folder: float64, no dropout, 50 steps; fine-tuning starts from what `mlm` has learnt"
    unpack(work/'text.tensor')[2].save_pretrained(work/'words')
    more = ['--batch-size', B, '--max-seq-length', 32, '--precision', 'fp64', '--dropout', 0, '--learning-rate', 1e-3, '--save-steps', 20]
    pre = ['pretrain', '--text', work/'text.txt', '--tokenizer-name', work/'words', '--max-steps', STEPS]
    tune = ['finetune', '--task', 'text-classification', '--model-name-or-path', work/'one-mlm', '--train-file', work/'labels.jsonl',
            '--num-train-epochs', STEPS/(len(labels)//B)]
    return lambda what, out: [*map(str, [*(pre if what in PRE else tune), '--objective' if what in PRE else '--strategy', what, *more, '--output-dir', out])]

@pytest.fixture(scope='module')
def one(commands, work):
    "The same by one process"
    @cache
    def f(what): what in PRE or f('mlm'); done(*commands(what, work/f'one-{what}')); return work/f'one-{what}'
    return f

def happened(out): return [x for x in newest(out/'checkpoints')[1]['history'] if 'loss' in x]

@pytest.fixture
def agree(most):
    "50 losses and all weights to 1e-6; as many answers forced at each step, for the masks are the same"
    def f(out, right):
        a,b = happened(out), happened(right); v,w = (load_file(d/'model.safetensors') for d in (out,right))
        assert len(a) == len(b) == STEPS and [x['forced'] for x in a] == [y['forced'] for y in b]
        assert most('loss of a command', max(abs(x['loss'][h] - y['loss'][h]) for x,y in zip(a, b) for h in y['loss'])) <= 1e-6
        assert most('its weights', max((v[k] - w[k]).abs().max() for k in w)) <= 1e-6
    return f

@pytest.mark.parametrize('what,n', [('clm',2), later('dae',2), later('clm',4), later('end-to-end',2), later('layer-wise',2)])
def test_D3_command(commands, one, agree, tmp_path, what, n):
    "Only the first may write a thing"
    right,others = one(what), {r: [partial(write_nothing, str(tmp_path))] for r in range(1, n)}
    together(n, *commands(what, tmp_path/'run'), first=others); agree(tmp_path/'run', right)

@rarely
@pytest.mark.parametrize('n,then', [(2,1), (1,2)])
def test_D3_another_number_of_processes_goes_on(commands, one, agree, tmp_path, n, then):
    ws = commands('mlm', tmp_path/'out'); ps = ranks(n, main, ws, first={r: [partial(at_step, 30, die)] for r in range(n)})
    assert all(p.wait()[0] == -9 for p in ps) and step_of(tmp_path/'out') == 20
    together(then, *ws); agree(tmp_path/'out', one('mlm'))

@rarely
def test_D3_torchrun(commands, one, agree, tmp_path):
    "And the same number of processes ends in the same bits; another number takes sums in another order"
    p = torchrun(2, *commands('mlm', tmp_path/'out')); said = p.communicate(timeout=200)[0]; assert p.returncode == 0, said
    agree(tmp_path/'out', one('mlm')); together(2, *commands('mlm', tmp_path/'again')); assert weights(tmp_path/'out') == weights(tmp_path/'again')

@rarely
def test_D3_accelerate_launch(commands, one, agree, tmp_path):
    right = one('end-to-end'); command,*more = commands('end-to-end', tmp_path/'out')
    argv = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '-m', f'lm_lifecycle.cli.{command}', *more]
    r = subprocess.run(argv, env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=200)
    assert r.returncode == 0, r.stderr[-2000:]
    agree(tmp_path/'out', right)
