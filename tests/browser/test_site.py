"The built site in a real browser, with nothing to reach but itself: no request elsewhere, no error, every picture drawn and named"
import functools, http.server, os, subprocess, sys, threading

import pytest
from conftest import ROOT

SITE = ROOT/'build/site'

@pytest.fixture(scope='module')
def site():
    "Address of the site, built as `make docs` does"
    for m in ('mkdocs','mkdocs_jupyter','material','latex2mathml'): pytest.importorskip(m, reason='no mkdocs: pip install lm_lifecycle[docs]')
    def run(*words): subprocess.run([sys.executable, *words], cwd=ROOT, check=True, env=dict(os.environ, NO_MKDOCS_2_WARNING='1'))
    run('.ci/site.py'); run('-m', 'mkdocs', 'build', '-q', '-f', 'build/mkdocs.yml'); run('.ci/site.py', '--check')
    quiet = type('Quiet', (http.server.SimpleHTTPRequestHandler,), dict(log_message=lambda *a: None))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()

@pytest.fixture
def page(browser):
    context = browser.new_context(); yield context.new_page(); context.close()

def test_every_page_stands_alone(site, page):
    said,asked = [],[]
    page.on('console', lambda m: m.type == 'error' and said.append(f'{page.url}: {m.text}')); page.on('request', lambda r: asked.append(r.url))
    pages = sorted(p.relative_to(SITE) for p in SITE.rglob('*.html') if p.name != '404.html'); assert len(pages) > 50
    for p in pages:
        page.goto(f'{site}/{p}')
        bad = page.evaluate("[...document.images].filter(i => !i.alt || !i.complete || !i.naturalWidth).map(i => i.outerHTML.slice(0, 120))")
        assert not bad, p
    assert not said and not [u for u in asked if not u.startswith((site, 'data:'))]

def test_search_finds_a_chapter(site, page):
    page.goto(f'{site}/index.html'); page.keyboard.press('/'); page.keyboard.type('denoising')
    page.locator('.md-search-result__item').first.wait_for(); assert page.locator('.md-search-result__item a[href*="04_autoencoding"]').count()
