"Files that Hypothesis makes: good ones damaged, and tables of anything; and what must be true of whatever reads them"
import csv, gzip, io, json, re, warnings

import pyarrow as pa, pyarrow.parquet as pq
from hypothesis import strategies as st
from lm_lifecycle.core import BadInput
from lm_lifecycle.tasks.answering import read_questions
from lm_lifecycle.tasks.generation import read_sources
from lm_lifecycle.tasks.tagging import read_tagged
from lm_lifecycle.text import read_labelled, read_rows, read_texts

# Good files, by kind

QA = dict(id='1', question='Who wrote?', context='Ada wrote.', answers=dict(text=['Ada'], answer_start=[0]))
ROWS = [dict(text='so good', text2='é 🙂', label='pos'), dict(text='NA', text2='日本', label='neg'), dict(text='"x", y', text2='z', label='pos')]
MORE = [dict(tokens=['Ada','wrote'], tags=['B-per','O']), QA, dict(source='A dog.', target=['Ein Hund.','Hund']), dict(text='a', label=['x','y']), dict(text=1.5, label=None)]

def table(rows, sep, quoting=csv.QUOTE_MINIMAL):
    f = io.StringIO(); w = csv.writer(f, delimiter=sep, quoting=quoting, quotechar='"' if sep == ',' else '\x01'); w.writerows([list(rows[0]), *(list(r.values()) for r in rows)])
    return f.getvalue().encode()

def parquet(rows, **kw): f = io.BytesIO(); pq.write_table(pa.Table.from_pylist(rows), f, **kw); return f.getvalue()

def lines(rows): return ''.join(json.dumps(r, ensure_ascii=i%2 == 0) + '\n' for i,r in enumerate(rows)).encode()

GOOD = dict(
    txt=['one\ntwo\nthree\n'.encode(), 'First\nline.\n\nSecond é.\r\n\r\n'.encode(), 'Ada B-per\nwrote O\n\nBonn B-loc\n'.encode()],
    tsv=[b'so good\tpos\nNA\tneg\n', table(ROWS, '\t'), 'Ada\tB-per\nwrote\tO\n\nBonn\tB-loc\n'.encode(), 'A dog.\tEin Hund.\n'.encode()],
    csv=[table(ROWS, ','), table(ROWS, ',', csv.QUOTE_ALL), b'label,text\r\nx,"a, ""b""\r\nc"\r\ny,d\r\n'],
    jsonl=[lines(ROWS), lines(MORE), lines([QA]), lines(MORE[:1]), b'{"text":"\\ud83d\\ude42","label":1}\n\n{"text":"b","label":2}'],
    parquet=[parquet(ROWS), parquet(ROWS, compression='none', use_dictionary=False), parquet([dict(QA, text='x')]), parquet(MORE[:1], version='1.0')])

# What damages them

ODD = [b'\xef\xbb\xbf', b'\xff\xfe', b'\0', b'\r', b'\n', b'\r\n', b'\n\n', b'"', b'""', b',', b'\t', b'{', b'[', b'}', b']', b':', b'\\', b'\\ud83d', b'\\u0000', b'\xe2\x80\xa8', b'\x85',
       b'\x0c', b'\x1c', b'\xc3', b'\xed\xa0\x80', b'\xf4\x90\x80\x80', b'null', b'NaN', b'1e999', b'9'*5000, b'text', b'label', b'text2', b'['*2000, b' '*50, b'PAR1', b'\x1f\x8b', b'-DOCSTART-',
       b'text,text,label\n', b'text\ttext\n', b'label', b'x'*300]

@st.composite
def damaged(draw, good):
    "Some bytes changed, cut out, put in or doubled; or the end lost"
    b = draw(st.sampled_from(good))
    for _ in range(draw(st.sampled_from([0,1,1,1,2,5]))):
        i = draw(st.integers(0, len(b))); j = min(len(b), i + draw(st.integers(0, 12)))
        b = draw(st.sampled_from([b[:i] + b[j:], b[:i], b[:i] + draw(st.sampled_from(ODD)) + b[j:], b[:i] + draw(st.binary(max_size=4)) + b[j:], b[:j] + b[i:], b[i:]]))
    return b

# Tables of anything

CHARS = st.one_of(st.sampled_from(list('ab "\',\t\n\r\\[]{}:;|-=+@0é日🙂\0\ufeff\u2028\x0c\x85\x1c')), st.characters(blacklist_categories=['Cs']))
TEXT = st.text(CHARS, max_size=12)
NAMES = st.one_of(st.sampled_from(['text','label','text2','tokens','tags','question','context','answers','source','target','id','']), TEXT)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | TEXT, lambda s: st.lists(s, max_size=3) | st.dictionaries(NAMES, s, max_size=3), max_leaves=6)

def joined(sep, end): return st.lists(st.lists(TEXT | NAMES, max_size=4).map(sep.join), max_size=6).map(lambda ls: end.join(ls).encode())

@st.composite
def comma(draw):
    f = io.StringIO(); w = csv.writer(f, quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL,csv.QUOTE_ALL])), lineterminator=draw(st.sampled_from(['\n','\r\n'])))
    w.writerows(draw(st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=5))); return f.getvalue().encode()

WORD,FEW = TEXT.filter(str.strip), lambda s: st.lists(s, max_size=3)
GOLDS = st.fixed_dictionaries(dict(text=FEW(st.sampled_from(['a','b'])), answer_start=FEW(st.integers(-1, 3))))
LIKELY = st.one_of( # Rows that a task may want, but for a value here or there
    st.fixed_dictionaries(dict(text=WORD | JSON, label=WORD | st.integers(0, 3) | FEW(WORD)), optional=dict(text2=WORD | JSON)),
    st.fixed_dictionaries(dict(tokens=FEW(WORD) | JSON, tags=FEW(st.sampled_from(['O','B-x','I-x','B-y','']))), optional=dict(upos=FEW(WORD))),
    st.fixed_dictionaries(dict(question=WORD, context=st.sampled_from(['a b a','','ba']), answers=GOLDS | JSON), optional=dict(id=WORD | st.integers(0, 2), is_impossible=st.booleans())),
    st.fixed_dictionaries(dict(source=WORD, target=WORD | FEW(WORD) | JSON)))

@st.composite
def objects(draw):
    rows = draw(st.lists(LIKELY, max_size=5) | st.lists(st.dictionaries(NAMES, JSON, max_size=5) | JSON, max_size=5)); ascii = draw(st.booleans())
    return '\n'.join(json.dumps(r, ensure_ascii=ascii) for r in rows).encode()

def two(s): return st.lists(s, min_size=2, max_size=2)

COLUMN = st.one_of(*map(two, [st.none() | TEXT, st.none() | st.binary(max_size=5), st.integers(-2**40, 2**40), st.floats(), st.booleans(), FEW(TEXT), st.datetimes() | st.none(),
                              st.decimals(-99, 99, places=2), st.fixed_dictionaries(dict(text=FEW(TEXT), answer_start=FEW(st.integers(-2, 9)))), GOLDS]))

@st.composite
def columns(draw):
    likely = st.fixed_dictionaries(dict(text=two(WORD) | COLUMN, label=two(WORD) | COLUMN), optional=dict(text2=two(WORD), tokens=COLUMN, tags=COLUMN)).map(lambda d: list(d.items()))
    cols = draw(likely | st.lists(st.tuples(NAMES, COLUMN), max_size=5)); f = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(c) for _,c in cols], names=[n for n,_ in cols]), f, row_group_size=draw(st.sampled_from([1,2]))); return f.getvalue()

ANY = dict(txt=joined(' ', '\n') | joined('\n', '\n\n'), tsv=joined('\t', '\n'), csv=comma() | joined(',', '\n'), jsonl=objects(), parquet=columns())

def files(kind): return st.one_of(damaged(GOOD[kind]), damaged(GOOD[kind]), ANY[kind], st.binary(max_size=300))

@st.composite
def zipped(draw):
    "Of any kind, then perhaps damaged again"
    kind = draw(st.sampled_from(list(GOOD))); b = gzip.compress(draw(files(kind)), 1)
    return kind, draw(st.just(b) | damaged([b]))

# What must be true

READ = dict(texts=read_texts, labelled=read_labelled, known=lambda f, **kw: read_labelled(f, ['neg','pos'], **kw), tagged=read_tagged, questions=read_questions,
            sources=read_sources, rows=lambda f, **kw: list(read_rows(f, ('text','label'), **kw)))

def strings(o):
    "Every text in what a reader gave"
    if isinstance(o, str): yield o
    elif isinstance(o, (list,tuple)):
        for x in o: yield from strings(x)
    elif isinstance(o, dict): yield from strings(list(o.values()))
    elif hasattr(o, '__dict__'): yield from strings(vars(o))

WHOLE_FILE = 'holds no |cannot be read |every (label|tag) is '

def clear(message, path):
    "One short line, that begins with the file and the line, where there is one"
    s = str(message); assert re.match(rf'{re.escape(str(path))}:((\d+|header):| ({WHOLE_FILE}))', s) and len(s.splitlines()) == 1 and len(s) < 1500, s[:2000]
    return s

def tried(read, path, **kw):
    "What it gave, or its complaint; nothing else may come out"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        try: found,error = read(path, **kw), None
        except BadInput as e: found,error = None, clear(e, path)
    for w in heard: assert w.category is UserWarning; clear(w.message, path)
    return found, error

def check(path):
    "By every reader: read or refused, and the same with a list for bad rows, but for these"
    for name,read in READ.items():
        found,error = tried(read, path)
        if found is not None and name != 'rows':
            for s in strings(found): s.encode(); assert '\0' not in s
        skip = []; rest,still = tried(read, path, skip=skip)
        for e in skip: clear(e, path)
        if error is None: assert not skip and repr(rest) == repr(found), (name, skip)
        else: assert (str(skip[0]) if skip else still) == error, (name, error, still, skip)
