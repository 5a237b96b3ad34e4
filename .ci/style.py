"The house style in figures: prints a table of all notebooks, and writes it into CONTRIBUTING.md; `--check` compares instead."
import ast, json, re, sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent; PAGE = ROOT/'CONTRIBUTING.md'; MARKS = '<!-- style -->\n', '<!-- /style -->'
HEAD = ['notebook','cells code/md','lines of a code cell: median','90 %','most','touch prose','test','show something','functions','≤ 10 lines','longest']

def source(c): return ''.join(c['source'])
def body(c): return [l for l in source(c).splitlines() if l.strip() and not re.match(r'#\|', l)]
def lines(f): return f.end_lineno - f.lineno + 1
def share(xs): xs = list(xs); return f'{sum(xs)/len(xs):.0%}' if xs else '–'

def facts(cells): # Lines of each code cell; whether it touches prose, tests, shows something; lines of each function
    code = [(i,c) for i,c in enumerate(cells) if c['cell_type'] == 'code' and body(c) and not re.search(r'(?m)^#\|\s*(hide|default_exp)', source(c))]
    touch = [any(0 <= j < len(cells) and cells[j]['cell_type'] == 'markdown' for j in (i-1,i+1)) for i,_ in code]
    lesson = [c for _,c in code if not re.search(r'(?m)^#\|\s*exports?\b', source(c))]
    test = [bool(re.search(r'\btest_\w+\(|^\s*assert\b|\bexpect_fail\(', source(c), re.M)) for c in lesson]
    functions = [lines(n) for _,c in code for n in ast.walk(ast.parse(re.sub(r'(?m)^( *)[%!].*$', r'\1pass', source(c)))) if isinstance(n, ast.FunctionDef)]
    return [len(body(c)) for _,c in code], touch, test, [bool(c['outputs']) for c in lesson], functions

def row(name, cells, found):
    n,touch,test,shown,fs = found; md = sum(c['cell_type'] == 'markdown' for c in cells); n = sorted(n)
    return [name, f'{len(n)}/{md}', f'{median(n):g}', n[int(.9*(len(n)-1))], n[-1], share(touch), share(test), share(shown),
            len(fs), share(f <= 10 for f in fs), max(fs, default='–')]

def table(): # Markdown
    books = {f.stem: json.loads(f.read_text(encoding='utf-8'))['cells'] for f in sorted((ROOT/'nbs').glob('*.ipynb'))}
    found = {n: facts(cs) for n,cs in books.items()}; every = [sum(parts, []) for parts in zip(*found.values())]
    rows = [row(n, books[n], f) for n,f in found.items()] + [row('**all**', sum(books.values(), []), every)]
    return ''.join('| '+' | '.join(map(str, r))+' |\n' for r in (HEAD, ['---']*len(HEAD), *rows))

old = PAGE.read_text(encoding='utf-8'); before,rest = old.split(MARKS[0]); after = rest.split(MARKS[1])[1]
new = before + MARKS[0] + table() + MARKS[1] + after
if '--check' in sys.argv: sys.exit('CONTRIBUTING.md: the table of figures is not up to date; run python .ci/style.py' if old != new else 0)
PAGE.write_text(new, encoding='utf-8'); print(table(), end='')
