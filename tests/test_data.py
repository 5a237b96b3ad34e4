"Real files, read and cut"
import re

import pandas as pd, pytest, torch
from conftest import jsonl, write_rows
from lm_lifecycle.core import IGNORE
from lm_lifecycle.autoregressive import clm
from lm_lifecycle.tasks.classification import Classification
from lm_lifecycle.text import read_labelled, read_texts
from lm_lifecycle.tokens import blocks, token_bytes, train_tokenizer, unknowns

def back(tok, s): return tok.decode(tok(s)['input_ids'], skip_special_tokens=True)

@pytest.fixture(scope='module')
def chinese(lm_data):
    "Poems, and hotel guests' letters"
    return [r['text'] for r in jsonl(lm_data('zh_song_ci')/'valid.jsonl.gz', 300) + jsonl(lm_data('chnsenticorp_hotel')/'all.jsonl.gz', 500)]

def test_chinese_through_bytes(chinese):
    "Every text comes back as it was, seen in training or not"
    tok = train_tokenizer(chinese[:600:2], 1000, 'bpe')
    assert [s for s in chinese if back(tok, s) != s] == [] and not unknowns(tok, chinese)

def test_chinese_through_wordpiece(chinese):
    "Every character that training saw comes back, but for case, accents and spaces: those are WordPiece's own"
    tok = train_tokenizer(chinese, 8192); norm = tok.backend_tokenizer.normalizer.normalize_str; plain = lambda s: ''.join(norm(s).split())
    assert [s for s in chinese if plain(back(tok, s)) != plain(s)] == [] and not unknowns(tok, chinese)

def test_chinese_poems_keep_no_stray_spaces(lm_data):
    "Line by line, exactly; but for one line of the file that has a Cyrillic letter"
    poems = [l for r in jsonl(lm_data('zh_song_ci')/'valid.jsonl.gz', 200) for l in r['text'].split('\n') if l and 'ь' not in l]
    tok = train_tokenizer(poems, 8192)
    assert [s for s in poems if back(tok, s) != s] == []

@pytest.mark.parametrize('name,label,n,C', [('trec','coarse',5452,6), ('sst2','label',6920,2)])
@pytest.mark.parametrize('kind', ['jsonl','tsv','csv'])
def test_labelled(lm_data, tmp_path, name, label, n, C, kind):
    "The same examples, whatever the kind of file"
    rows = [(r['text'], str(r[label])) for r in jsonl(lm_data(name)/'train.jsonl')]; f = tmp_path/f'{name}.{kind}'
    if kind == 'jsonl': write_rows(f, rows)
    elif kind == 'tsv': f.write_text(''.join(f'{t}\t{l}\n' for t,l in rows), encoding='utf-8')
    else: pd.DataFrame(rows, columns=['text','label']).to_csv(f, index=False)
    d = read_labelled(f)
    assert len(d) == n and len(d.names) == C and sum(d.counts.values()) == n
    assert list(zip(d.texts, (d.names[i] for i in d.labels))) == rows

def test_labelled_as_it_is(lm_data):
    "Other column names; a test file numbered by the training file"
    d = lm_data('trec'); train = read_labelled(d/'train.jsonl', label='coarse'); test = read_labelled(d/'test.jsonl', train.names, label='coarse')
    assert test.names == train.names and len(test) == 500
    few = train.few(8, 0)
    assert set(few.counts.values()) == {8}

def test_classification_views(lm_data, tok):
    d = read_labelled(lm_data('trec')/'train.jsonl', label='coarse').pick(range(100)); task = Classification(d, tok, 16); v = task.encode([3,1,4])
    assert v.labels['cls'].tolist() == [d.labels[i] for i in (3,1,4)] and v.inputs['input_ids'].shape == v.inputs['attention_mask'].shape
    assert sorted(r for rows,_ in task.views(32) for r in rows) == list(range(100)) and v.inputs['input_ids'].shape[1] <= 16

def test_tinyshakespeare(lm_data, tmp_path):
    "Speeches; nothing but empty lines between them is lost; blocks keep their borders"
    f = lm_data('tinyshakespeare')/'input.txt'; texts = read_texts(f); tok = train_tokenizer(texts[:2000], 1000, 'bpe')
    assert '\n\n'.join(texts) == re.sub(r'\n{3,}', '\n\n', f.read_text(encoding='utf-8').strip()) and len(texts) > 7000
    b = blocks(texts, tok, 64, cache=tmp_path); x,doc = b.batch(torch.arange(50)); y = clm(x, doc).labels['lm']
    assert (y[:,:-1][doc[:,1:] != doc[:,:-1]] == IGNORE).all() and (y != IGNORE).float().mean() > .8
    text = tok.decode(x.flatten().tolist(), skip_special_tokens=True)
    assert ''.join(texts)[:len(text)] == text and int(token_bytes(tok)[x].sum()) == len(text.encode())
    assert blocks(texts, tok, 64, cache=tmp_path).fingerprint == b.fingerprint and len(list(tmp_path.glob('*.safetensors'))) == 1

def test_gutenberg_gzipped(lm_data):
    d = lm_data('gutenberg_en'); texts = read_texts(d/'valid.jsonl.gz')
    assert texts == [r['text'] for r in jsonl(d/'valid.jsonl.gz')] and len(texts) == 6
