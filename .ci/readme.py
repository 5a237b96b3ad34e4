"README.md from nbs/index.ipynb: markdown as it is, code fenced, outputs below. `--check` compares instead of writing."
import base64, json, re, sys
from pathlib import Path

root = Path(__file__).parent.parent
images = Path('nbs/images')

def output(o, n):
    "An output as markdown, and the picture in it"
    d = o.get('data', {}); text = lambda k: ''.join(d[k]).rstrip()
    if 'text/markdown' in d: return text('text/markdown'), None
    if 'image/png' in d: return f'![{text("text/plain")}]({images/f"index-{n}.png"})', base64.b64decode(text('image/png'))
    return (f"```text\n{text('text/plain')}\n```", None) if 'text/plain' in d else ('', None)

def render(nb):
    "Markdown and pictures of a notebook"
    parts,pictures = [], {}
    for c in nb['cells']:
        src = ''.join(c['source']); flags = set(re.findall(r'(?m)^#\| *(.+)$', src)); code = re.sub(r'(?m)^#\|.*\n?', '', src).strip()
        if c['cell_type'] == 'markdown': parts.append(re.sub(r'\]\((\d\w+\.ipynb)', r'](nbs/\1', src)); continue
        if flags & {'hide'} or not code: continue
        if 'echo: false' not in flags: parts.append(f'```python\n{code}\n```')
        for o in c['outputs']:
            md,png = output(o, len(pictures) + 1); parts.append(md)
            if png: pictures[root/images/f'index-{len(pictures) + 1}.png'] = png
    return '\n\n'.join(p for p in parts if p)+'\n', pictures

text,pictures = render(json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8')))
files = {root/'README.md': text.encode(), **pictures}
if '--check' in sys.argv:
    off = [str(f.relative_to(root)) for f,b in files.items() if not f.exists() or f.read_bytes() != b]
    sys.exit(f"not as nbs/index.ipynb says: {', '.join(off)}; run make readme" if off else 0)
for f,b in files.items(): f.parent.mkdir(parents=True, exist_ok=True); f.write_bytes(b)
