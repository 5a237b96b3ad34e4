"Strategies keep their word: what is frozen stays, what is cached is the same, what is killed goes on"
import json, warnings

import pytest, torch
from transformers import AutoModelForSequenceClassification

from lm_lifecycle.cli.main import main
from lm_lifecycle.core import BadInput, Mismatch, Plan
from lm_lifecycle.finetuning import STRATEGIES, Activations, Course, ask, cacheable, cost, depth, finetune, freeze, levels, strategy
from lm_lifecycle.network import Size, above, build, load
from lm_lifecycle.pretraining import save_model
from lm_lifecycle.tasks.answering import Answering, Questions
from lm_lifecycle.tasks.classification import Classification, predict
from lm_lifecycle.tasks.generation import Generation, Sources
from lm_lifecycle.tasks.tagging import Tagged, Tagging
from lm_lifecycle.text import Labelled
from lm_lifecycle.tokens import Vocab

FP32,BF16,SIZE = Plan('cpu','fp32','eager'), Plan('cpu','bf16','eager'), Size(3, 64, T=64)
ONE_STACK = 'bert','modernbert','llama','gpt2'

@pytest.fixture(scope='module')
def task(tok, texts):
    "Forty real texts of different lengths; does one mention numbers?"
    ts = [t[:40 + 7*i] for i,t in enumerate(texts[:40])]
    return Classification(Labelled(ts, [i%3 for i in range(40)], ['a','b','c']), tok, 64)

def net(task, family='bert', seed=0): return build('cls', SIZE, task.vocab, family, seed, dropout=.1, **task.head)
def bits(net): return {n: w.detach().clone() for n,w in net.state_dict().items()}

@pytest.mark.parametrize('how', STRATEGIES)
def test_frozen_weights_keep_their_bits(task, how):
    m = net(task); before,level = bits(m), {n: levels(m.model)[w] for n,w in m.named_parameters()}
    finetune(m, task, how, epochs=0, least=12, B=8); moved = {level[n] for n,w in m.named_parameters() if not torch.equal(w, before[n])}
    assert moved == {'end-to-end':{0,1,2,3,4}, 'last-layer':{4}, 'last-1':{3,4}, 'layer-wise':{0,1,2,3,4}, 'lora':{1,2,3,4}}[how]
    assert all(w.requires_grad for w in m.parameters()) and m.below == 0 and not m.still

@pytest.mark.parametrize('family', ONE_STACK)
def test_activations_are_the_networks_own(task, family, tmp_path):
    m = net(task, family).eval()
    for k in range(3):
        freeze(m, k); assert cacheable(m, task); acts = Activations(m, task, FP32, tmp_path); rows = [3,1,30,17]; v = task.encode(rows)
        with torch.no_grad():
            with above(m.model, m.below, acts(rows, v.inputs['input_ids'].shape[1])): known = m.model(**v.inputs).logits
            assert (known - m.model(**v.inputs).logits).abs().max() <= 1e-5

@pytest.mark.parametrize('how', ['last-layer','last-2','layer-wise'])
@pytest.mark.parametrize('family', ['bert','gpt2'])
def test_cache_changes_no_prediction(task, family, how):
    def tuned(cache):
        m = net(task, family); finetune(m, task, how, epochs=0, least=12, B=8, p=FP32, cache=cache); return predict(m, task, FP32)
    with_it,without = tuned(True), tuned(False)
    assert torch.equal(with_it.argmax(1), without.argmax(1)) and (with_it - without).abs().max() < 1e-4

def test_two_stacks_and_random_rows_have_no_cache(task):
    m = net(task, 'bart'); freeze(m, 1); assert not cacheable(m, task)
    finetune(m, task, 'last-1', epochs=0, least=2, B=8)

def test_one_pass_serves_every_stage(task, monkeypatch, tmp_path):
    made,write = [],Activations.write; monkeypatch.setattr(Activations, 'write', lambda self, *a: (made.append(sorted(a[3])), write(self, *a)))
    finetune(net(task), task, 'layer-wise', epochs=0, least=32, B=16, out=tmp_path)
    assert made == [[1,2,3]] and not list(tmp_path.glob('*.bin'))

def test_a_cache_must_pay(task):
    course = lambda steps, how: Course(net(task), task, strategy(how, 3), steps, 8, 0, FP32)
    assert course(6, 'last-layer').pays(0) and not course(5, 'last-layer').pays(0) and not course(50, 'end-to-end').pays(0)

@pytest.mark.parametrize('how', ['layer-wise','lora'])
def test_killed_between_stages_ends_in_the_same_bits(task, how, tmp_path):
    class Killed(Exception): pass
    def dying(at):
        def probe(m, step):
            if step == at: raise Killed
            return {}
        return dict(probe=probe, probe_at=range(99))
    kw = dict(epochs=0, least=16, B=8, p=BF16, every=3, lr=1e-2); whole = net(task); h = finetune(whole, task, how, **kw)
    for at in (5,9,13):
        with pytest.raises(Killed): finetune(net(task, seed=0 if at == 5 else at), task, how, out=tmp_path, **kw, **dying(at))
    with pytest.raises(Mismatch, match='strategy'): finetune(net(task), task, 'last-1', out=tmp_path, **kw)
    again = net(task, seed=7); assert finetune(again, task, how, out=tmp_path, **kw) == h
    assert all(torch.equal(a, b) for a,b in zip(whole.parameters(), again.parameters()))

def test_unfrozen_weights_begin_with_fresh_moments(task, monkeypatch):
    from lm_lifecycle import training
    seen,step = {},training.one_step
    def spy(acc, model, opt, *a):
        out = step(acc, model, opt, *a); seen[a[1]] = {levels(m.model)[w]: int(s['step']) for w,s in opt.optimizer.state.items()}
        return out
    m = net(task); monkeypatch.setattr(training, 'one_step', spy); finetune(m, task, 'layer-wise', epochs=0, least=16, B=8)
    assert seen[3] == {4:4} and seen[4] == {4:5, 3:1} and seen[15] == {4:16, 3:12, 2:8, 1:4, 0:4}

def test_lora_is_merged_into_a_plain_checkpoint(task, tok, tmp_path):
    m = net(task); finetune(m, task, 'lora', epochs=0, least=8, B=8, p=FP32); save_model(m, tok, tmp_path/'m', 'cls', 'Tuned.', 'texts', {})
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path/'m', attn_implementation='eager').eval(); v = task.encode(range(8)); m.eval()
    with torch.no_grad(): assert torch.equal(again(**v.inputs).logits, m.model(**v.inputs).logits)
    assert not any('lora' in n for n in again.state_dict())

def test_layer_wise_costs_less(task):
    c = {h: cost(net(task), task, h, 200, 8)['flops'] for h in ('end-to-end','layer-wise','last-layer')}
    assert c['layer-wise'] <= .6*c['end-to-end'] and c['last-layer'] <= .1*c['end-to-end']

def test_wrong_head_is_refused_before_training(task):
    m = build('cls', SIZE, task.vocab, num_labels=1, problem_type='regression')
    with pytest.raises(BadInput, match='num_labels|regression|classes'): finetune(m, task, epochs=0, least=1)

ITEMS = {'cls': ['One text.','Another.'], 'tag': ['a sentence to tag', 'and one'], 'qa': [('Who?', 'It was Ada who did it.')],
         'seq2seq': ['Say this shorter.'], 'clm': ['Go on from']}

@pytest.mark.parametrize('kind,family', [('cls','bert'),('tag','bert'),('qa','bert'),('seq2seq','bert'),('seq2seq','bart'),('clm','gpt2')])
def test_ask_reads_raw_text(kind, family, tok, tmp_path):
    head = Tagging(Tagged([['a']], [['N']], ['N','V'], None), tok).head if kind in ('cls','tag') else {}
    m = build(kind, SIZE, Vocab.of(tok), family, **head); save_model(m, tok, tmp_path/'m', kind, 'Untrained.', 'nothing', {})
    said = ask(tmp_path/'m', ITEMS[kind], 48); assert len(said) == len(ITEMS[kind]) and json.dumps(said)
    with pytest.raises(BadInput): ask(tmp_path/'none', ITEMS[kind])

@pytest.fixture(scope='module')
def folder(tok, tmp_path_factory):
    d = tmp_path_factory.mktemp('model'); save_model(build('mlm', SIZE, Vocab.of(tok)), tok, d/'m', 'mlm', 'Untrained.', 'nothing', {}); return d

qa = lambda **kw: json.dumps(dict(dict(id='1', title='', question='Who?', context='It was Ada.', answers=dict(text=['Ada'], answer_start=[7])), **kw))
BAD = [('text-classification', 't.tsv', 'good\ta\nno tab\n', 't.tsv:2', 'tab'), ('text-classification', 't.tsv', 'good\ta\ttoo\nx\tb\n', 't.tsv:1', 'cells'),
       ('text-classification', 't.csv', 'text,label\n"one" more,a\nb,c\n', 't.csv:2', 'quote'), ('regression', 't.tsv', 'one\t0.5\ntwo\tmany\n', 't.tsv:2', 'many'),
       ('regression', 't.tsv', 'one\t0\ntwo\t1\n', 't.tsv', 'Classification'), ('text-classification', 't.tsv', 'one\ta\ntwo\ta\n', 't.tsv', 'two classes'),
       ('token-classification', 't.jsonl', '{"tokens":["a","b"],"tags":["O"]}', 't.jsonl:1', '1'), ('question-answering', 't.jsonl', qa(context=''), 't.jsonl:1', 'context'),
       ('question-answering', 't.jsonl', qa(answers=dict(text=['Bob'], answer_start=[0])), 't.jsonl:1', 'Bob'),
       ('text2text-generation', 't.tsv', 'a source\ta target\nalone\n', 't.tsv:2', 'tab'), ('text2text-generation', 't.tsv', 'a source\t \n', 't.tsv:1', 'empty')]

@pytest.mark.parametrize('kind,name,text,where,what', BAD)
def test_bad_files_are_one_line_and_exit_2(kind, name, text, where, what, folder, tmp_path, capsys):
    (tmp_path/name).write_text(text); warnings.simplefilter('ignore')
    code = main(['finetune', '--task', kind, '--model-name-or-path', str(folder/'m'), '--train-file', str(tmp_path/name), '--output-dir', str(tmp_path/'out')])
    said = capsys.readouterr().err
    assert code == 2 and said.count('\n') == 1 and where in said and what in said and ';' in said and not (tmp_path/'out').exists(), said

def test_labels_from_one_and_bytes_for_characters_are_understood(folder, tmp_path):
    (tmp_path/'t.tsv').write_text('one text\t1\nanother text\t2\n'*4); context = 'Où était Ada? Là.'
    (tmp_path/'q.jsonl').write_text(qa(context=context, answers=dict(text=['Ada'], answer_start=[len(context[:9].encode())])))
    tune = lambda task, f: main(['finetune', '--task', task, '--model-name-or-path', str(folder/'m'), '--train-file', str(tmp_path/f), '--max-seq-length', '48',
                                 '--output-dir', str(tmp_path/task), '--num-train-epochs', '1', '--batch-size', '1'])
    with pytest.warns(UserWarning, match='bytes'): assert tune('question-answering', 'q.jsonl') == 0
    assert tune('text-classification', 't.tsv') == 0
    assert load('cls', tmp_path/'text-classification').model.config.id2label == {0:'1', 1:'2'}
