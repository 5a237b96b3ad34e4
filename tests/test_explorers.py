"Views to play with: any text, controls that have names, pictures that fit, curves that cost little"
import html.parser, inspect, re, warnings

import ipywidgets, numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from lm_lifecycle import display
from lm_lifecycle.display import Grid, Live, Strip, control, explore, mask_explorer, panels_html, show_panels

NAMES = 'may not look','may look','leak','missing'
NAMED = 'Dropdown','BoundedIntText','Text','Checkbox' # Those that screen readers can name
ODD = ['<script>alert(1)</script>','" onerror="x','$\\frac{','\0\x1b[31m','\ud800','中文','𝔘','', 'x'*300]

class Tags(html.parser.HTMLParser):
    "Every tag with its attributes, and whether each is closed"
    def __init__(self, s): super().__init__(); self.tags,self.open = [],[]; self.feed(s); self.close()
    def handle_starttag(self, t, attrs): self.tags.append((t,dict(attrs))); t == 'img' or self.open.append(t)
    def handle_endtag(self, t): assert self.open.pop() == t

def some(T, seed=0):
    "Panels of T hostile tokens: a strip and two grids"
    g = torch.Generator().manual_seed(seed); toks = (ODD*(T//len(ODD) + 1))[:T]
    two = [Grid(f'<b>{n}', torch.randint(4, (T,T), generator=g), toks, toks) for n in 'ab']
    return [Strip('<i>', toks, torch.randint(4, (T,), generator=g)), *two]

@pytest.mark.parametrize('T', [1,2,9,30])
def test_hostile_text_stays_text(T):
    page = Tags(panels_html(some(T), NAMES)); tags = {t for t,_ in page.tags}
    assert not page.open and tags <= {'div','p','span','sup','small','table','caption','thead','tbody','tr','th','td'}
    assert not [a for _,attrs in page.tags for a in attrs if a.startswith('on')]

@pytest.mark.parametrize('T', [1,2,9,30])
def test_every_cell_says_its_kind_and_its_row_and_column(T):
    page = Tags(panels_html(some(T)[1:], NAMES)).tags; said = [a['aria-label'] for t,a in page if a.get('role') == 'img']
    assert len(said) == 2*T*T and set(said) <= set(NAMES)
    assert sum(a.get('scope') == 'row' for _,a in page) == 2*T and sum(a.get('scope') == 'col' for _,a in page) == 2*(T+1)

@pytest.mark.parametrize('sizes', [[(6,6)], [(12,12),(24,24)], [(8,8)]*4, [(8,8),(8,8),(16,16),(17,17)], [(40,40)], [(1,30)]])
def test_pictures_fit(sizes):
    "No warning of the layout, nothing outside the page, cells of one size"
    panels = [Grid(f'{B} by {T}', np.ones((B,T), int), ['who']*B, ['whom']*T) for B,T in sizes]
    with warnings.catch_warnings():
        warnings.simplefilter('error'); fig = show_panels(panels, NAMES, 'Do they fit?'); canvas = FigureCanvasAgg(fig); canvas.draw()
    boxes = [ax.get_tightbbox(canvas.get_renderer()) for ax in fig.axes]; w,h = fig.bbox.size
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= w and b.y1 <= h for b in boxes)
    side = [ax.get_position().width*w/T for ax,(_,T) in zip(fig.axes, sizes)]
    assert min(side) > 8 and max(side) < 1.1*min(side)

def leaves(w): return [l for c in w.children for l in leaves(c)] if hasattr(w, 'children') else [w]

@pytest.mark.parametrize('view', [
    explore(lambda **kw: some(3), NAMES, text='a b', seed=0, noise=['delete','mask'], rate={'15 %':.15}, itself=True),
    mask_explorer(lambda rate, seed, strategy: (['a'], [1])),
    display.prediction_watcher(['a'], [(0, [(0,'a',[('a',.5)])])])])
def test_controls_have_names(view):
    *controls,page = leaves(view)
    assert all(type(c).__name__ in NAMED and c.description for c in controls) and type(page) is ipywidgets.HTML

def test_nothing_that_ipywidgets_7_lacks():
    src = inspect.getsource(display)
    assert set(re.findall(r'\bwidgets\.(\w+)', src)) <= {'HTML','VBox','HBox','Widget','Dropdown','BoundedIntText','Text','Checkbox'}
    assert not re.search(r'\b(tooltip|titles|tabbable)=', src)

@settings(max_examples=40, deadline=None)
@given(st.text(max_size=30), st.integers(-9, 2**33))
def test_a_view_survives_its_reader(text, seed):
    "Any text, any number; an error is shown, and the next value works"
    def fn(text, seed): return [Strip(f'{seed}', text.split(), [1]*len(text.split()))] if len(text) % 3 else 1/0
    view = explore(fn, NAMES, text='', seed=0); view.text.value = text; view.seed.value = seed
    assert not Tags(view.html.value).open and 0 <= view.seed.value < 2**31
    view.text.value = 'it lives on'+'!'*(len(text)%2 + 1); view.text.value = 'a <b>'
    assert '&lt;b&gt;' in view.html.value

def test_choices_come_from_anything():
    assert control('n', range(2, 5)).options == (2,3,4) and control('rate', {'15 %':.15}).value == .15
    w = ipywidgets.Text('x'); assert control('n', w) is w

class Clocked(Live):
    "Time passes by our word alone; a drawing costs `cost` seconds"
    now,cost = 0.,.5
    def __init__(self, **kw): super().__init__('How far?', 'step', 'loss', clock=lambda: self.now, **kw)
    def still(self): self.now += self.cost; return super().still()

@pytest.mark.parametrize('share,step', [(.05,.01), (.05,1.), (.2,.03)])
def test_live_curves_take_no_more_than_their_share(share, step):
    live = Clocked(share=share); start,n = live.now,live.drawn
    for i in range(int(60/step)): live.now += step; live.add('loss', i, 1.)
    spent = live.cost*(live.drawn - n)
    assert live.drawn - n >= 3 and spent <= share*(live.now - start) + live.cost and len(live.series['loss'][0]) == int(60/step)

def test_live_curves_are_drawn_once_a_second_at_most_when_drawing_is_free():
    live = Clocked(); live.cost = 0.; n = live.drawn
    for i in range(500): live.now += .01; live.add('loss', i, torch.tensor(float(i)))
    assert 4 <= live.drawn - n <= 5

def test_live_curves_tell_their_last_numbers():
    live = Live('How <far>?', 'step', 'loss'); assert 'data:image/png' in live.value
    for i,v in enumerate([3.,2.,float('nan')]): live.add('$train$', i, v); live.add('valid', i, v + 1)
    live.redraw(); (tag,attrs), = Tags(live.value).tags
    assert tag == 'img' and attrs['alt'] == 'How <far>? $train$: nan at 2; valid: nan at 2'
    assert [len(l.get_xdata()) for l in live.still().axes[0].lines] == [3,3]
