"The book as mkdocs reads it: build/docs, from the executed notebooks and the docments. `--check`: no dead link in build/site."
import importlib, json, re, shutil, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

ROOT = Path(__file__).parent.parent; DOCS,SITE = ROOT/'build/docs', ROOT/'build/site'
CSS = 'notebook.css'
HEAVY = 'application/vnd.jupyter.widget-view+json' # Needs a kernel; a still picture follows each
SCRIPT = dict(zip('ABCDEFGHIJKLMNOPQRSTUVWXYZ', '𝒜ℬ𝒞𝒟ℰℱ𝒢ℋℐ𝒥𝒦ℒℳ𝒩𝒪𝒫𝒬ℛ𝒮𝒯𝒰𝒱𝒲𝒳𝒴𝒵')) # Browsers have no `mathvariant`

def mathml(m): # A match of `$$…$$` or `$…$`
    "TeX as MathML, which browsers draw by themselves; spelled so that Markdown leaves it alone"
    from latex2mathml.converter import convert
    tex = re.sub(r'\\mathcal\s*\{?([A-Z])\}?', lambda l: SCRIPT[l[1]], m[1] or m[2])
    out = convert(tex, display='block' if m[1] else 'inline'); text = re.sub('<[^>]*>', '', out)
    if '\\' in text: raise SystemExit(f'cannot be drawn as MathML: {m[0]}')
    return ' '.join(re.sub(r'[*_|`~]', lambda c: f'&#{ord(c[0])};', out).split('\n'))

def prose(s): # A markdown cell
    "Formulas drawn, code left alone, links from the top of the tree made links inside the book"
    s = re.sub(r'(?m)^#+ .*$', lambda m: re.sub('[$`]', '', m[0]), s) # A heading is an address as well
    parts = re.split(r'(```.*?```|`[^`]*`)', s, flags=re.S)
    s = ''.join(p if i%2 else re.sub(r'\$\$(.+?)\$\$|\$([^$]+?)\$', mathml, p, flags=re.S) for i,p in enumerate(parts))
    s = re.sub(r'\[!\[Open In Colab\]\([^)]*\)\]', '[Open in Colab]', s) # Its picture would be fetched from elsewhere
    return re.sub(r'\]\((?:nbs/)?(\w+)\.ipynb', r'](\1.html', s)

def picture(o): # An output: a picture carries its title as its text
    d = o.get('data', {}); d.pop(HEAVY, None)
    if 'image/png' in d:
        alt = ''.join(d['text/plain']).replace('"', '&quot;').replace('<', '&lt;'); data = ''.join(d.pop('image/png')).strip()
        d['text/html'] = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
    if 'text/markdown' in d: d['text/markdown'] = prose(''.join(d['text/markdown']))
    return o

def page(nb, number): # The notebook without what is only for nbdev, its number before its title
    cells = []
    for c in nb['cells']:
        src = ''.join(c['source']); flags = re.findall(r'(?m)^#\|\s*(.+?)\s*$', src)
        if any(f == 'hide' or f.startswith('default_exp') for f in flags): continue
        if c['cell_type'] == 'markdown': c['source'] = prose(src)
        else:
            c['source'] = re.sub(r'(?m)^#\|.*\n?', '', src).strip(); c['outputs'] = [picture(o) for o in c['outputs']]
            if 'echo: false' in flags: c['metadata']['tags'] = ['no-input']
        cells.append(c)
    cells[0]['source'] = re.sub('^# ', f'# {number} ', cells[0]['source']) if number else cells[0]['source']
    return dict(nb, cells=cells)

def reference(name): # Markdown: what a module exports, as its docments say
    from nbdev.showdoc import show_doc
    m = importlib.import_module(f'lm_lifecycle.{name}'); own = [getattr(m, n) for n in m.__all__]
    own = [o for o in own if callable(o) and getattr(o, '__module__', '') == m.__name__ and o.__name__ != '<lambda>']
    said = (re.sub(r'^---\n+|\[source\]\(.*\n|\n\*\w+\(.*\)\*$', '', show_doc(o)._repr_markdown_().replace('\n### ', '\n## ').strip()) for o in own)
    return '\n\n'.join([f'# lm_lifecycle.{name}', m.__doc__ or '', *said])

def make():
    shutil.rmtree(DOCS, ignore_errors=True); (DOCS/'reference').mkdir(parents=True); names,nav = [],[]
    for f in sorted((ROOT/'nbs').glob('*.ipynb')):
        text = f.read_text(encoding='utf-8'); number = f.stem.split('_')[0].lstrip('0') or '0' if f.stem != 'index' else ''
        (DOCS/f.name).write_text(json.dumps(page(json.loads(text), number)), encoding='utf-8')
        if number: nav.append(f.name)
        names += re.findall(r'"#\|\s*default_exp (\S+?)(?:\\n)?"', text)
    for n in names: (DOCS/f'reference/{n}.md').write_text(reference(n), encoding='utf-8')
    shutil.copy(ROOT/'.ci/site.css', DOCS); shutil.copy(ROOT/'CHANGELOG.md', DOCS/'log.md')
    nav = [{'The map': 'index.ipynb'}, {'Chapters': nav}, {'Reference': [{n: f'reference/{n}.md'} for n in names]}, {'Log': 'log.md'}]
    (ROOT/'build/mkdocs.yml').write_text('INHERIT: ../mkdocs.yml\n'+f'nav: {json.dumps(nav, ensure_ascii=False)}\n', encoding='utf-8')

def on_page_content(html, page, config, files): # mkdocs asks, page by page
    "The style of notebooks, half a megabyte, is written once, not into each of them"
    from mkdocs.structure.files import File
    def share(m):
        if len(m[1]) < 100_000: return m[0]
        css = re.sub(r'[^{}]+\{[^{}]*\}', lambda r: '' if '.bp3-' in r[0] else r[0], m[1]) # A library for applications: three quarters of it, none in a page
        if not files.get_file_from_path(CSS): files.append(File.generated(config, CSS, content=css))
        return f'<link rel="stylesheet" href="{CSS}">'
    return re.sub('(?s)<style[^>]*>(.*?)</style>', share, html)

def on_post_build(config): # mkdocs asks, at the end
    "The search goes without prompts, and with code once: for its copy button a cell of code is in the page twice"
    f = SITE/'search/search_index.json'; index = json.loads(f.read_text(encoding='utf-8'))
    for d in index['docs']: d['text'] = re.sub(r'(?s)Copied!\s*<pre>.*?</pre>|\b(In|Out)\s*\[\s\]:', '', d['text'])
    f.write_text(json.dumps(index, ensure_ascii=False), encoding='utf-8')

class Links(HTMLParser):
    "What a page refers to, what can be referred to in it, and what it would fetch from elsewhere"
    def __init__(self, f): super().__init__(); self.to,self.ids,self.fetched = [],{''},[]; self.feed(f.read_text(encoding='utf-8'))
    def handle_starttag(self, tag, attrs):
        a = dict(attrs); self.ids |= {a.get('id'), a.get('name')}
        if tag == 'a' and 'href' in a: self.to.append(a['href'])
        if (url := a.get('src') or (a.get('href') if tag == 'link' and a.get('rel') != 'canonical' else None)) and not url.startswith('data:'):
            (self.fetched if re.match('(https?:)?//', url) else self.to).append(url)

def check():
    pages = {f.resolve(): Links(f) for f in SITE.rglob('*.html')}; bad = []
    for f,p in pages.items():
        bad += [f'{f.relative_to(SITE)} fetches {u}' for u in p.fetched]
        for url in p.to:
            path,at = urldefrag(url)
            if re.match(r'[a-z]+:|//', path): continue
            to = ((SITE/path.lstrip('/')) if path.startswith('/') else f.parent/unquote(path)).resolve() if path else f
            to = to/'index.html' if to.is_dir() else to
            if not to.exists() or to in pages and unquote(at) not in pages[to].ids: bad.append(f'{f.relative_to(SITE)}: {url}')
    if not pages: sys.exit(f'{SITE}: no pages')
    if bad: sys.exit('\n'.join(['dead links:', *sorted(set(bad))]))
    print(f'{len(pages)} pages, {sum(len(p.to) for p in pages.values()):,} links inside the book, none dead, nothing fetched from elsewhere')

if __name__ == '__main__': check() if '--check' in sys.argv else make()
