"The built site in a real browser, with nothing to reach but itself: no request elsewhere, no error, every picture drawn and named"
import functools, http.server, threading

import pytest
from conftest import ROOT

SITE = ROOT/'build/site'

@pytest.fixture(scope='module')
def site(building):
    "Address of the built site"
    if not building: pytest.skip('no mkdocs: pip install lm_lifecycle[docs]')
    said,_ = building.communicate(); assert building.returncode == 0, said
    quiet = type('Quiet', (http.server.SimpleHTTPRequestHandler,), dict(log_message=lambda *a: None))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()

@pytest.fixture
def tabs(browser):
    "Two pages, each with a process of its own"
    contexts = [browser.new_context() for _ in range(2)]; yield [c.new_page() for c in contexts]
    for c in contexts: c.close()

NOTHING = dict(config=dict(lang=['en'], separator=' ', pipeline=[], fields={}), docs=[])
SEEN = """() => [[...document.images].filter(i => !i.alt || !i.complete || !i.naturalWidth).map(i => i.outerHTML.slice(0, 120)),
                performance.getEntriesByType('resource').map(r => r.name)]"""
def test_every_page_stands_alone(site, tabs):
    said = []
    for t in tabs:
        t.on('console', lambda m: m.type == 'error' and said.append(f'{m.page.url}: {m.text}'))
        t.route('**/search_index.json', lambda r: r.fulfill(json=NOTHING)) # Or each page would index the whole book again
    pages = sorted(f'{site}/{p.relative_to(SITE)}' for p in SITE.rglob('*.html') if p.name != '404.html'); assert len(pages) > 50
    for i in range(0, len(pages), 2):
        opened = list(zip(tabs, pages[i:i+2]))
        for tab,url in opened: tab.goto(url, wait_until='commit')
        for tab,url in opened:
            tab.wait_for_load_state(); nameless,asked = tab.evaluate(SEEN)
            assert not nameless and asked and all(u.startswith((site, 'data:')) for u in asked), url
    assert not said

def test_search_finds_a_chapter(site, tabs):
    page = tabs[0]; page.goto(f'{site}/index.html'); page.keyboard.press('/'); page.keyboard.type('denoising')
    page.locator('.md-search-result__item').first.wait_for(); assert page.locator('.md-search-result__item a[href*="04_autoencoding"]').count()
