"Security: what strangers made is looked at, not obeyed; what we write obeys nobody else; and nothing calls home"
import ast, csv, html, inspect, io, json, os, pickle, re, shutil, struct, sys, warnings
from configparser import ConfigParser
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np, pytest, torch
from battery.sandbox import COMMANDS, codes, executed, notebooks, offline, walls
from battery.warm import LAST, go, words
from conftest import ROOT
from hypothesis import given, settings, strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from packaging.requirements import Requirement
from packaging.version import Version
from safetensors import safe_open
from safetensors.torch import save_file
from test_explorers import Tags
from test_house import modules

from lm_lifecycle import display, life
from lm_lifecycle.cli.main import COMMANDS as ALL
from lm_lifecycle.display import csv_cell, plain, write_row
from lm_lifecycle.network import Size, build, label_names
from lm_lifecycle.pretraining import save_model
from lm_lifecycle.text import READERS
from lm_lifecycle.tokens import Vocab
from lm_lifecycle.training import seal, sha256

WHAT = dict(S1='malicious pickles as weights, optimizer, scheduler, RNG, arguments', S2='malicious custom-state file: no pickle anywhere',
            S3='dataset script, trust_remote_code, .pkl', S4='markup as text, token, label, column name', S5='formulas, CJK, NUL in plots',
            S6='formulas in CSV we write', S7='crafted safetensors headers', S8="paths out of a folder, in a checkpoint's own JSON",
            S9='every notebook and command without a network', S10='lowest declared versions')

# What is dangerous, and how one would know

class Evil:
    "Whoever unpickles it makes a file"
    def __init__(self, marker): self.marker = marker
    def __reduce__(self): return open, (str(self.marker), 'w')

def code_for(marker): return f'open({str(marker)!r}, "w")\n'

@pytest.fixture
def marker(tmp_path):
    "A file that must not come to be"
    f = tmp_path/'marker'; yield f; assert not f.exists(), 'it was run'

@cache
def small(kind, n): return build(kind, Size(1, 64, n, 64), Vocab(n, 0, 2, 3, 4, (0,1,2,3,4)), **(label_names(['=1+1','-x','@a']) if kind == 'cls' else {}))

@pytest.fixture
def model(tmp_path, tok):
    "A small whole model; pre-trained, or a classifier whose labels are formulas"
    def f(kind='mlm', name='model'): save_model(small(kind, len(tok)), tok, tmp_path/name, kind, '', '', {}); return tmp_path/name
    return f

def asks(work, folder, out): # Command → its words, for every command that opens a model
    m,short = ['--model-name-or-path', folder], ['--max-seq-length', 32]
    text,rows = work/'text.txt', work/'labels.jsonl'; to = ['--output-dir', out, *short]; (blank := out.parent/'blank.txt').write_text('a [MASK]\n')
    return dict(
        train=['--do-train','--mlm','--train-file', work/'text.tensor','--max-steps', 1, *m, *to], pretrain=['--text', text,'--max-steps', 1, *m, *to],
        finetune=['--task','text-classification','--train-file', rows,'--num-train-epochs', .1, *m, *to], evaluate=['--file', text, *m, *short],
        predict=['--task','fill-mask','--input', blank, *m, *short], generate=['--prompt','a', *m], compare=[folder,'--labels', rows], inspect=[folder],
        tokenize=['--input', text,'--tokenizer-name', folder], preprocess=['--input', text,'--output', out,'--tokenizer-name', folder, *short])

OPEN_MODELS,OPEN_TOKENIZERS = ['train','pretrain','finetune','evaluate','predict','generate','compare','inspect'], ['tokenize','preprocess']

def refused(answer, *names):
    code,_,err = answer
    assert code == 6 and len(err.splitlines()) == 1 and all(str(n) in err for n in names), answer

def ask(cli, work, tmp_path, command, folder): return cli(command, *asks(work, folder, tmp_path/'out')[command])

def test_S1_the_lists_are_complete(): assert {*OPEN_MODELS, *OPEN_TOKENIZERS, 'life'} == {*ALL}

# S1

def only_pickled(d, marker, raw):
    (d/'model.safetensors').unlink(); f = d/'pytorch_model.bin'
    if raw: f.write_bytes(pickle.dumps(Evil(marker)))
    else: torch.save({'w': Evil(marker)}, f)
    return f

def test_S1_the_trap_works(tmp_path):
    "Else none of these tests means anything"
    f = tmp_path/'x.pkl'; f.write_bytes(pickle.dumps(Evil(tmp_path/'yes'))); pickle.loads(f.read_bytes()).close(); assert (tmp_path/'yes').exists()

@pytest.mark.parametrize('command', OPEN_MODELS)
@pytest.mark.parametrize('raw', [True,False], ids=['pickle','torch'])
def test_S1_pickled_weights(cli, work, tmp_path, model, marker, command, raw):
    f = only_pickled(model(), marker, raw); refused(ask(cli, work, tmp_path, command, f.parent), f)

SIDE = 'optimizer.pt','scheduler.pt','rng_state.pth','training_args.bin','scaler.pt','pytorch_model.bin','custom_checkpoint_0.pkl','random_states_0.pkl'

def strew(d, marker):
    for n in SIDE: (d/n).write_bytes(pickle.dumps(Evil(marker)))

@pytest.mark.parametrize('command', ['finetune','predict','evaluate','inspect'])
def test_S1_pickles_that_nobody_needs(cli, work, tmp_path, model, marker, command):
    "What `Trainer` leaves beside its weights is not touched"
    strew(d := model(), marker); code,_,err = ask(cli, work, tmp_path, command, d); assert code == 0, err

# S2

def no_pickle(): # From here on, in this process
    sys.addaudithook(lambda event, args: event == 'pickle.find_class' and os._exit(77))

def test_S2_resumed_beside_custom_state(work, whole, tmp_path, marker):
    "As `accelerate` would load it: our own checkpoint holds pickles now, and the run goes on without opening any"
    out = shutil.copytree(whole('mlm'), tmp_path/'run'); shutil.rmtree(out/LAST); (out/'model.safetensors').unlink()
    for d in [out, *(out/'checkpoints').iterdir()]: strew(d, marker)
    code,said = go(*words(work, 'mlm', out), first=(no_pickle,)).wait(); assert code == 0, said

def test_S2_only_safetensors_and_json_are_written(whole):
    kinds = {p.suffix for p in whole('cls').rglob('*') if p.is_file() and p.name not in ('.lock','.pid')}
    assert kinds == {'.safetensors','.json','.md'}

def called(tree): # Dotted names of what is called or imported
    for n in ast.walk(tree):
        if isinstance(n, ast.Call): yield ast.unparse(n.func)
        if isinstance(n, (ast.Import,ast.ImportFrom)): yield from [a.name for a in n.names]; yield getattr(n, 'module', '') or ''

LOADERS = re.compile(r'pickle|dill\b|shelve|joblib|marshal|torch\.(load|save)$|np\.load$|read_pickle|^(eval|exec|compile|__import__)$')

def test_S2_nothing_in_the_package_pickles_or_evaluates():
    assert [(p.name, c) for p,s in modules().items() for c in called(ast.parse(s)) if LOADERS.search(c)] == []

# S3

def wants_code(d, marker, where):
    (d/'modeling_x.py').write_text(code_for(marker)+'class X: pass\n'); f = d/('tokenizer_config.json' if where == 'tokenizer' else 'config.json')
    asks = dict(config=dict(auto_map=dict(AutoConfig='modeling_x.X', AutoModel='modeling_x.X'), model_type='x'),
                tokenizer=dict(auto_map=dict(AutoTokenizer=['modeling_x.X', None])), kernel=dict(attn_implementation='somebody/kernel'))
    f.write_text(json.dumps(json.loads(f.read_text()) | asks[where])); return f

@pytest.mark.parametrize('command', OPEN_MODELS + OPEN_TOKENIZERS)
@pytest.mark.parametrize('where', ['config','tokenizer','kernel'])
def test_S3_code_in_a_model(cli, work, tmp_path, model, marker, command, where):
    f = wants_code(model(), marker, where); refused(ask(cli, work, tmp_path, command, f.parent), f, 'code')

@pytest.mark.parametrize('name', ['x.pkl','x.bin','x.py'])
@pytest.mark.parametrize('folder', [False,True])
def test_S3_data_that_run(cli, tmp_path, model, marker, name, folder):
    (d := tmp_path/'data').mkdir(); f = d/name; given = d if folder else f
    f.write_bytes(code_for(marker).encode() if name == 'x.py' else pickle.dumps(Evil(marker)))
    refused(cli('preprocess','--input', given,'--output', tmp_path/'o.tensor'), name)
    refused(cli('finetune','--task','text-classification','--train-file', given,'--model-name-or-path', model(),'--output-dir', tmp_path/'o'), name)

def test_S3_a_loading_script(cli, tmp_path, marker):
    "As `load_dataset` used to run it: a folder with a script of its own name"
    (d := tmp_path/'mine').mkdir(); (d/'mine.py').write_text(code_for(marker))
    refused(cli('preprocess','--input', d,'--output', tmp_path/'o.tensor'), 'mine.py')

def test_S3_nobody_is_trusted():
    "Every `from_pretrained` is told so, but for those that open what the program itself has just written"
    bad = [f'{p.name}: {ast.unparse(n)[:80]}' for p,s in modules().items() for n in ast.walk(ast.parse(s)) if isinstance(n, ast.Call)
           and ast.unparse(n.func).endswith('.from_pretrained') and 'trust_remote_code=False' not in ast.unparse(n)]
    assert bad == []

# S4

EVIL = '<script>alert(1)</script>', '" onerror="x', "' onload='x", '</td></table><img src=x onerror=x>', '<!--', '&lt;b&gt;'
FINE = set('div p span sup small table caption thead tbody tr th td b img blockquote h1 h2 body main html head title style'.split())

def shown(e): # Name → HTML with `e` wherever text can be
    strip,grid = display.Strip(e, [e,e], [0,1]), display.Grid(e, [[0,1],[1,0]], [e,e], [e,e], (e,e)); frames = [(0, [(0, e, [(e,.5),('',.1)])])]; kinds = (e,e)
    live = display.Live(e, e, e); live.add(e, 0, 1.); live.redraw()
    return dict(escape=display.escape(e), table_html=display.table_html([[e,e,1]], [e,e,e], e), token_html=display.token_html(e, 1, kinds),
        key_html=display.key_html([0,1], kinds, e), strip_html=display.strip_html([e,e], [0,1], kinds), cell_html=display.cell_html(1, kinds),
        scroll=display.scroll(e, e), grid_html=display.grid_html([[0,1]], kinds, [e], [e,e], e, (e,e)), panels_html=display.panels_html([strip,grid], kinds),
        guesses_html=display.guesses_html(e, [(e,.5)]), predictions_html=display.predictions_html([e], frames), png=live.value,
        alert=display.alert(ValueError(e)), quoted=display.quoted(e), page=display.page(e, {e: e, 'x': display.quoted(e)}),
        explore=display.explore(lambda a: [strip,grid], kinds, a=e).html.value,
        mask_explorer=display.mask_explorer(lambda *a: ([e],[1]), strategies=(e,), names=kinds).html.value,
        prediction_watcher=display.prediction_watcher([e], frames).html.value)

def harmless(s, tags=FINE):
    page = Tags(re.sub('<!doctype html>|<meta [^>]*>', '', s)); assert {t for t,_ in page.tags} <= tags
    assert not [a for _,attrs in page.tags for a,v in attrs.items() if a.startswith('on') or a in ('href','srcdoc') or a == 'src' and not v.startswith('data:')]

@pytest.mark.parametrize('e', EVIL)
def test_S4_in_every_view(e):
    for name,s in shown(e).items(): harmless(s); assert html.escape(e)[:5] in s, name

def test_S4_no_view_is_forgotten():
    "Whatever is annotated as HTML is among them"
    own = {n:f for n,f in inspect.getmembers(display, inspect.isfunction) if f.__module__ == display.__name__}
    makes = {n for n,f in own.items() if n.endswith('_html') or f.__annotations__.get('return') is display.Html}
    assert len(makes) > 10 and makes <= shown('x').keys()

def spoilt(o): # A word of markup before every string
    if isinstance(o, dict): return {k: spoilt(v) for k,v in o.items()}
    return [spoilt(v) for v in o] if isinstance(o, list) else EVIL[0]+o if isinstance(o, str) else o

def test_S4_in_a_saved_report():
    m = spoilt(json.loads((ROOT/'results/life.json').read_text(encoding='utf-8'))); page = life.report(m); harmless(page)
    assert '<script' not in page and page.count('&lt;script&gt;') > 100 and "default-src 'none'" in page

TAGS = 'a|b|i|p|h[1-6]|br|hr|div|span|table|t[rdh]|thead|tbody|ul|ol|li|img|pre|code|script|style|blockquote|html|body|head|svg|iframe|sup|sub|small'
MARKUP = re.compile(rf'</?({TAGS})\b[^>]*>|&(lt|gt|amp|quot);', re.I)

def test_S4_nothing_else_makes_html():
    others = {p.name: s for p,s in modules().items() if p.stem != 'display'}
    texts = ((n, c.value) for n,s in others.items() for c in ast.walk(ast.parse(s)) if isinstance(c, ast.Constant) and isinstance(c.value, str))
    assert [(n, v[:60]) for n,v in texts if MARKUP.search(v)] == []
    assert [n for n,s in others.items() if re.search(r'html\.escape|unescape|widgets\.HTML|\bHTML\(|to_html|_repr_html_', s)] == []

def test_S4_an_error_is_one_plain_line(cli, tmp_path):
    "A terminal obeys escape sequences"
    code,_,err = cli('preprocess','--input', tmp_path/'a\x1b[31m\nb\u202e.txt','--output', tmp_path/'o'); assert code == 2
    assert len(err.splitlines()) == 1 and not re.search('[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]', err), err

# S5

def picture(draw): # Its pixels
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with display.figure(6, 1, '') as (fig,ax): ax.axis('off'); draw(ax); c = FigureCanvasAgg(fig); c.draw(); return np.asarray(c.buffer_rgba()).copy()

PLOTTED = [r'$\frac$', '$a_b$', '$', '$$', r'\$5', r'\\$', '$x$ and $y$', r'a\$b$c$', '中文', 'a\0b', '_x^y', r'\alpha', '𝔘', '\ud800', '%s {x}']

@pytest.mark.parametrize('s', PLOTTED)
def test_S5_as_it_stands(s):
    "The picture of a label is that of its characters, with formulas switched off"
    literal = ''.join(c if display.drawable(c) else '□' for c in display.one_line(s))
    assert (picture(lambda ax: ax.text(0, .5, plain(s))) == picture(lambda ax: ax.text(0, .5, literal, parse_math=False))).all()
    if set(s) - {'\0'}: assert (picture(lambda ax: ax.text(0, .5, plain(s))) != picture(lambda ax: None)).any()

def figures(s): # Every figure, with `s` wherever text can be
    frames = [(0, [(0, s, [(s,.5)])])]; yield display.show_strip([s,s], [0,1], (s,s), s); yield display.show_grid([[0,1]], (s,s), s)
    yield display.show_panels([display.Grid(s, [[0,1]], [s], [s,s], (s,s)), display.Strip(s, [s], [1])], (s,s), s)
    yield display.curves({s: ([0,1],[1,2])}, s, s, s); yield display.bars([(s,1,0,2)], s, s); yield display.show_predictions([s], frames, s)
    yield display.show_masks(lambda *a: ([s],[1]), [(.5,0,s)], (s,s), s)

@settings(max_examples=5, deadline=None)
@given(st.one_of(st.sampled_from(PLOTTED), st.text(max_size=12), st.text('$\\_^{}a', max_size=12)))
def test_S5_in_every_figure(s):
    with warnings.catch_warnings():
        warnings.simplefilter('error'); warnings.filterwarnings('ignore', 'constrained_layout not applied')
        for fig in figures(s): FigureCanvasAgg(fig).draw()

# S6

LURES = '=1+1','=cmd|\' /C calc\'!A0','+1+1','-1+1','@SUM(A1)','\t=1','\r=1','\n=1','＝1','＋1','－1','＠1','-','=','--5'

def cells_of(row, sep, raw=False): f = io.StringIO(); write_row(f, row, sep, raw); return f.getvalue()

@pytest.mark.parametrize('sep', [',','\t'])
def test_S6_formulas_become_text(sep):
    for s in LURES:
        cell = next(csv.reader(io.StringIO(cells_of([s,1], sep), newline=''), delimiter=sep))[0]; assert cell[0] == "'" and csv_cell(s, raw=True) == s
    assert cells_of([-1.5, -2, '-1.5', '+4.2e-3', True, None], sep).startswith({',':'-1.5,-2,"-1.5"', '\t':'-1.5\t-2\t-1.5'}[sep])

@given(st.lists(st.text(), min_size=1, max_size=4))
def test_S6_it_reads_back(row):
    "What was written is read again, but for the apostrophe; and no cell of it is a formula"
    got, = csv.reader(io.StringIO(cells_of(row, ','), newline='')) ; assert got == [("'"+s if csv_cell(s) != s else s) for s in row]
    line = cells_of(row, '\t'); assert line.count('\n') == 1 and line.count('\t') == len(row)-1
    for c in [*got, *line[:-1].split('\t')]:
        assert not re.match('[=+@\t\r\n＝＋－＠-]', c) or re.fullmatch(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?', c, re.I | re.A)

@pytest.mark.parametrize('kind', ['csv','tsv'])
def test_S6_our_readers_read_it(tmp_path, kind):
    rows = [['text','label'], ['a, "b" c', 'x;y'], ['=1+1', '-x'], ["it's", '-1.5']]; f = tmp_path/f'f.{kind}'
    with open(f, 'w', newline='', encoding='utf-8') as to: [write_row(to, r, ',' if kind == 'csv' else '\t', True) for r in rows]
    assert [list(r.values()) for _,r in READERS[f'.{kind}'](f, ('text','label'))] == rows[1:]

@pytest.mark.parametrize('fmt,sep', [('csv',','),('tsv','\t')])
def test_S6_predict(cli, work, tmp_path, model, fmt, sep):
    "A classifier whose labels are formulas"
    ask = ['predict','--model-name-or-path', model('cls'),'--input', work/'text.txt','--format', fmt,'--max-seq-length', 32]
    code,out,err = cli(*ask); assert code == 0, err
    said = [r[0] for r in csv.reader(io.StringIO(out), delimiter=sep) if r and r[0]]; assert said and {*said} <= {"'=1+1","'-x","'@a"}
    code,out,_ = cli(*ask,'--raw-cells'); assert {r[0] for r in csv.reader(io.StringIO(out), delimiter=sep) if r and r[0]} <= {'=1+1','-x','@a'}

def test_S6_nothing_else_writes_tables():
    assert [p.name for p,s in modules().items() if p.stem != 'display' and re.search(r'csv\.(writer|DictWriter)|to_csv|to_excel|savetxt', s)] == []

# S7

def entry(begin, end, *shape, dtype='F32'): return dict(dtype=dtype, shape=shape, data_offsets=[begin,end])
def raw(o): return o if isinstance(o, bytes) else json.dumps(o).encode()
TWICE = b'{"a":%s,"a":%s}' % (raw(entry(0, 8, 2)), raw(entry(0, 8, 1, 2)))
CRAFTED = dict(duplicate=(TWICE, None), overlap=(dict(a=entry(0, 8, 2), b=entry(4, 8, 1)), None),
               hole=(dict(a=entry(0, 2, 1, dtype='F16'), b=entry(4, 8, 1)), None), size=(dict(a=entry(0, 8, 999)), None),
               dtype=(dict(a=entry(0, 8, 1, dtype='F128')), None), endless=(dict(a=entry(0, 8, 2)), 2**62),
               json=(b'{"a":{"dtype":"F32",]', None))

@pytest.mark.parametrize('how', CRAFTED)
@pytest.mark.parametrize('command', OPEN_MODELS)
def test_S7_crafted_headers(cli, work, tmp_path, model, command, how):
    o,n = CRAFTED[how]; f = model()/'model.safetensors'; b = raw(o); f.unlink(); f.write_bytes(struct.pack('<Q', n or len(b)) + b + bytes(8))
    refused(ask(cli, work, tmp_path, command, f.parent), f)

@pytest.mark.parametrize('how', CRAFTED)
def test_S7_crafted_tensor_file(cli, tmp_path, how):
    o,n = CRAFTED[how]; f = tmp_path/'x.tensor'; b = raw(o); f.write_bytes(struct.pack('<Q', n or len(b)) + b + bytes(8))
    refused(cli('train','--do-train','--mlm','--train-file', f,'--output-dir', tmp_path/'out'), f)

# S8

@pytest.fixture
def outside(tmp_path):
    "A good file that is none of the model's business"
    f = tmp_path/'secret.safetensors'; save_file(dict(a=torch.ones(2)), f); return f

LEADS = dict(up=lambda f: '../'+f.name, absolute=str, around=lambda f: f'x/../../{f.name}')

@pytest.mark.parametrize('command', ['finetune','evaluate','compare'])
@pytest.mark.parametrize('how', LEADS)
def test_S8_shards(cli, work, tmp_path, model, outside, command, how):
    d = model(); (d/'model.safetensors').unlink(); index = dict(metadata={}, weight_map={'a': LEADS[how](outside)})
    (d/'model.safetensors.index.json').write_text(json.dumps(index))
    refused(ask(cli, work, tmp_path, command, d), 'leads out')

READ = 'config.json','tokenizer.json','tokenizer_config.json'

@pytest.mark.parametrize('command,name', [*((c,n) for c in OPEN_MODELS + OPEN_TOKENIZERS for n in READ), *((c,'model.safetensors') for c in OPEN_MODELS)])
def test_S8_links(cli, work, tmp_path, model, outside, command, name):
    "Where a file should be there is a link to a good one elsewhere"
    d = model(); (d/name).rename(tmp_path/name); (d/name).symlink_to(tmp_path/name); refused(ask(cli, work, tmp_path, command, d), name, 'leads out')

@pytest.mark.parametrize('key', ['tokenizer_file','vocab_file','fast_tokenizer_files'])
def test_S8_tokenizer_files(cli, work, tmp_path, model, outside, key):
    d = model(); f = d/'tokenizer_config.json'; o = json.loads(f.read_text()); name = LEADS['up'](outside)
    f.write_text(json.dumps(dict(o, **{key: [name] if key.endswith('s') else name}))); refused(ask(cli, work, tmp_path, 'preprocess', d), 'leads out')

@pytest.mark.parametrize('how', [*LEADS, 'link'])
def test_S8_manifest(cli, work, whole, tmp_path, outside, how):
    "A checkpoint of our own kind, its sums right, that names a file elsewhere"
    out = shutil.copytree(whole('mlm'), tmp_path/'run'); shutil.rmtree(out/LAST); (out/'model.safetensors').unlink(); (tmp_path/'x').mkdir()
    at = max((out/'checkpoints').iterdir()); body = json.loads((at/'manifest.json').read_text())['body']; sums = body['files']
    if how == 'link': (at/'model.safetensors').rename(tmp_path/'m'); (at/'model.safetensors').symlink_to(tmp_path/'m')
    else: sums[LEADS[how](outside)] = sha256(outside)
    (at/'manifest.json').write_text(json.dumps(dict(body=body, sha256=seal(body)))); refused(cli(*words(work, 'mlm', out)), at, 'leads out')

@pytest.mark.parametrize('name', ['../escaped.json','/tmp/lm-lifecycle-escaped.json','a/../../escaped.json','..'])
def test_S8_tokenizer_of_a_tensor_file(cli, work, tmp_path, name):
    with safe_open(work/'text.tensor', 'pt') as f: ts,meta = {k: f.get_tensor(k) for k in f.keys()}, f.metadata()
    files = json.loads(meta['tokenizer']); files[name] = '{}'; save_file(ts, tmp_path/'x.tensor', dict(meta, tokenizer=json.dumps(files)))
    refused(cli('train','--do-train','--mlm','--train-file', tmp_path/'x.tensor','--output-dir', tmp_path/'out','--max-seq-length', 32), 'x.tensor')
    assert not Path('/tmp/lm-lifecycle-escaped.json').exists() and not list(Path('/tmp').glob('*/escaped.json'))

def test_S8_the_cache_of_the_hub_is_made_of_links(cli, work, tmp_path, model):
    "Those are as they should be"
    d = tmp_path/'models--a--b'; (d/'blobs').mkdir(parents=True); (d/'snapshots').mkdir(); at = model().rename(d/'snapshots/1')
    for f in [*at.iterdir()]: f.rename(d/'blobs'/f.name); f.symlink_to(f'../../blobs/{f.name}')
    code,_,err = ask(cli, work, tmp_path, 'evaluate', at); assert code == 0, err

# S9

def every_command(work, model, out): # Words of each, small
    said = asks(work, model('mlm'), out); said['generate'] = ['--prompt','a','--model-name-or-path', model('clm', 'clm'),'--max-new-tokens', 2]
    for n in ('train','pretrain','finetune'): said[n][said[n].index('--output-dir') + 1] = f'{out}-{n}'
    said['preprocess'][said['preprocess'].index('--output') + 1] = f'{out}.tensor'; return said

def without_network(words, cwd, first=''): # … to do before
    r,tried = offline([sys.executable, '-c', first+COMMANDS], cwd, json.dumps([[str(w) for w in ws] for ws in words]), HF_HUB_OFFLINE=None)
    assert codes(r.stdout) == {ws[0]: 0 for ws in words}, r.stderr[-2000:]
    assert tried == []

def test_S9_commands(work, model, tmp_path, record_property):
    record_property('shown', ' and '.join(w[0] for w in walls() if w) or 'audit hook only')
    without_network([[n,*ws] for n,ws in every_command(work, model, tmp_path/'out').items() if n != 'compare'], tmp_path)

@pytest.mark.whole
def test_S9_compare(work, model, tmp_path): without_network([['compare',*every_command(work, model, tmp_path/'out')['compare']]], tmp_path)

SHORT = '''from lm_lifecycle import life, network
life.SCALES['tiny'] = life.Scale(network.Size(1, 64, 400, 32), mlm=6, clm=4, B=8, ks=(4,), seeds=2, test=40)
'''

@pytest.mark.whole
def test_S9_life(work, tmp_path):
    without_network([['life','--text', work/'text.txt','--labels', work/'labels.jsonl','--out', tmp_path/'life']], tmp_path, SHORT)

@pytest.mark.whole
@pytest.mark.parametrize('name', notebooks()[::-1])
def test_S9_notebooks(name):
    r,_,tried,_ = executed(name); assert r.returncode == 0, r.stderr[-2000:]
    assert tried == []

def test_S9_the_wall_stands(tmp_path):
    "A command that does connect is caught"
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), timeout=.2)\nexcept OSError: print('no')"
    r,tried = offline([sys.executable, '-c', code], tmp_path); assert r.stdout == 'no\n' and any('192.0.2.1' in t for t in tried)

# S10

def requirements(): # Of the package, with all its extras
    ini = ConfigParser(delimiters=['=']); ini.read(ROOT/'settings.ini', encoding='utf-8')
    return {r.name: r for k,v in ini['DEFAULT'].items() if k.endswith('requirements') for r in map(Requirement, v.split())}

def floor(r): return max((Version(s.version) for s in r.specifier if s.operator in ('>=','==','~=')), default=Version('0'))

@pytest.mark.parametrize('name,least', [('torch','2.10'),('transformers','5.0')])
def test_S10_floors(name, least): assert floor(requirements()[name]) >= Version(least)

def test_S10_pins_and_installed_versions_are_allowed():
    pins = [Requirement(l) for l in (ROOT/'constraints.txt').read_text().splitlines() if l.strip() and l[0] != '#']; want = requirements()
    assert [str(p) for p in pins if p.name in want and not want[p.name].specifier.contains(floor(p))] == []
    core = [r for r in want.values() if r.name in ('torch','transformers','safetensors','tokenizers','datasets','accelerate')]
    assert len(core) == 6 and [str(r) for r in core if not r.specifier.contains(version(r.name), prereleases=True)] == []
