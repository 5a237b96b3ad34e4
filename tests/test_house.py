"The tree keeps its promises: exports, README, imports, assertions, style, safety"
import ast, json, re, shutil, subprocess, sys
from collections import defaultdict
from functools import cache

import pytest
from conftest import ROOT

@cache
def notebooks():
    "Name → cells, in the order of their numbers"
    return {p.stem: json.loads(p.read_text(encoding='utf-8'))['cells'] for p in sorted((ROOT/'nbs').glob('*.ipynb'))}

def source(cell): return ''.join(cell['source'])
def code(cells): return [c for c in cells if c['cell_type'] == 'code']
def exports(cell): return bool(re.search(r'(?m)^#\|\s*exports?\b', source(cell)))
def module(cells): return next((m[1] for c in cells if (m := re.search(r'(?m)^#\|\s*default_exp (\S+)', source(c)))), None)
def chapters(): return {n:c for n,c in notebooks().items() if module(c)}
def modules(): return {p: p.read_text(encoding='utf-8') for p in sorted((ROOT/'lm_lifecycle').rglob('*.py')) if p.name not in ('__init__.py','_modidx.py')}
def tree(folder): return {p.relative_to(folder): p.read_text(encoding='utf-8') for p in folder.rglob('*.py')}

def test_exports_are_in_step(tmp_path):
    "Export again from nothing but the notebooks: the same modules, no more and no fewer"
    for f in ('pyproject.toml','settings.ini','setup.py','README.md'): shutil.copy(ROOT/f, tmp_path)
    shutil.copytree(ROOT/'nbs', tmp_path/'nbs'); (tmp_path/'lm_lifecycle').mkdir()
    shutil.copy(ROOT/'lm_lifecycle/__init__.py', tmp_path/'lm_lifecycle')
    subprocess.run([sys.executable, '-c', 'import nbdev; nbdev.nbdev_export()'], cwd=tmp_path, check=True)
    old,new = (tree(d/'lm_lifecycle') for d in (ROOT,tmp_path))
    assert [str(p) for p in sorted(old.keys() | new.keys()) if old.get(p) != new.get(p)] == []

@pytest.mark.parametrize('script', ['readme','colab','style'])
def test_what_scripts_write_is_up_to_date(script):
    "README, Colab badges, table of style"
    r = subprocess.run([sys.executable, f'.ci/{script}.py', '--check'], cwd=ROOT, capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr

def test_the_atlas_has_every_formula():
    from lm_lifecycle import pretraining # Which imports all modules that register some
    from lm_lifecycle.core import FORMULAS
    atlas = (ROOT/'README.md').read_text(encoding='utf-8').split('## The formulas')[1].split('##')[0]
    assert [n for n in FORMULAS if f"| `{n.split('.')[-1]}` | $" not in atlas] == []

def imported(tree, name):
    "Names of this package's modules that module `name` imports"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): yield from (a.name.removeprefix('lm_lifecycle.') for a in node.names if a.name.startswith('lm_lifecycle'))
        if isinstance(node, ast.ImportFrom):
            base = [] if not node.level else name.split('.')[:-node.level]
            if not node.level and not (node.module or '').startswith('lm_lifecycle'): continue
            at = '.'.join(base + (node.module or '').removeprefix('lm_lifecycle').strip('.').split('.')).strip('.')
            yield from [at] if at and at != 'cli' else ('.'.join(filter(None, (at,a.name))) for a in node.names if a.name != '__version__')

def test_imports_only_go_downward():
    seen,bad = [],[]
    for nb,cells in chapters().items():
        name = module(cells); src = '\n'.join(source(c) for c in code(cells) if exports(c) and "__name__ == '__main__'" not in source(c))
        bad += [f'{nb} imports {m}' for m in imported(ast.parse(src), name) if m not in seen]; seen.append(name)
    assert not bad and len(seen) == len(modules())

def public(cell):
    "The functions and classes an exporting cell defines"
    return {n.name for n in ast.parse(source(cell)).body if isinstance(n, (ast.FunctionDef,ast.ClassDef)) and n.name[0] != '_'} if exports(cell) else set()

def asserts(cell): return not exports(cell) and re.search(r'\btest_\w+\(|^\s*assert\b|\bexpect_fail\(', source(cell), re.M)

def test_every_export_is_followed_by_an_assertion():
    "Within three code cells, one that asserts and names what was defined"
    bad = []
    for nb,cells in chapters().items():
        cells = code(cells)
        for i,c in enumerate(cells):
            names = public(c); near = [set(re.findall(r'\w+', source(d))) for d in cells[i+1:i+4] if asserts(d)]
            if names and not any(names & words for words in near): bad.append(f"{nb}: {', '.join(sorted(names))}")
    assert not bad, '\n'.join(bad)

@pytest.mark.parametrize('nb', notebooks())
def test_notebook_has_a_head_and_outputs(nb):
    cells = notebooks()[nb]; outputs = [o for c in code(cells) for o in c['outputs']]
    assert re.match(r'# \S.*\n+> \S', source(cells[0]))
    assert not [o for o in outputs if o['output_type'] == 'error']
    assert not re.search(r'/\S+\.py:\d+: \w*Warning', ''.join(t for o in outputs for t in o.get('text', []))), 'a warning shows where the package lies'
    assert outputs or nb not in chapters(), 'saved without its outputs'

def functions():
    "Every exported function: where it is, how many lines it takes, how many of them are its body"
    for p,src in modules().items():
        for n in ast.walk(ast.parse(src)):
            if isinstance(n, ast.FunctionDef): yield f'{p.stem}.{n.name}', n.end_lineno - n.lineno + 1, n.end_lineno - n.body[0].lineno + 1

def test_functions_are_short():
    fs = list(functions())
    assert not [f'{f}: {n} lines' for f,n,_ in fs if n > 25]
    assert sum(body <= 10 for *_,body in fs) >= .85*len(fs)

def test_lines_are_short():
    bad = [f'{p.name}:{n} has {len(l)} columns' for p,s in modules().items() for n,l in enumerate(s.splitlines(), 1) if len(l) > 160]
    assert not bad, '\n'.join(bad)

def test_no_name_has_two_homes():
    homes = defaultdict(list)
    for p,src in modules().items():
        if p.parent.name == 'cli': continue
        names = next(n.value for n in ast.parse(src).body if isinstance(n, ast.Assign) and n.targets[0].id == '__all__')
        for n in ast.literal_eval(names): homes[n].append(p.stem)
    assert not {n:h for n,h in homes.items() if len(h) > 1}

@pytest.mark.parametrize('word', ['import pickle','torch.load(','trust_remote_code=True'])
def test_nothing_loads_code(word): assert [p.name for p,s in modules().items() if word in s] == []

@pytest.mark.parametrize('word', ['html.escape','unescape','<span','<td'])
def test_only_display_makes_html(word): assert [p.name for p,s in modules().items() if word in s and p.stem != 'display'] == []
