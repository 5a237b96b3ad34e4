"Do cells marked `#| stable` say what is saved? Runs every notebook in a copy beside nbs/, then compares their numbers to 1 %."
import json, math, re, shutil, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).parent.parent; NBS,RUN = ROOT/'nbs', ROOT/'executed'; NUMBER = re.compile(r'[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?')

def said(f): # Cell → the text of its output
    cells = json.loads(f.read_text(encoding='utf-8'))['cells']
    return {c['id']: '\n'.join(''.join(o['data']['text/plain']) for o in c['outputs'] if 'text/plain' in o.get('data', {}))
            for c in cells if re.search(r'(?m)^#\|\s*stable\b', ''.join(c['source']))}

def same(a, b):
    x,y = ([float(n.replace(',', '')) for n in NUMBER.findall(s)] for s in (a,b))
    return NUMBER.sub('#', a).split() == NUMBER.sub('#', b).split() and all(math.isclose(p, q, rel_tol=1e-2, abs_tol=1e-12) for p,q in zip(x, y))

def corpus(): # Is it the one the notebooks were saved with?
    from lm_lifecycle.text import docs, fingerprint
    return fingerprint(docs()) == json.loads((ROOT/'results/life.json').read_text())['run']['corpus']

if __name__ == '__main__':
    shutil.rmtree(RUN, ignore_errors=True); shutil.copytree(NBS, RUN)
    code = subprocess.run([Path(sys.executable).with_name('nbdev-test'), RUN, '--save', '--n-workers', '2', '--timing']).returncode
    if code: sys.exit(code)
    if not corpus(): sys.exit(print('stable cells: not compared, for the corpus of this machine is another'))
    pairs = {(f.name, i): (s, now.get(i, '')) for f in sorted(NBS.glob('*.ipynb')) for now in [said(RUN/f.name)] for i,s in said(f).items()}
    off = [f'{name}, cell {i}:\n  saved {a}\n  now   {b}' for (name,i),(a,b) in pairs.items() if not a or not same(a, b)]
    if off: sys.exit('\n'.join(['stable cells that say something else:', *off]))
    print(f'stable cells: {len(pairs)} compared, all as saved')
