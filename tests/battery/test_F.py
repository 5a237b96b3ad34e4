"Faults: killed, damaged, full, taken, interrupted, short of memory, mixed up. No work is lost, and nothing goes on in silence"
import random, re, shutil, signal, subprocess, time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil, pytest
from battery.conftest import later, rarely
from battery.sabotage import POINTS, Send, at_step, die, dying, ration, run_out, small_files
from battery.warm import LAST, OBJECTIVES, STEPS, checkpoint, done, go, main, ranks, step_of, together, torchrun, weights, words
from conftest import spawn
from lm_lifecycle.cli.preprocess import unpack
from lm_lifecycle.training import locked, newest, read_manifest

WHAT = dict(
    F1='kill −9 at 50 random points × 4 objectives, a save every step', F2='killed within a save', F3='newest checkpoint cut short',
    F4='one byte of it flipped', F5='a file of it deleted', F6='an empty newer checkpoint', F7='disk full during a save',
    F8='two runs, one output folder', F9='SIGTERM, SIGINT', F10='out of memory at a step', F11='resumed with other data, batch, seed, vocabulary',
    F12='one of 2 ranks killed')

def leftovers(folder): return [p for p in folder.rglob('.*.tmp')]
def history(out): return newest(out/'checkpoints')[1]['history']

@pytest.fixture
def run(whole, tmp_path):
    "A copy of a finished run, but for the model it ended in"
    def f(what='mlm', last=True):
        out = shutil.copytree(whole(what), tmp_path/'run'); (out/'model.safetensors').unlink()
        if not last: shutil.rmtree(out/LAST)
        return out
    return f

# F1

def struck(ws, out, r):
    "`kill -9` at a random point: some time after some checkpoint, or after it has taken its folder. Which one, and was it saving?"
    for _ in range(30): # It may have ended before
        shutil.rmtree(out, ignore_errors=True); p = go(*ws); after = r.randrange(STEPS); at = out/(checkpoint(after) if after else '.pid')
        while p.running() and not at.exists(): time.sleep(.001)
        time.sleep(r.random()*.1); p.kill()
        if p.wait()[0] == -9: return step_of(out), bool(leftovers(out.parent))
    raise AssertionError('it always ended before it could be killed')

@pytest.mark.parametrize('what', OBJECTIVES)
def test_F1_killed_twice(work, whole, finish, tmp_path, what):
    "In bf16, with dropout; the same command goes on, to the same bits"
    for i in range(2):
        out = tmp_path/str(i)/'run'; ws = words(work, what, out, '--save-steps', 1); struck(ws, out, random.Random(f'{what} {i}')); finish(*ws)
        assert weights(out) == weights(whole(what)) and not leftovers(out.parent)

@rarely
@pytest.mark.parametrize('what', [*OBJECTIVES,'cls'])
def test_F1_killed_fifty_times(work, whole, tmp_path, record_property, what):
    "The same, and each run is a process of its own"
    def one(i):
        out = tmp_path/str(i)/'run'; ws = words(work, what, out, '--save-steps', 1); step,saving = struck(ws, out, random.Random(f'{what} {i}')); done(*ws)
        same = weights(out) == right and not leftovers(out.parent); shutil.rmtree(out); return same, step > 0, saving
    right = weights(whole(what))
    with ThreadPoolExecutor(2) as ex: same,went_on,saving = zip(*ex.map(one, range(50)))
    record_property('shown', f'{what} {sum(same)} of 50 bitwise ({sum(went_on)} from a checkpoint, {sum(saving)} killed within a save)')
    assert all(same)

@rarely
@pytest.mark.parametrize('objective', OBJECTIVES)
def test_F1_in_real_processes(work, tmp_path, objective):
    "`pretrain`, which reads the text itself, started anew by Python"
    ws = lambda out: ['pretrain', '--objective', objective, '--text', work/'text.txt', '--vocab-size', 600, '--output-dir', out, '--max-steps', STEPS,
                      '--save-steps', 1, '--batch-size', 8, '--max-seq-length', 32, '--dropout', .1, '--precision', 'bf16']
    out = tmp_path/'killed'; p = spawn(*ws(out))
    while p.poll() is None and not (out/checkpoint(3)).exists(): time.sleep(.002)
    p.kill(); p.communicate(); assert p.returncode == -9 and not (out/LAST).exists()
    p = spawn(*ws(out)); err = p.communicate(timeout=100)[1]; assert p.returncode == 0, err
    done(*ws(tmp_path/'whole')); assert weights(out) == weights(tmp_path/'whole')

def test_F1_another_seed_ends_elsewhere(work, whole, finish, tmp_path):
    "So equal bits mean something"
    finish(*words(work, 'mlm', tmp_path/'out', '--seed', 1)); assert weights(tmp_path/'out') != weights(whole('mlm'))

# F2 to F6

@pytest.mark.parametrize('point', [p if p in ('weights','moments','half_manifest') else later(p) for p in POINTS])
def test_F2_killed_within_a_save(work, whole, finish, tmp_path, point):
    "Of step 8: step 4 it is, unless the save was as good as done; nothing of the attempt stays behind"
    ws = words(work, 'mlm', tmp_path/'run', *(('--save-steps', 3) if point == 'moved' else ())); at = 9 if point == 'moved' else 8
    assert go(*ws, first=[partial(dying, point, at)]).wait()[0] == -9
    assert step_of(tmp_path/'run') == (9 if point == 'moved' else 4) and bool(leftovers(tmp_path)) == (point != 'moved')
    finish(*ws); assert weights(tmp_path/'run') == weights(whole('mlm')) and not leftovers(tmp_path)

def keep(n): return lambda b, r: b[:n(len(b))]
def flip(b, r): i = r.randrange(len(b)); return b[:i] + bytes([b[i] ^ r.randrange(1, 256)]) + b[i+1:]

DAMAGE = dict(byte=keep(lambda n: n-1), half=keep(lambda n: n//2), empty=keep(lambda n: 0), flip=flip, gone=None)
FILES = 'model.safetensors','optimizer.safetensors','manifest.json','config.json'

def damage(f, how, r=random.Random(0)): f.write_bytes(DAMAGE[how](f.read_bytes(), r)) if DAMAGE[how] else f.unlink()

def passed_over(work, whole, finish, out, file, how):
    "Damage the newest checkpoint; the same command names the file, uses the checkpoint before, and ends in the same bits"
    damage(out/LAST/file, how)
    with pytest.warns(UserWarning, match=f'{LAST}.*{file}.*checkpoint before'): finish(*words(work, 'mlm', out))
    assert weights(out) == weights(whole('mlm')) and step_of(out) == STEPS

@pytest.mark.parametrize('file,how', [(f,h) if f[:1] + h in ('mbyte','ohalf','mempty') else later(f, h) for f in FILES for h in ('byte','half','empty')])
def test_F3_cut_short(work, whole, run, finish, file, how): passed_over(work, whole, finish, run(), file, how)

@rarely
@pytest.mark.parametrize('file', FILES)
def test_F4_a_byte_flipped(work, whole, run, finish, file): passed_over(work, whole, finish, run(), file, 'flip')

@pytest.mark.parametrize('file', FILES)
def test_F4_at_twenty_places(run, file):
    "Whichever byte it is"
    f = run()/LAST/file; good,r = f.read_bytes(), random.Random(file)
    for _ in range(20):
        f.write_bytes(flip(good, r))
        with pytest.warns(UserWarning, match=f'{file}.*checkpoint before'): assert newest(f.parents[1])[1]['step'] < STEPS

@pytest.mark.parametrize('file', [FILES[0], *map(later, FILES[1:])])
def test_F5_a_file_deleted(work, whole, run, finish, file): passed_over(work, whole, finish, run(), file, 'gone')

def test_F5_all_checkpoints_damaged(work, whole, run, finish):
    "Then it starts afresh, and says so"
    out = run()
    for f in (out/'checkpoints').glob('*/model.safetensors'): damage(f, 'flip')
    with pytest.warns(UserWarning): finish(*words(work, 'mlm', out))
    assert weights(out) == weights(whole('mlm'))

def test_F6_an_empty_newer_checkpoint(work, whole, run, finish):
    "Ignored; and two whole ones are kept, as always"
    out = run(last=False); (out/checkpoint(99)).mkdir()
    with pytest.warns(UserWarning, match=f'{checkpoint(99)}.*checkpoint before'): finish(*words(work, 'mlm', out, '--save-steps', 2))
    assert weights(out) == weights(whole('mlm')) and [read_manifest(out/checkpoint(s))['step'] for s in (10,12)] == [10,12]

def test_F6_two_checkpoints_are_kept(whole): assert [p.name for p in sorted((whole('mlm')/'checkpoints').iterdir())] == ['step-0000008','step-0000012']

# F7

@pytest.fixture
def disk(tmp_path):
    "A disk of 50 MB"
    d = tmp_path/'disk'; d.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=50m', 'tmpfs', d], capture_output=True).returncode: pytest.skip('this user may not mount a disk')
    yield d
    subprocess.run(['umount', d], check=True)

def size(folder): return sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())

def not_saved(code, said, out):
    "Exit 3; one line says what there is room for; what was saved is whole"
    assert code == 3 and len(said.splitlines()) == 1 and re.search(r'[1-9][\d,]+ bytes', said) and 'free' in said, said
    assert step_of(out) == 8 and not leftovers(out)
    for p in (out/'checkpoints').iterdir(): read_manifest(p)

def test_F7_disk_full(work, whole, cli, finish, disk):
    "There is room for two checkpoints and a half: the third fails on its way, and again; then for all"
    out,each = disk/'out', size(whole('mlm')/LAST); ws = words(work, 'mlm', out)
    (disk/'ballast').write_bytes(bytes(50*2**20 - int(2.5*each)))
    for _ in range(2): code,_,err = cli(*ws); not_saved(code, err, out)
    (disk/'ballast').unlink(); finish(*ws); assert weights(out) == weights(whole('mlm'))

def test_F7_files_that_may_not_grow(work, whole, run, finish):
    "The same where no disk can be made"
    out = run(last=False); ws = words(work, 'mlm', out)
    not_saved(*go(*ws, first=[partial(small_files, 2**20)]).wait(), out); finish(*ws); assert weights(out) == weights(whole('mlm'))

# F8 and F9

def refused(cli, ws, p):
    "In less than a second, naming folder and process"
    t0 = time.perf_counter(); code,_,err = cli(*ws); took = time.perf_counter() - t0; out = ws[ws.index('--output-dir') + 1]
    assert code == 4 and len(err.splitlines()) == 1 and out in err and str(p.pid) in err and took < 1

def test_F8_two_runs_in_one_folder(work, whole, cli, finish, tmp_path):
    ws = words(work, 'mlm', tmp_path); p = go(*ws, first=[partial(at_step, 5, partial(time.sleep, 100))])
    while p.running() and not (tmp_path/checkpoint(4)).exists(): time.sleep(.01)
    refused(cli, ws, p); p.kill(); p.wait(); finish(*ws); assert weights(tmp_path) == weights(whole('mlm'))

@rarely
def test_F8_a_real_process(work, cli, tmp_path):
    "When it is gone, so is the lock"
    ws = words(work, 'mlm', tmp_path); p = spawn(*ws, '--max-steps', 10**6)
    try:
        while p.poll() is None and not (tmp_path/checkpoint(4)).exists(): time.sleep(.01)
        refused(cli, ws, p)
    finally: p.kill(); p.communicate()
    with locked(tmp_path): assert newest(tmp_path/'checkpoints')

TERM,INT = (signal.SIGTERM,143), (signal.SIGINT,130)

@pytest.mark.parametrize('what,sig,code', [('plm',*TERM), ('cls',*INT), later('cls',*TERM), later('plm',*INT)])
def test_F9_asked_to_stop(work, whole, finish, tmp_path, what, sig, code):
    "The step under way is finished and saved; the same command goes on"
    out = tmp_path/'run'; ws = words(work, what, out, '--save-steps', 1000); got,said = go(*ws, first=[partial(at_step, 5, Send(sig))]).wait()
    assert got == code and len(said.splitlines()) == 1 and str(out) in said and step_of(out) == 6, said
    finish(*ws); assert weights(out) == weights(whole(what))

@rarely
def test_F9_asked_twice(work, whole, finish, tmp_path):
    "A second Ctrl-C does not wait for the step; what was saved before it is whole"
    ws = words(work, 'mlm', tmp_path/'run'); code,_ = go(*ws, first=[partial(at_step, 5, Send(signal.SIGINT, signal.SIGINT))]).wait()
    assert code == 130 and step_of(tmp_path/'run') == 4
    finish(*ws); assert weights(tmp_path/'run') == weights(whole('mlm'))

@rarely
def test_F9_a_real_process(work, whole, finish, tmp_path):
    ws = words(work, 'mlm', tmp_path/'run', '--save-steps', 1); p = spawn(*ws)
    while p.poll() is None and not (tmp_path/'run'/checkpoint(2)).exists(): time.sleep(.002)
    p.terminate(); _,err = p.communicate(timeout=60)
    assert p.returncode == 143 and len(err.splitlines()) == 1 and 2 <= step_of(tmp_path/'run') < STEPS
    finish(*ws); assert weights(tmp_path/'run') == weights(whole('mlm'))

@rarely
def test_F9_two_processes(work, tmp_path):
    "torchrun passes it on; the step that both are at is finished and saved"
    out = tmp_path/'run'; ws = words(work, 'mlm', out, '--save-steps', 10**6, '--max-steps', 10**6); p = torchrun(2, *ws)
    while p.poll() is None and not (out/'.pid').exists(): time.sleep(.01)
    time.sleep(5); p.terminate(); said = p.communicate(timeout=60)[0]
    assert p.returncode != 0 and step_of(out) > 0 and 'the same command goes on' in said, said

# F10

def no_memory(ws, out, at, kept, do):
    "Exit 2, the step and the remedy in one line; the last checkpoint is whole"
    code,said = go(*ws, first=[partial(at_step, at, do)]).wait()
    assert code == 2 and len(said.splitlines()) == 1 and f'step {at}' in said and 'smaller batch' in said and '--gradient-accumulation-steps' in said, said
    assert step_of(out) == kept and not leftovers(out)

def test_F10_out_of_memory(work, whole, finish, tmp_path):
    "As a GPU says it"
    out = tmp_path/'run'; ws = words(work, 'mlm', out); no_memory(ws, out, 5, 4, run_out)
    finish(*ws); assert weights(out) == weights(whole('mlm'))

@rarely
def test_F10_out_of_the_operating_systems_memory(work, finish, tmp_path):
    "A run that goes on where there is less of it"
    ws = lambda out: words(work, 'mlm', tmp_path/out, '--per-device-train-batch-size', 64)
    assert go(*ws('run'), first=[partial(at_step, 5, Send(signal.SIGTERM))]).wait()[0] == 143
    no_memory(ws('run'), tmp_path/'run', 6, 6, ration)
    for out in ('run','whole'): finish(*ws(out))
    assert weights(tmp_path/'run') == weights(tmp_path/'whole')

# F11

@pytest.fixture(scope='module')
def others(work, labels):
    "Files to go on with: the same text by another vocabulary of the same size, of another size; another text by the same vocabulary"
    def cut(text, out, *how):
        assert main([*map(str, ['preprocess', '--input', work/text, '--output', work/f'{out}.tensor', '--max-seq-length', 32, *how])]) == 0
    (work/'labels.txt').write_text('\n\n'.join(t for t,_ in labels), encoding='utf-8'); cut('labels.txt', 'other', '--vocab-size', 600)
    for name in ('text','other'): unpack(work/f'{name}.tensor')[2].save_pretrained(work/f'{name}-tok')
    cut('text.txt', 'vocabulary', '--tokenizer-name', work/'other-tok'); cut('labels.txt', 'data', '--tokenizer-name', work/'text-tok')
    cut('text.txt', 'size', '--vocab-size', 500)
    return work

CHANGES = dict(batch=('B was 8, is 4', '--per-device-train-batch-size', 4), seed=('seed was 0, is 1', '--seed', 1), data=('data was',),
               vocabulary=('tokenizer was',), lr=('lr was 0.001, is 0.01', '--learning-rate', .01), precision=('precision was', '--precision', 'fp32'),
               dropout=('dropout was 0.1, is 0.3', '--dropout', .3))

def changed(others, name, out):
    "What is said of the difference; the command line of the run, but for one thing"
    says,*more = CHANGES[name]; return says, words(others, 'mlm', out, *(more or ['--train-file', others/f'{name}.tensor']))

@pytest.mark.parametrize('name', CHANGES)
def test_F11_another_run(others, whole, cli, name):
    "Exit 7, the difference named, nothing touched"
    out = whole('mlm'); before = {f: f.read_bytes() for f in out.rglob('*') if f.is_file() and f.name not in ('.pid','.lock')}
    says,ws = changed(others, name, out); code,_,err = cli(*ws)
    assert code == 7 and len(err.splitlines()) == 1 and says in err and '--force' in err, err
    assert all(f.read_bytes() == b for f,b in before.items())

def test_F11_all_differences_are_listed(work, whole, cli):
    code,_,err = cli(*words(work, 'mlm', whole('mlm'), '--seed', 1, '--learning-rate', .01, '--dropout', .3))
    assert code == 7 and all(s in err for s in ('seed was','lr was','dropout was'))

@pytest.mark.parametrize('more', ['--size small', '--model-name-or-path {}'])
def test_F11_another_network(work, whole, run, cli, more):
    code,_,err = cli(*words(work, 'mlm', run(last=False)), *more.format(whole('mlm')).split())
    assert code == 7 and len(err.splitlines()) == 1

@pytest.mark.parametrize('name', ['batch','vocabulary', later('seed'), later('data')])
def test_F11_all_the_same_with_force(others, whole, run, finish, name):
    "It goes on from the checkpoint, says what differs, and is that other run from then on"
    out = run(last=False); says,ws = changed(others, name, out)
    with pytest.warns(UserWarning, match=says): finish(*ws, '--force')
    assert history(out)[:8] == history(whole('mlm'))[:8] and step_of(out) == STEPS and weights(out) != weights(whole('mlm'))
    finish(*ws)

def test_F11_a_vocabulary_that_does_not_fit(others, run, cli):
    "No force makes weights of another shape"
    with pytest.warns(UserWarning, match='tokenizer was'):
        code,_,err = cli(*words(others, 'mlm', run(last=False), '--train-file', others/'size.tensor', '--force'))
    assert code == 7 and len(err.splitlines()) == 1 and 'fit' in err

# F12

@rarely
def test_F12_the_other_rank_stops_by_itself(work, tmp_path):
    "Nobody watches them; and two ranks, killed and started again, end in the same bits"
    ws = lambda out: words(work, 'mlm', tmp_path/out); ps = ranks(2, main, ws('run'), first={1: [partial(at_step, 5, die)]}); t0 = time.perf_counter()
    assert ps[1].wait()[0] == -9 and ps[0].wait()[0] not in (0,None) and time.perf_counter() - t0 < 60 and step_of(tmp_path/'run') == 4
    together(2, *ws('run')); together(2, *ws('whole')); assert weights(tmp_path/'run') == weights(tmp_path/'whole')

@rarely
@pytest.mark.parametrize('rank', ['0','1'])
def test_F12_under_torchrun(work, tmp_path, record_property, rank):
    "Everything stops, with an exit code that says so; the same command goes on"
    out = tmp_path/'run'; ws = words(work, 'mlm', out, '--save-steps', 1, '--max-steps', 1000); p = torchrun(2, *ws)
    while p.poll() is None and not (out/checkpoint(3)).exists(): time.sleep(.01)
    them = psutil.Process(p.pid).children(recursive=True); t0 = time.perf_counter()
    next(c for c in them if c.environ().get('RANK') == rank).kill(); p.communicate(timeout=60); took = time.perf_counter() - t0
    record_property('shown', f'rank {rank} killed: all stopped after {took:.0f} s')
    assert p.returncode != 0 and took <= 60 and not any(c.is_running() and c.status() != psutil.STATUS_ZOMBIE for c in them)
    n = step_of(out); p = torchrun(2, *ws)
    while p.poll() is None and not (out/checkpoint(n + 3)).exists(): time.sleep(.01)
    going = p.poll() is None; p.terminate(); p.communicate(timeout=60); assert n >= 3 and going
