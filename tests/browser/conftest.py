"One JupyterLab and one Chromium for all tests; skipped, with the reason, where either is missing"
import importlib.util, json, os, secrets, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path

import pytest
from conftest import ROOT

CHROMIUM = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, ('chromium','chromium-browser','google-chrome'))), None)
SETTINGS = {'@jupyterlab/notebook-extension/tracker.jupyterlab-settings': '{"windowingMode": "none"}', # All cells are in the page
            '@jupyterlab/apputils-extension/notification.jupyterlab-settings': '{"fetchNews": "false", "checkForUpdates": false}'}

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

LIVE = 'application/vnd.jupyter.widget-view+json'
SHORTER = {"scale = 'page'; out": "scale = 'short'; SCALES[scale] = Scale(SIZES['page'], 100, 10, B=32, ks=(4,), seeds=2, test=40); out",
           "docs('test')][:400]": "docs('test')][:60]", 'size, 60, B=16': 'size, 20, B=16'} # The chapters with explorers
def cut(f):
    "The notebook, with shorter training, up to three cells after its last explorer: what is drawn during training is there by then"
    text = f.read_text(encoding='utf-8')
    for long,short in SHORTER.items(): text = text.replace(long, short)
    nb = json.loads(text)
    last = [i for i,c in enumerate(nb['cells']) for o in c.get('outputs', []) if LIVE in o.get('data', {})]
    return json.dumps(nb | dict(cells=nb['cells'][:last[-1] + 4 if last else None]))

@pytest.fixture(scope='package')
def lab(tmp_path_factory):
    "Address of a server that shows copies of the notebooks, without what comes after their explorers"
    pytest.importorskip('jupyterlab', reason='no JupyterLab: pip install lm_lifecycle[browser]')
    home,port,token = tmp_path_factory.mktemp('lab'), free_port(), secrets.token_hex(); shutil.copytree(ROOT/'nbs', home/'nbs')
    shutil.copytree(ROOT/'results', home/'results')
    for f in (ROOT/'nbs').glob('*.ipynb'): (home/'nbs'/f.name).write_text(cut(f), encoding='utf-8')
    for f,s in SETTINGS.items(): (home/'settings'/f).parent.mkdir(parents=True, exist_ok=True); (home/'settings'/f).write_text(s)
    env = {k:v for k,v in os.environ.items() if k != 'MPLBACKEND'} | dict(JUPYTERLAB_SETTINGS_DIR=str(home/'settings'), JUPYTER_CONFIG_DIR=str(home/'config'),
        PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    args = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', f'--IdentityProvider.token={token}',
            f'--ServerApp.root_dir={home}', '--LabApp.expose_app_in_browser=True']
    with open(home/'server.log', 'w') as log: server = subprocess.Popen(args, env=env, stdout=log, stderr=log)
    for _ in range(300):
        try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api?token={token}'); break
        except OSError: time.sleep(.1)
    else: server.kill(); pytest.fail((home/'server.log').read_text())
    yield lambda name: f'http://127.0.0.1:{port}/doc/tree/nbs/{name}.ipynb?token={token}'
    server.terminate(); server.wait(20)

SITE = 'mkdocs','mkdocs_jupyter','material','latex2mathml'
@pytest.fixture(scope='package', autouse=True)
def building(request):
    "The site in the making, as `make docs` makes it, while notebooks run; None where it is not asked for or cannot be"
    if not any(i.path.name == 'test_site.py' for i in request.session.items) or not all(map(importlib.util.find_spec, SITE)): yield; return
    steps = '.ci/site.py', '-m mkdocs build -q -f build/mkdocs.yml', '.ci/site.py --check'
    yield (p := subprocess.Popen(' && '.join(f'"{sys.executable}" {s}' for s in steps), shell=True, cwd=ROOT, stdout=-1, stderr=-2, text=True,
        env=dict(os.environ, NO_MKDOCS_2_WARNING='1')))
    p.wait()

@pytest.fixture(scope='package')
def browser():
    play = pytest.importorskip('playwright.sync_api', reason='no Playwright: pip install lm_lifecycle[browser]')
    if not CHROMIUM: pytest.skip('no Chromium: apt-get install chromium, or set $CHROMIUM to one')
    with play.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox']); yield b; b.close()

HERE = 'window.jupyterapp?.shell.currentWidget?.context'
RUN = '''async () => {
  const app = window.jupyterapp, nb = app.shell.currentWidget
  await nb.context.ready; await nb.sessionContext.ready
  while (nb.sessionContext.session?.kernel?.status != 'idle') await new Promise(r => setTimeout(r, 50))
  await app.commands.execute('notebook:run-all-cells')
  return nb.content.widgets.flatMap(c => c.model.type != 'code' ? [] : c.model.outputs.toJSON().filter(o => o.output_type == 'error')
    .map(o => `${o.ename}: ${o.evalue}`))
}'''

@pytest.fixture(scope='package')
def open_nb(lab, browser):
    "Name → a page with the notebook, which begins to run from the top in a new kernel; `ran` waits for its end"
    def f(name):
        page = browser.new_context(viewport=dict(width=1400, height=1000)).new_page(); said = page.said = []
        page.on('console', lambda m: said.append(m.text) if m.type == 'error' else None)
        page.set_default_timeout(120_000); page.goto(lab(name)); page.wait_for_function(HERE) # A slow start may load the page twice
        page.evaluate(f'() => {{ window.errors = ({RUN})() }}')
        return page
    return f

def ran(page):
    assert not page.evaluate('window.errors') and not [s for s in page.said if 'comm' in s]
    return page
