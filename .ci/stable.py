"Runs every notebook in a copy beside nbs/. Then: do their cells say what is saved? Numbers to 1 %; cells marked `#| varies` may differ."
import json, math, re, shutil, subprocess, sys
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).parent.parent; NBS,RUN = ROOT/'nbs', ROOT/'executed'; NUMBER = re.compile(r'[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?')

def varies(c): return '#| varies' in ''.join(c['source']) # Seconds, memory, chance

def said(cells): # Number of each code cell that does not vary → the text of its output
    plain = lambda c: '\n'.join(''.join(o['data']['text/plain']) for o in c['outputs'] if 'text/plain' in o.get('data', {}))
    return {c['id']: re.sub(' at 0x[0-9a-f]+', '', plain(c)) for c in cells if c['cell_type'] == 'code' and not varies(c)}

def saved(f): return said(json.loads(f.read_text(encoding='utf-8'))['cells'])

def same(a, b):
    x,y = ([float(n.replace(',', '')) for n in NUMBER.findall(s)] for s in (a,b))
    return NUMBER.sub('#', a).split() == NUMBER.sub('#', b).split() and all(math.isclose(p, q, rel_tol=1e-2, abs_tol=1e-6) for p,q in zip(x, y))

def comparable(): # Were the saved numbers computed from this corpus, on such a device, in this precision?
    from lm_lifecycle.core import plan
    from lm_lifecycle.text import docs, fingerprint
    run = json.loads((ROOT/'results/life.json').read_text())['run']
    return run['corpus'] == fingerprint(docs()) and run['plan'] == asdict(plan())

def compare(): # Lines: what differs
    pairs = {(f.name, i): (s, now.get(i, '')) for f in sorted(NBS.glob('*.ipynb')) for now in [saved(RUN/f.name)] for i,s in saved(f).items()}
    return len(pairs), [f'{name}, cell {i}:\n  saved {a}\n  now   {b}' for (name,i),(a,b) in pairs.items() if not same(a, b)]

if __name__ == '__main__':
    shutil.rmtree(RUN, ignore_errors=True); shutil.copytree(NBS, RUN)
    code = subprocess.run([Path(sys.executable).with_name('nbdev-test'), RUN, '--save', '--n-workers', '2', '--timing']).returncode
    if code: sys.exit(code)
    if not comparable(): sys.exit(print('saved outputs: not compared, for the corpus or this machine computes in another way'))
    n,off = compare()
    if off: sys.exit('\n'.join(['cells that say something else than is saved; run and save the notebook, or mark the cell #| varies:', *off]))
    print(f'saved outputs: {n} cells compared, all as saved')
