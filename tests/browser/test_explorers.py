"In a real browser: every control of every explorer, moved by the keyboard, changes its view; and axe has nothing serious to say"
import json, re

import pytest
from browser.conftest import LIVE, ran
from conftest import ROOT

def shown(f): return [''.join(o['data']['text/plain']) for c in json.loads(f.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])
                      if LIVE in o.get('data', {})]
EXPLORERS = {f.stem: names for f in sorted((ROOT/'nbs').glob('*.ipynb')) if (names := shown(f))}
VIEW = '.jp-OutputArea-output .widget-vbox'

def move(control):
    "By keys alone, to another value; in a list by End or Home, for the arrows belong to JupyterLab's notebook"
    box = control.locator('select, input').first; box.focus(); kind = box.get_attribute('type')
    if control.locator('select').count():
        was = box.input_value(); box.press('End')
        if box.input_value() == was: box.press('Home')
        return
    if kind == 'checkbox': box.press('Space'); return
    if kind == 'number': box.press('ArrowUp')
    else: box.press('Home'); box.type('so ')
    box.press('Enter')

@pytest.fixture(scope='module')
def pages(request, open_nb):
    "Their pages, one after the other; while one is read the next already runs"
    names = [i.callspec.params['name'] for i in request.session.items if i.path == request.path]
    def each():
        now = open_nb(names[0])
        for n in names[1:]: after = open_nb(n); yield now; now = after
        yield now
    return each()

@pytest.fixture
def page(pages):
    p = next(pages); yield ran(p)
    p.context.close()

@pytest.mark.parametrize('name', [*reversed(EXPLORERS)]) # The longest first
def test_explorers_follow_the_keyboard(name, page):
    axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='no axe: pip install lm_lifecycle[browser]').Axe()
    views = page.locator(VIEW); moved = 0
    for v in views.all():
        html = v.locator('.widget-html-content').last; controls = v.locator('.widget-hbox > .jupyter-widgets').all(); assert controls
        for c in controls:
            before = html.inner_html(); move(c); moved += 1
            page.wait_for_function('([e, was]) => e.innerHTML != was', arg=[html.element_handle(), before], timeout=20_000)
            assert 'role="alert"' not in html.inner_html()
    asked = [re.findall(r'live in Jupyter: (.+?);', s)[0].split(', ') for s in EXPLORERS[name]]
    assert moved == sum(len(a) for a in asked if '?' not in a[0]) and views.count() == sum('?' not in a[0] for a in asked)
    assert page.locator('.jp-OutputArea-output .widget-html-content img[alt]').count() >= sum('?' in a[0] for a in asked)
    found = axe.run(page, context=dict(include=[['.jp-OutputArea-output']])).response['violations']
    assert [(v['id'], v['nodes'][0]['html'][:200]) for v in found if v['impact'] in ('serious','critical')] == []
