"Bad input: any file is read, or refused in one line that names it, the place and a remedy"
import csv, gzip, io, json

import pyarrow as pa, pyarrow.parquet as pq, pytest
from conftest import write_rows
from lm_lifecycle.cli.preprocess import unpack
from lm_lifecycle.core import BadInput
from lm_lifecycle.life import held_out
from lm_lifecycle.network import Size, build
from lm_lifecycle.pretraining import save_model
from lm_lifecycle.tasks.answering import read_questions
from lm_lifecycle.tasks.classification import Classification, MultiLabel, Regression
from lm_lifecycle.tasks.generation import read_sources
from lm_lifecycle.tasks.tagging import read_tagged
from lm_lifecycle.text import iter_texts, read_labelled, read_texts
from lm_lifecycle.tokens import Vocab
from test_bad_input import made, refused

WHAT = dict(
    B1='empty, header only, zero rows; damaged gzip', B2='UTF-8 byte-order mark', B3='Latin-1, UTF-16', B4='CRLF, U+2028, form feed',
    B5='NUL bytes', B6='TSV: missing tab, extra tab, stray quote', B7='duplicate header', B8='the texts NA, null, nan',
    B9='jsonl: cut off, key missing', B10='paths: Unicode, spaces, [1]*, a folder, a hub name', B11='labels: text, from 1, unseen, class of one',
    B12='class ids with num_labels=1')
CLASSIFY = '--task', 'text-classification'
KINDS = 'txt','tsv','csv','jsonl'

def write(kind, rows, columns=('text','label')):
    "Rows as a file of that kind; of a txt file the texts alone"
    f = io.StringIO()
    if kind == 'csv': csv.writer(f).writerows([columns, *rows]); return f.getvalue()
    if kind == 'jsonl': return ''.join(json.dumps(dict(zip(columns, r)), ensure_ascii=False) + '\n' for r in rows)
    return ''.join('\t'.join(r[:1] if kind == 'txt' else r) + '\n' for r in ([columns] if kind == 'tsv' else []) + rows)

@pytest.fixture(scope='session')
def model(tmp_path_factory, tok):
    "A small network with random weights"
    d = tmp_path_factory.mktemp('model'); save_model(build('mlm', Size(1, 64, len(tok), 64), Vocab.of(tok)), tok, d, 'mlm', 'Untrained.', 'nothing', {})
    return d

@pytest.fixture
def rows(labels): return [(' '.join(t.split()), l) for t,l in labels[:60]]

@pytest.fixture
def put(tmp_path):
    "Write a file and say where"
    def f(name, content):
        content = content.encode() if isinstance(content, str) else content
        return made(tmp_path/name, gzip.compress(content) if name.endswith('.gz') else content)
    return f

@pytest.fixture
def cut(cli, tmp_path):
    "`preprocess`, with a small vocabulary: exit code, standard output, standard error"
    def f(path, *more): return cli('preprocess', '--input', path, '--output', tmp_path/'o.tensor', '--vocab-size', 600, '--max-seq-length', 8, *more)
    return f

@pytest.fixture
def same(cut, tmp_path):
    "Do both files give the same tokens and labels?"
    def f(a, b, *more):
        out = []
        for path,words in ((a,more), (b,())):
            code,_,err = cut(path, *words, *(CLASSIFY if '.txt' not in a.suffixes else ())); assert code == 0, err
            ts,meta,_ = unpack(tmp_path/'o.tensor'); out.append(({k:v.tolist() for k,v in ts.items()}, meta['names'])); (tmp_path/'o.tensor').unlink()
        assert out[0] == out[1] and out[0][0]['ids']
    return f

def commands(f, out, model):
    "Every command that reads the file, as text and as labelled examples"
    m = '--model-name-or-path', model
    return [('preprocess', '--input', f, '--output', out), ('preprocess', *CLASSIFY, '--input', f, '--output', out), ('tokenize', '--input', f),
            ('pretrain', '--text', f, '--output-dir', out), ('finetune', *CLASSIFY, *m, '--train-file', f, '--output-dir', out),
            ('evaluate', *m, '--file', f), ('compare', model, '--labels', f), ('life', '--text', f, '--out', out), ('life', '--labels', f, '--out', out)]

# B1

NOTHING = {'e.txt':b'', 'e.csv':b'', 'e.tsv':b'', 'e.jsonl':b'', 'blank.txt':b'\n \n\n', 'blank.csv':b' \n\n', 'blank.jsonl':b'\n\n', 'mark.txt':b'\xef\xbb\xbf',
           'head.csv':b'text,label\n', 'head.tsv':b'text\tlabel\n', 'e.txt.gz':b'', 'e.jsonl.gz':b'', 'e.parquet':b''}
DAMAGED = {'cut.txt.gz':gzip.compress(b'some words\n'*99)[:40], 'cut.jsonl.gz':gzip.compress(b'{"text":"a","label":"x"}\n'*99)[:50], 'no.csv.gz':b'text,label\n',
           'flip.tsv.gz':gzip.compress(b'text\tlabel\na b\tx\nc d\ty\n')[:-8] + b'12345678', 'more.txt.gz':gzip.compress(b'a\n') + b'more', 'cut.parquet':b'PAR1 and so on'}

@pytest.mark.parametrize('name', [*NOTHING,*DAMAGED])
def test_B1_nothing_in_it(cut, tmp_path, name):
    f = made(tmp_path/name, (NOTHING | DAMAGED)[name])
    if name in NOTHING and name.endswith('.gz'): f.write_bytes(gzip.compress(NOTHING[name]))
    for task in ((), CLASSIFY): refused(cut(f, *task), 2, f, 'cannot be read' if name in DAMAGED or name == 'e.parquet' else f'{f}')
    assert not (tmp_path/'o.tensor').exists()

def test_B1_no_rows_of_parquet(cut, tmp_path):
    f = tmp_path/'t.parquet'; pq.write_table(pa.table(dict(text=pa.array([], pa.string()), label=pa.array([], pa.string()))), f)
    refused(cut(f), 2, f, 'no text'); refused(cut(f, *CLASSIFY), 2, f, 'no examples')

@pytest.mark.parametrize('i', range(9))
def test_B1_every_command(cli, put, tmp_path, model, i):
    f = put('e.tsv', ''); refused(cli(*commands(f, tmp_path/'out', model)[i]), 2, f)
    assert not list(tmp_path.glob('out/*.safetensors'))

@pytest.mark.parametrize('read', [read_texts, read_labelled, read_tagged, read_questions, read_sources])
@pytest.mark.parametrize('skip', [None, []])
def test_B1_every_reader(put, read, skip):
    f = put('e.jsonl', '\n')
    with pytest.raises(BadInput, match='e.jsonl: holds no'): read(f, skip=skip)

def test_B1_every_classifier(put, tok):
    for cls in (MultiLabel,Regression):
        with pytest.raises(BadInput, match='e.jsonl: holds no'): cls.read(put('e.jsonl', ''), tok)

# B2

@pytest.mark.parametrize('kind', [*KINDS,'csv.gz'])
def test_B2_byte_order_mark(put, same, rows, kind):
    s = write(kind.removesuffix('.gz'), rows); same(put(f'a.{kind}', '\ufeff' + s), put(f'b.{kind}', s))

def test_B2_within_the_file(put):
    "`cat` leaves the mark of each file it joins"
    assert read_texts(put('a.txt', '\ufeffone\n\ufefftwo\n\ufeff\n')) == ['one\ntwo']
    assert [*read_labelled(put('a.tsv', '\ufeffa\tx\n\ufeffb\ty\n')).texts] == ['a','b']

# B3

@pytest.mark.parametrize('kind', [*KINDS,'txt.gz'])
@pytest.mark.parametrize('encoding', ['latin-1','utf-16','utf-16-be','gb18030'])
def test_B3_encodings(put, cut, same, rows, kind, encoding):
    "Refused with line, byte and remedy; read with it"
    rows = [(f'{t} é', l) for t,l in rows]; k = kind.removesuffix('.gz'); s = write(k, rows); f = put(f'a.{kind}', s.encode(encoding))
    task = CLASSIFY if k != 'txt' else (); line = 1 + (k in ('tsv','csv')) if encoding in ('latin-1','gb18030') else 1
    if encoding != 'utf-16-be': refused(cut(f, *task), 2, f'{f}:{line}: byte 0x', 'column', '--encoding', 'utf-16' if encoding == 'utf-16' else 'latin-1')
    if kind == 'txt' or encoding == 'latin-1': same(f, put(f'b.{kind}', s), '--encoding', encoding)
    else: assert [t for *_,t in iter_texts(f, encoding=encoding)] == [t for *_,t in iter_texts(put(f'b.{kind}', s))]

def test_B3_the_very_byte(put, cut):
    f = put('a.txt', 'fine\n\nnaïve café\n'.encode('latin-1')); refused(cut(f), 2, f'{f}:3: byte 0xef at column 3 is not utf-8')
    wide = put('w.txt', 'fine\ncafé'.encode('utf-16') + b'\x00\xd8\x00\x00'); refused(cut(wide, '--encoding', 'utf-16'), 2, f'{wide}:2: byte 0x00 at column 5 is not utf-16')
    late = put('l.txt', b'a line\n'*5000 + b'caf\xe9\n'); refused(cut(late), 2, f'{late}:5001: byte 0xe9 at column 4')

def test_B3_unknown_encoding(put, cut):
    for name in ('utf-9','rot13','idna',''): refused(cut(put('a.txt', 'some words'), '--encoding', name), 2, repr(name), 'latin-1')

def test_B3_skipped(put, cut):
    "A wrong byte costs its line"
    f = put('a.tsv', b'fine words\tx\ncaf\xe9\ty\nother words\ty\n'*5); code,_,err = cut(f, *CLASSIFY, '--skip-bad-rows')
    assert code == 0 and 'skipped 5 bad rows' in err and f'{f}:2: byte 0xe9' in err and f'{f}:14:' in err

# B4

@pytest.mark.parametrize('kind', KINDS)
def test_B4_line_ends(put, same, rows, kind):
    s = write(kind, rows).replace('\r\n', '\n'); same(put(f'a.{kind}', s.replace('\n', '\r\n')), put(f'b.{kind}', s))

@pytest.mark.parametrize('mark', ['\u2028','\u2029','\x0c','\x0b','\x85','\x1c','\r'])
@pytest.mark.parametrize('kind', KINDS)
def test_B4_what_ends_no_line(put, rows, kind, mark):
    rows = [(f'{t}{mark}and {i}', l) for i,(t,l) in enumerate(rows)]
    assert list(iter_texts(f := put(f'a.{kind}', write(kind, rows)))) == [(f, i + (kind in ('tsv','csv')), t) for i,(t,_) in enumerate(rows, 1)]

def test_B4_within_quotes(put):
    assert read_texts(put('a.csv', 'text\r\n"one\r\ntwo"\r\n')) == read_texts(put('b.csv', 'text\n"one\ntwo"\n')) == ['one\ntwo']

# B5

@pytest.mark.parametrize('kind', KINDS)
def test_B5_nul(put, cut, rows, kind):
    "Two lines of them"
    dirty = [(f'{t[:3]}\1\1{t[3:]}\1' if i in (3,7) else t, l) for i,(t,l) in enumerate(rows)]
    f = put(f'a.{kind}', write(kind, dirty).replace('\\u0001', '\0').replace('\1', '\0')); said = rf'a.{kind}:{4 + (kind in ("tsv","csv"))}: NUL bytes removed in 2 lines'
    with pytest.warns(UserWarning, match=said): assert cut(f, *(CLASSIFY if kind != 'txt' else ()))[0] == 0
    with pytest.warns(UserWarning, match=said): assert read_texts(f) == [t for t,_ in rows]

def test_B5_escaped_nul(put, tmp_path):
    pq.write_table(pa.table(dict(text=['a\0b','c'])), tmp_path/'t.parquet')
    for f in (put('a.jsonl', r'{"text":"a\u0000b"}' + '\n{"text":"c"}\n'), tmp_path/'t.parquet'):
        with pytest.warns(UserWarning, match=':1: NUL characters removed in 1 rows'): assert read_texts(f) == ['ab','c']

# B6

CELLS = dict(missing=('a b\tx\nc d\nc e\ty\n', "1 cells where 2"), extra=('a b\tx\nc d\ty\tz\nc e\ty\n', '3 cells where 2'),
             text=('a b\tx\n \ty\nc e\ty\n', 'text is empty'), label=('a b\tx\nc d\t\nc e\ty\n', 'label is empty'))
QUOTES = dict(open=('text,label\n"a,b\nc d,x\nc e,y\n', 'unexpected end of data'), within=('text,label\n"a" b,x\nc d,x\nc e,y\n', "',' expected"))

@pytest.mark.parametrize('name', CELLS)
def test_B6_tsv_cells(put, cut, name):
    s,why = CELLS[name]; f = put('a.tsv', s); refused(cut(f, *CLASSIFY), 2, f'{f}:2: ', why)
    code,_,err = cut(f, *CLASSIFY, '--skip-bad-rows'); assert code == 0 and err.splitlines()[0] == 'skipped 1 bad rows:' and err.count('\n') == 2 and f'{f}:2: ' in err and why in err
    skip = []; assert read_labelled(f, skip=skip).texts == ['a b','c e'] and len(skip) == 1

def test_B6_tsv_quote_is_a_character(put):
    assert read_labelled(put('a.tsv', 'an "odd one\tx\n"b"\ty\n')).texts == ['an "odd one','"b"']

@pytest.mark.parametrize('name', QUOTES)
def test_B6_csv_quote(put, cut, name):
    "Of the rows that an open quote swallows only the first is lost"
    s,why = QUOTES[name]; f = put('q.csv', s); refused(cut(f, *CLASSIFY), 2, f'{f}:2: ', why)
    skip = []; assert read_labelled(f, skip=skip).texts == ['c d','c e'] and len(skip) == 1
    code,_,err = cut(f, *CLASSIFY, '--skip-bad-rows'); assert code == 0 and 'skipped 1 bad row' in err

def test_B6_nothing_left(put, cut):
    f = put('a.tsv', 'a\nb\n'); refused((r := cut(f, *CLASSIFY, '--skip-bad-rows'))[:2] + (r[2].splitlines()[-1],), 2, f'{f}:1: ')

def test_B6_every_task(put, cli, model, tmp_path):
    "`finetune --skip-bad-rows`, whatever the labels are"
    qa = lambda **kw: json.dumps(dict(question='Who?', context='I am.', answers=dict(text=['I'], answer_start=[0])) | kw)
    files = {'text-classification':put('c.tsv', 'one\tx\ntwo\ttoo\tmany\n'+'three\ty\nfour\tx\n'*9), 'regression':put('r.tsv', 'a\t1.5\nb\tfive\n'+'c\t2.5\nd\t0.1\n'*9),
             'multi-label':put('m.jsonl', '{"text":"a","label":["x"]}\n{"text":"b"}\n'+'{"text":"c","label":["y"]}\n'*18),
             'token-classification':put('t.conll', 'Ada B-per\n\nLovelace\n\n'+'wrote O\n\nBonn B-loc\n\n'*9), 'question-answering':put('q.jsonl', qa()+'\n'+qa(context='')+'\n'+(qa()+'\n')*18)}
    for task,f in files.items():
        words = 'finetune', '--task', task, '--model-name-or-path', model, '--train-file', f, '--max-seq-length', 32, '--num-train-epochs', .01
        refused(cli(*words, '--output-dir', tmp_path/'no'), 2, f, ':2:' if task != 'token-classification' else ':3:')
        code,_,err = cli(*words, '--output-dir', tmp_path/task, '--skip-bad-rows'); assert code == 0 and 'skipped 1 bad row' in err, err

# B7

@pytest.mark.parametrize('kind,sep', [('csv',','),('tsv','\t')])
def test_B7_duplicate_header(put, cut, kind, sep):
    f = put(f'a.{kind}', sep.join(['text','label','text']) + '\n' + sep.join('abc') + '\n')
    for more in ((), ('--skip-bad-rows',)): refused(cut(f, *CLASSIFY, *more), 2, f'{f}:1: ', "'text' appears twice")

def test_B7_parquet(tmp_path):
    pq.write_table(pa.Table.from_arrays([pa.array(['a'])]*2, names=['text','text']), tmp_path/'t.parquet')
    with pytest.raises(BadInput, match="t.parquet:header: column 'text' appears twice"): read_texts(tmp_path/'t.parquet')

# B8

WORDS = 'NA','null','nan','None','N/A','','1.0','true','-inf'

@pytest.mark.parametrize('kind', KINDS)
def test_B8_stays_text(put, cut, tmp_path, kind):
    ws = [w for w in WORDS if w]; f = put(f'a.{kind}', write(kind, [(w, f'l{i%2}') for i,w in enumerate(ws)]))
    assert read_texts(f) == ws
    if kind != 'txt': assert read_labelled(f).texts == ws and cut(f, *CLASSIFY)[0] == 0 and unpack(tmp_path/'o.tensor')[0]['ends'].numel() == len(ws)

def test_B8_as_labels(put):
    assert read_labelled(put('a.csv', 'text,label\na,NA\nb,nan\nc,NA\nd,nan\n')).names == ['NA','nan']

def test_B8_no_value_is_no_text(put, cut):
    f = put('a.jsonl', '{"text":"a","label":"x"}\n{"text":null,"label":"y"}\n'); refused(cut(f, *CLASSIFY), 2, f'{f}:2: ', "'text' is None")

# B9

BROKEN = dict(cut='{"text":', open='{"text":"b","label":"y"', key='{"text":"b"}', column='{"body":"b","label":"x"}', list='["b","y"]', number='3', quotes="{'text':'b'}",
              half='{"text":"\\ud83d","label":"x"}', deep='['*100000, digits='{"text":' + '9'*5000 + '}', nested='{"text":{"a":"b"},"label":"x"}')

@pytest.mark.parametrize('name', BROKEN)
def test_B9_jsonl(put, cut, name):
    good = '{"text":"a","label":"x"}\n{"text":"c","label":"y"}\n'; f = put('a.jsonl', good + BROKEN[name]); refused(cut(f, *CLASSIFY), 2, f'{f}:3: ')
    skip = []; assert read_labelled(f, skip=skip).texts == ['a','c'] and len(skip) == 1 and str(skip[0]).startswith(f'{f}:3: ')

def test_B9_other_columns(put, cut):
    f = put('a.csv', 'body\nsome words\n'); refused(cut(f), 2, f'{f}:2: ', "no column 'text' among body")

def test_B9_pairs_in_some_rows(put):
    with pytest.raises(BadInput, match="a.jsonl:2: 'text2' is in some rows only"):
        read_labelled(put('a.jsonl', '{"text":"a","text2":"b","label":"x"}\n{"text":"c","label":"y"}\n'))

# B10

NAMES = 'a b.txt','[1]*.txt','ünï 日本.txt',"it's $HOME.txt",'a#b%20?.txt','{x}.TXT','-.txt'

@pytest.mark.parametrize('name', NAMES)
def test_B10_paths(put, cut, rows, name):
    s = write('txt', rows); f = put(name, s); put('1x.txt', 'another file'); assert read_texts(f) == [t for t,_ in rows]
    code,_,err = cut(f); assert code == 0, err
    zipped = put(f'{name}.gz', s); assert read_texts(zipped) == read_texts(f)

def test_B10_missing(cut, tmp_path):
    for name in ('no [1]*.txt','no.parquet','no.csv.gz','no/such/folder'): refused(cut(tmp_path/name), 2, tmp_path/name, 'no such file')

def test_B10_kinds(put, cut):
    f = put('text.pdf', '%PDF'); refused(cut(f), 2, f, '.pdf', '.jsonl')

def test_B10_a_folder(put, cut, tmp_path):
    d = tmp_path/'my [data]*'; (d/'in').mkdir(parents=True); made(d/'a.tsv', b'one\tx\ntwo\ty\n'); made(d/'in/b.jsonl', b'{"text":"three","label":"x"}\n{"text":"four"}\n'); made(d/'notes.md', b'#')
    refused(cut(d, *CLASSIFY), 2, f"{d/'in/b.jsonl'}:2: "); skip = []; assert read_labelled(d, skip=skip).texts == ['one','two','three']
    (tmp_path/'empty').mkdir(); refused(cut(tmp_path/'empty'), 2, tmp_path/'empty', 'no file in this folder')

def test_B10_a_name_on_the_hub_without_network(cut):
    "One line, with what else there is to do"
    for task in ((), CLASSIFY): refused(cut('nobody/nothing:test', *task), 2, 'nobody/nothing', 'no such file', 'download')

# B11

def test_B11_from_one(put, cut, tmp_path):
    f = put('a.tsv', 'a b\t1\nc d\t2\ne f\t10\n'*2); assert cut(f, *CLASSIFY)[0] == 0
    ts,meta,_ = unpack(tmp_path/'o.tensor'); assert meta['names'] == ['1','2','10'] and ts['labels'].tolist() == [0,1,2]*2

def test_B11_text(put, cut, tmp_path):
    f = put('a.csv', 'label,text\n good ,a b\nbad,c d\n"good",e f\nbad,g\n'); assert cut(f, *CLASSIFY)[0] == 0
    ts,meta,_ = unpack(tmp_path/'o.tensor'); assert meta['names'] == ['bad','good'] and ts['labels'].tolist() == [1,0,1,0]

def test_B11_unseen(cut, work, labels, tmp_path, cli, model):
    f = write_rows(tmp_path/'new.jsonl', [*labels[:4], ('some words','never seen')]); more = '--labels-from', work/'labels.tensor'
    refused(cut(f, *CLASSIFY, *more), 2, f':5:', "'never seen'")
    code,_,err = cut(f, *CLASSIFY, *more, '--skip-bad-rows'); assert code == 0 and 'skipped 1 bad row' in err
    refused(cli('finetune', *CLASSIFY, '--model-name-or-path', model, '--train-file', work/'labels.jsonl', '--test-file', f, '--output-dir', tmp_path/'out'), 2, f, ':5:', "'never seen'")

def test_B11_one_class(put, cut):
    f = put('one.tsv', 'a b\tx\nc d\tx\n'); refused(cut(f, *CLASSIFY), 2, f, "every label is 'x'")

def test_B11_class_of_one(put, cut):
    f = put('a.tsv', 'a b\tx\nc d\ty\ne f\tx\n')
    with pytest.warns(UserWarning, match="a.tsv:2: class 'y' has one example"): assert cut(f, *CLASSIFY)[0] == 0

def test_B11_class_of_one_held_out(cli, labels, tmp_path):
    "`life` holds a fifth out: a class of one example there cannot be learnt"
    rows = list(labels); i = held_out(len(rows), 0, .2)[1][0]; rows[i] = rows[i][0],'rare'; f = write_rows(tmp_path/'rare.jsonl', rows)
    with pytest.warns(UserWarning, match="'rare'"): refused(cli('life', '--labels', f, '--out', tmp_path/'life'), 2, 'rare.jsonl', "'rare'")

# B12

@pytest.mark.parametrize('ids', [('0','1'),('2','0','1')])
def test_B12_class_ids_as_amounts(put, cli, model, tmp_path, ids):
    f = put('a.tsv', ''.join(f'a {i}\t{l}\n' for i,l in enumerate(ids*5)))
    refused(cli('finetune', '--task', 'regression', '--model-name-or-path', model, '--train-file', f, '--output-dir', tmp_path/'out'), 2, f'{f}:1: ', 'as of classes', 'write 0.0')

def test_B12_a_model_of_one_number(put, tok):
    config = build('cls', Size(1, 64, len(tok), 64), Vocab.of(tok), num_labels=1).model.config; f = put('a.tsv', 'a\tgood\nb\tbad\n')
    with pytest.raises(BadInput, match='a.tsv:1: .*num_labels=1 for regression; read the file with Regression'): Classification.read(f, tok, config=config)
