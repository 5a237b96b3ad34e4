"Bad input, second part: what is found before the first step, what trains all the same, and what stops at once"
import json, math

import pytest, torch
from safetensors.torch import load_file

from lm_lifecycle.autoencoding import Pairs
from lm_lifecycle.core import BadInput, IGNORE, NotFinite, Plan, View, total
from lm_lifecycle.network import FAMILIES, Size, build, to_hf
from lm_lifecycle.pretraining import lesson, pretrain, save_model, view_of
from lm_lifecycle.tasks.generation import Generation, Sources
from lm_lifecycle.tokens import Blocks, Vocab, bare, blocks
from lm_lifecycle.training import Recipe, newest, train

WHAT = {'B13': 'text longer than the positions; tokenizer larger than the model', 'B14': 'nothing masked; all answers −100; a batch of one',
        'B15': 'loss or gradient NaN or infinite', 'B16': 'permutation: odd length, length 2 to 5, no padding token',
        'B17': 'causal, the padding token is the end token'}
P32 = Plan('cpu', 'fp32', 'eager')

def refused(answer, code, *names):
    got,_,err = answer; assert got == code and len(err.splitlines()) == 1 and all(str(n) in err for n in names), answer

def specials(tok, **names):
    "The same words, other special tokens"
    return type(tok)(tokenizer_object=bare(tok), **names)

@pytest.fixture(scope='module')
def made(tmp_path_factory, work, tok):
    "Folders of small models: `good`; `short`, with 16 positions; `narrow`, with half as many words as its tokenizer"
    d = tmp_path_factory.mktemp('models'); keep = lambda net, n: save_model(net, tok, d/n, 'mlm', 'Untrained.', 'nothing', {})
    keep(build('mlm', Size(1, 64, T=32), Vocab.of(tok)), 'good'); keep(build('mlm', Size(1, 64, T=16), Vocab.of(tok)), 'short')
    keep(build('mlm', Size(1, 64, T=32), Vocab.of(tok), vocab_size=300), 'narrow'); return d

@pytest.fixture
def labelled(tmp_path):
    "Short texts and one long one, which the first batch does not hold"
    rows = [f'short text {i}\t{"ab"[i%2]}\n' for i in range(64)]; rows[40] = ' '.join(f'word{i}' for i in range(60))+'\ta\n'
    (tmp_path/'l.tsv').write_text(''.join(rows)); return tmp_path/'l.tsv'

@pytest.fixture
def run(cli, work, made, labelled, tmp_path):
    "The three commands that train, on a model and rows of `T` tokens"
    def f(what, model, T=32, *more):
        out = '--output-dir', tmp_path/what, '--max-seq-length', T, '--model-name-or-path', made/model, '--precision', 'fp32', *more
        if what == 'pretrain': return cli('pretrain', '--text', work/'text.txt', '--max-steps', 6, '--batch-size', 8, *out)
        if what == 'finetune': return cli('finetune', '--task', 'text-classification', '--train-file', labelled, '--batch-size', 8, *out)
        code,*_ = cli('preprocess', '--input', work/'text.txt', '--output', tmp_path/'x.tensor', '--max-seq-length', T, '--tokenizer-name', made/model); assert code == 0
        return cli('train', '--mlm', '--do-train', '--max-steps', 6, '--train-file', tmp_path/'x.tensor', *out)
    return f

COMMANDS = 'train','pretrain','finetune'

@pytest.mark.parametrize('what', COMMANDS)
def test_B13_rows_longer_than_the_positions(run, what, monkeypatch):
    monkeypatch.setattr('lm_lifecycle.training.one_step', None); refused(run(what, 'short'), 2, 32, 16, 'positions')

@pytest.mark.parametrize('what', COMMANDS)
def test_B13_tokenizer_larger_than_the_model(run, what, monkeypatch):
    monkeypatch.setattr('lm_lifecycle.training.one_step', None); refused(run(what, 'narrow'), 2, 300, 600)

@pytest.mark.parametrize('size,why', [(Size(1, 64, T=16), 'has 16 positions'), (Size(1, 64, T=32), 'the model 300')])
def test_B13_in_a_notebook(tok, texts, monkeypatch, size, why):
    monkeypatch.setattr('lm_lifecycle.training.one_step', None); b = blocks(texts[:40], tok, 32)
    net = build('clm', size, Vocab.of(tok), 'gpt2', **(dict(vocab_size=300) if '300' in why else {}))
    with pytest.raises(BadInput, match=why): pretrain('clm', b, b, tok, Size(1, 64, T=32), 3, 8, family='gpt2', net=net, on=P32)

@pytest.mark.parametrize('what', COMMANDS)
def test_B13_what_fits_trains(run, what, tmp_path):
    code,_,err = run(what, 'good'); assert code == 0 and (tmp_path/what/'model.safetensors').exists(), err

CASES = [(k,f) for f,kinds in FAMILIES.items() for k in kinds.split()]
VOCAB = Vocab(60, 0, 2, 3, 4, (0,1,2,3,4), stops=(5,))

def data_of(kind, T=8, n=24):
    "Rows of one word each, the rest special tokens; or pairs of short sentences"
    if kind == 'nsp': ids = torch.arange(6, 6+n*3)%50 + 6; ids[2::3] = 5; return Pairs.of(ids, torch.arange(len(ids))//12, VOCAB)
    ids = torch.full((n,T), VOCAB.sep); ids[:,0] = VOCAB.cls; ids[torch.arange(n), 1 + torch.arange(n)%(T-1)] = 6 + torch.arange(n)
    return Blocks(ids.int(), torch.zeros(n, T).int(), '')

@pytest.mark.parametrize('kind,family', CASES)
def test_B14_every_row_asks(kind, family):
    "One word in a row is asked for, by every objective and in a batch of one; the loss is a number"
    data,net = data_of(kind), build(kind, Size(1, 64, 60, 32), VOCAB, family)
    for r in range(6):
        v = view_of(kind, data, torch.tensor([r]), VOCAB, (0,kind,r), family, T=8); loss = total(net(v)); loss.backward()
        assert v.counts['lm'] >= 1 and 0 < loss.item() < math.inf and all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())

def test_B14_rows_without_words_are_passed_over(tok):
    "… and counted"
    data = data_of('mlm'); data.ids[5:8] = VOCAB.sep; seen = lesson('mlm', data, VOCAB, 7)
    assert seen.passed_over == 3 and all((v != IGNORE).any(1).all() for v in (seen(s).labels['lm'] for s in range(6)))
    rows = {tuple(r) for s in range(3) for r in seen(s).labels['lm'].clamp(min=0).sum(1, keepdim=True).tolist()}; assert len(rows) == 21

def batch_of(view, at, other): return lambda step: other if step in at else view

def view(asked=True):
    x = torch.arange(6, 22).view(2, 8); y = torch.full_like(x, IGNORE); y[:,3] = x[:,3]
    return View(dict(input_ids=x), dict(lm=y if asked else torch.full_like(x, IGNORE)))

def test_B14_nothing_asked_from_the_start():
    with pytest.raises(BadInput, match='nothing is asked'): train(build('mlm', Size(1, 64, 60, 8), VOCAB), lambda s: view(False), Recipe(3), P32)

def test_B14_nothing_asked_on_the_way():
    "Steps without answers are skipped and counted: no weight moves, and no loss is made up"
    net = build('mlm', Size(1, 64, 60, 8), VOCAB); seen = []; look = lambda n, step: dict(w=float(sum(p.detach().double().sum() for p in n.parameters())))
    h = train(net, batch_of(view(), (3,4), view(False)), Recipe(8, lr=1e-2), P32, probe=look, probe_at=range(9)); w = [x['w'] for x in h]
    assert w[3] == w[4] == w[5] and len(set(w)) == 7 and [x['step'] for x in h if x.get('skipped')] == [3,4]
    assert all(math.isfinite(l) and l > 0 for x in h for l in x.get('loss', {}).values())

@pytest.mark.parametrize('objective', ['mlm','dae','clm','plm'])
def test_B14_batch_of_one(cli, work, made, tmp_path, objective):
    code,out,err = cli('pretrain', '--objective', objective, '--text', work/'text.txt', '--tokenizer-name', made/'good', '--batch-size', 1, '--max-steps', 3,
                       '--max-seq-length', 8, '--output-dir', tmp_path/'o', '--json')
    assert code == 0 and math.isfinite(json.loads(out)['loss']), err

@pytest.mark.parametrize('what', COMMANDS)
def test_B15_loss_not_finite(run, what, tmp_path):
    "The step is named; the last checkpoint is whole and finite; nothing pretends to be a model"
    code,_,err = run(what, 'good', 32, '--learning-rate', 1e30, '--save-steps', 1); path,m = newest(tmp_path/what/'checkpoints')
    assert code == 5 and len(err.splitlines()) == 1 and f"step {m['step']}:" in err and 'learning rate' in err
    assert all(t.isfinite().all() for t in load_file(path/'model.safetensors').values()) and not (tmp_path/what/'model.safetensors').exists()

@pytest.mark.parametrize('bad', [math.nan,math.inf])
def test_B15_gradient_not_finite(tmp_path, bad):
    "A finite loss with a gradient that is not: stopped before the weights move, and gone on from there, the same bits"
    def go(out, at=None):
        net = build('mlm', Size(1, 64, 60, 8), VOCAB); w = net.model.bert.encoder.layer[0].output.dense.weight; step = [0]
        w.register_hook(lambda g: g*bad if step[0] == at else g)
        def batch(s): step[0] = s; return view()
        train(net, batch, Recipe(6, lr=1e-3), P32, out, every=2); return net
    with pytest.raises(NotFinite, match='step 4: .*gradient norm'): go(tmp_path/'a', 4)
    assert newest(tmp_path/'a')[1]['step'] == 4
    for a,b in zip(go(tmp_path/'a').parameters(), go(tmp_path/'b').parameters()): assert torch.equal(a, b)

PERMUTED = [f for f,kinds in FAMILIES.items() if 'plm' in kinds.split()]

@pytest.mark.parametrize('family', PERMUTED)
@pytest.mark.parametrize('T', [2,3,4,5,7])
def test_B16_any_length_without_padding(tok, texts, family, T):
    t = specials(tok, mask_token='[MASK]', cls_token='[CLS]', sep_token='[SEP]'); assert t.pad_token is None
    b = blocks(texts[:20], t, T); _,r = pretrain('plm', b, b, t, Size(1, 64, T=T), 12, 16, 1e-2, family=family, on=P32, count=False)
    losses = [l for _,l in r['valid']]; assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    y = lesson('plm', b, Vocab.of(t), 64, family=family)(0).labels['lm']; assert (y != IGNORE).sum(1).eq(1).all() # A sixth of T, and one at least

def test_B16_command(cli, work, tok, tmp_path):
    specials(tok, mask_token='[MASK]', cls_token='[CLS]', sep_token='[SEP]').save_pretrained(tmp_path/'tok')
    code,out,err = cli('pretrain', '--objective', 'plm', '--model-type', 'xlnet', '--text', work/'text.txt', '--tokenizer-name', tmp_path/'tok', '--max-steps', 4,
                       '--batch-size', 8, '--max-seq-length', 5, '--output-dir', tmp_path/'o', '--json')
    assert code == 0 and math.isfinite(json.loads(out)['loss']), err

def test_B17_the_end_is_asked_for(tok, texts):
    "In every text that ends inside a block, also in what `Trainer` would get"
    end = specials(tok, bos_token='[SEP]', eos_token='[SEP]', pad_token='[SEP]'); v = Vocab.of(end); assert v.pad == v.sep == v.cls
    b = blocks(texts[:40], end, 32, cache=None); x,doc = b.batch(torch.arange(len(b))); y = view_of('clm', b, torch.arange(len(b)), v).labels['lm']
    ends = (x[:,1:] == v.sep) & (doc[:,1:] == doc[:,:-1]); assert ends.any() and (y[:,:-1][ends] == v.sep).all()
    assert (to_hf(view_of('clm', b, torch.arange(len(b)), v, family='gpt2'))['labels'][:,1:][ends] == v.sep).all()

def test_B17_padding_is_not_asked_for(tok):
    "A row that is padded with the end token has one end to say, its own"
    end = specials(tok, bos_token='[SEP]', eos_token='[SEP]', pad_token='[SEP]'); v = Vocab.of(end)
    t = Generation(Sources(['a question', 'another, much longer question'], ['yes', 'no, never']), end, 32, config=build('clm', Size(1, 64), v, 'gpt2').model.config, form='causal')
    y = t.encode([0,1]).labels['lm']; assert ((y == v.sep).sum(1) == 1).all() and [int(r[r != IGNORE][-1]) for r in y] == [v.sep]*2

def test_B17_it_learns_to_end(tok):
    "After its two words the text ends, and the network says so"
    end = specials(tok, eos_token='[SEP]', bos_token='[SEP]', pad_token='[SEP]', mask_token='[MASK]'); v = Vocab.of(end)
    b = blocks(['the king']*64, end, 16); net,_ = pretrain('clm', b, b, end, Size(1, 64, T=16), 80, 8, 1e-2, family='gpt2', on=P32, count=False)
    ids = torch.tensor([[v.sep, *end('the king', add_special_tokens=False)['input_ids']]])
    assert net.eval().model(ids).logits[0,-1].softmax(-1)[v.sep] > .9
