"Killed at any instant and started again, a run ends in the same bits"
import random, shutil, time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import spawn
from lm_lifecycle.training import locked, newest, sha256

STEPS,EVERY = 24,3
COMMON = ['--do-train', '--max-steps', STEPS, '--save-steps', EVERY, '--max-seq-length', 32,
          '--dropout', .1, '--precision', 'bf16', '--learning-rate', 1e-3]
LAST = f'checkpoints/step-{STEPS:07}'

def words(work, what, out):
    "The command line of one run: pre-training, or fine-tuning of what it gave"
    pre = ['--mlm', '--train-file', work/'text.tensor']; tune = ['--task', 'text-classification', '--train-file', work/'labels.tensor']
    return ['train', *(pre if what == 'mlm' else tune), '--output-dir', out, *COMMON]

def weights(out): return sha256(out/'model.safetensors')

def finish(*words):
    "Run to the end; its standard error if that is not a success"
    p = spawn(*words); _,err = p.communicate(timeout=200)
    assert p.returncode == 0, err

def kill_once(out, words, after, delay):
    "`kill -9` some time after the checkpoint of step `after` (0: after it has taken the folder)"
    p = spawn(*words); at = out/(f'checkpoints/step-{after:07}' if after else '.pid')
    while p.poll() is None and not at.exists(): time.sleep(.001)
    time.sleep(delay); p.kill(); p.communicate()
    assert p.returncode == -9 and not (out/LAST).exists()

@pytest.fixture(scope='module')
def whole(work):
    "Both runs, uninterrupted"
    with ThreadPoolExecutor(2) as ex: list(ex.map(lambda w: finish(*words(work, w, work/w)), ('mlm','cls')))
    return {w: work/w for w in ('mlm','cls')}

def kills(what, n=5):
    "When to strike: once before the first checkpoint, then anywhere"
    r = random.Random(what); return [(what, i, r.randrange(EVERY, STEPS-EVERY, EVERY) if i else 0, r.random()*.1) for i in range(n)]

def test_kill_and_resume(work, whole):
    "10 of 10, in bf16 and with dropout"
    def one(kill):
        what,i,after,delay = kill; out = work/f'{what}-{i}'; ws = words(work, what, out)
        kill_once(out, ws, after, delay); finish(*ws); return weights(out) == weights(whole[what])
    with ThreadPoolExecutor(2) as ex: same = list(ex.map(one, kills('mlm') + kills('cls')))
    assert same == [True]*10

def test_both_runs_differ_from_their_start(work, whole, cli):
    "So equal bits mean something: another seed ends elsewhere"
    code,_,err = cli(*words(work, 'mlm', work/'seed1'), '--seed', 1)
    assert code == 0, err
    assert weights(work/'seed1') != weights(whole['mlm'])

def truncate(f): f.write_bytes(f.read_bytes()[:-100])
def flip(f): b = bytearray(f.read_bytes()); b[len(b)//2] ^= 1; f.write_bytes(b)
def delete(f): f.unlink()

@pytest.mark.parametrize('damage', [truncate,flip,delete])
@pytest.mark.parametrize('file', ['model.safetensors','optimizer.safetensors','manifest.json'])
def test_damaged_checkpoint_is_passed_over(work, whole, cli, tmp_path, file, damage):
    "The one before it is used, with a warning"
    shutil.copytree(whole['mlm'], tmp_path/'run'); damage(tmp_path/'run'/LAST/file); (tmp_path/'run/model.safetensors').unlink()
    with pytest.warns(UserWarning, match=f'{LAST}.*checkpoint before'): code,_,err = cli(*words(work, 'mlm', tmp_path/'run'))
    assert code == 0, err
    assert weights(tmp_path/'run') == weights(whole['mlm']) and newest(tmp_path/'run/checkpoints')[1]['step'] == STEPS

def test_all_checkpoints_damaged_starts_afresh(work, whole, cli, tmp_path):
    shutil.copytree(whole['mlm'], tmp_path/'run')
    for f in (tmp_path/'run/checkpoints').glob('*/model.safetensors'): flip(f)
    with pytest.warns(UserWarning): code,*_ = cli(*words(work, 'mlm', tmp_path/'run'))
    assert code == 0 and weights(tmp_path/'run') == weights(whole['mlm'])

def test_two_checkpoints_are_kept(whole):
    assert [p.name for p in sorted((whole['mlm']/'checkpoints').iterdir())] == [f'step-{s:07}' for s in (STEPS-EVERY,STEPS)]

def test_second_run_in_one_folder(work, cli, tmp_path):
    "A real process holds the folder; when it is gone, so is the lock"
    ws = words(work, 'mlm', tmp_path); p = spawn(*ws, '--max-steps', 10**6)
    try:
        while p.poll() is None and not (tmp_path/'checkpoints/step-0000003').exists(): time.sleep(.01)
        code,_,err = cli(*ws)
        assert code == 4 and len(err.splitlines()) == 1 and str(tmp_path) in err and str(p.pid) in err
    finally: p.kill(); p.communicate()
    with locked(tmp_path): assert newest(tmp_path/'checkpoints')

def test_loss_not_finite(work, cli, tmp_path):
    "The step is named, and what was saved before it is whole"
    code,_,err = cli(*words(work, 'mlm', tmp_path), '--learning-rate', 1e30, '--save-steps', 1, '--precision', 'fp32')
    path,m = newest(tmp_path/'checkpoints')
    assert code == 5 and len(err.splitlines()) == 1 and f"step {m['step']}:" in err and 'learning rate' in err
    assert not (tmp_path/'model.safetensors').exists()

def test_resume_with_other_settings(work, whole, cli):
    "Refused, named, and nothing is touched"
    before = {f: f.read_bytes() for f in whole['mlm'].rglob('*') if f.is_file() and f.name not in ('.pid','.lock')}
    for name,*more in (('seed','--seed',1), ('lr','--learning-rate',.01), ('B','--per-device-train-batch-size',4), ('precision','--precision','fp32')):
        code,_,err = cli(*words(work, 'mlm', whole['mlm']), *more)
        assert code == 7 and len(err.splitlines()) == 1 and name in err
    assert all(f.read_bytes() == b for f,b in before.items())

@pytest.mark.parametrize('more', ['--dropout .3', '--size small', '--model-name-or-path {}'])
def test_resume_of_another_network(work, whole, cli, tmp_path, more):
    "Dropout, shape and first weights make a run what it is, too"
    shutil.copytree(whole['mlm'], tmp_path/'run'); shutil.rmtree(tmp_path/'run'/LAST)
    code,_,err = cli(*words(work, 'mlm', tmp_path/'run'), *more.format(whole['mlm']).split())
    assert code == 7 and len(err.splitlines()) == 1
