"With `Trainer`: our views are its collator, our loss its loss; and what it saves goes on here"
from functools import partial

import pytest, torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from lm_lifecycle.autoencoding import Pairs
from lm_lifecycle.core import BadInput, Plan
from lm_lifecycle.network import Size, build, double
from lm_lifecycle.pretraining import view_of
from lm_lifecycle.tasks.classification import Classification
from lm_lifecycle.text import Labelled
from lm_lifecycle.tokens import Vocab, blocks, stream
from lm_lifecycle.training import accelerator, accumulate, collator, hf_loss

N,T = 16,24
PLAN = Plan('cpu','fp32','eager')
KINDS = [('mlm','bert'),('clm','gpt2'),('clm','bert'),('cls','bert'),('dae','bert'),('plm','llama')]

@pytest.fixture(scope='module')
def views(tok, texts, tmp_path_factory):
    "(kind, family) → row numbers → view: real text, rows with different numbers of answers"
    data,vocab = blocks(texts, tok, T, cache=tmp_path_factory.mktemp('cache')), Vocab.of(tok)
    task = Classification(Labelled([t[:20 + 5*i] for i,t in enumerate(texts[:N])], [i%3 for i in range(N)], ['a','b','c']), tok, T)
    return lambda kind, family: task.encode if kind == 'cls' else lambda rows: view_of(kind, data, rows, vocab, family=family)

def network(kind, family, tok, dtype):
    "Masks of their own, `dae`'s and `plm`'s, are given to `transformers` as truth values, which SDPA reads"
    attn,more = 'sdpa' if kind in ('dae','plm') else 'eager', dict(num_labels=3) if kind == 'cls' else {}
    n = build(kind, Size(2, 64, T=2*T), Vocab.of(tok), family, attn=attn, **more)
    if dtype == torch.double: n.model = double(n.model)
    return n.train()

class Keep(TrainerCallback):
    "The gradient, before it is used"
    def on_pre_optimizer_step(self, args, state, control, model=None, **kw):
        self.found = torch.cat([p.grad.flatten() for _,p in sorted(model.named_parameters()) if p.grad is not None]).double()

def trainer(model, view, out, k=1, **kw):
    args = TrainingArguments(out, per_device_train_batch_size=N//k, gradient_accumulation_steps=k, max_steps=1, max_grad_norm=0, use_cpu=True,
                             report_to=[], disable_tqdm=True, save_strategy='no', logging_strategy='no', **kw)
    return Trainer(model, args, data_collator=collator(view), train_dataset=range(N), eval_dataset=range(N),
                   compute_loss_func=partial(hf_loss, shift=view([0]).shift))

def ours(net, view):
    acc = accelerator(PLAN); accumulate(acc, net, view, 1, PLAN)
    return torch.cat([p.grad.flatten() for _,p in sorted(net.model.named_parameters()) if p.grad is not None]).double()

@pytest.mark.parametrize('dtype,most', [(torch.double,1e-9), (torch.float,1e-5)])
@pytest.mark.parametrize('kind,family', KINDS)
def test_accumulation_is_exact(views, tok, tmp_path, kind, family, dtype, most):
    "1, 2, 4 micro-batches: the gradient that our own loop computes of the whole batch"
    f = views(kind, family); view = lambda rows: f(torch.as_tensor(rows)); right = ours(network(kind, family, tok, dtype), view(torch.arange(N)))
    for k in (1,2,4):
        keep = Keep(); t = trainer(network(kind, family, tok, dtype).model, view, tmp_path, k); t.add_callback(keep); t.train()
        assert (keep.found - right).norm()/right.norm() <= most, k

def test_evaluation(views, tok, tmp_path):
    "Where `Trainer` counts a batch at a time, a batch's loss is its mean"
    f = views('mlm', 'bert'); view = lambda rows: f(torch.as_tensor(rows)); net = network('mlm', 'bert', tok, torch.double).eval()
    with torch.no_grad(): right = float(net(view(torch.arange(N)))['lm'].mean)
    assert abs(trainer(net.model, view, tmp_path, per_device_eval_batch_size=N).evaluate()['eval_loss'] - right) <= 1e-9

def test_answers_of_several_kinds_are_refused(tok, texts):
    pairs = Pairs.of(*stream(texts, tok), Vocab.of(tok))
    with pytest.raises(BadInput, match='lm, cls'): collator(lambda rows: view_of('nsp', pairs, rows, Vocab.of(tok), T=32))([0,1])

@pytest.mark.parametrize('at', ['.','checkpoint-1'])
def test_what_it_saves_we_fine_tune(views, tok, work, cli, tmp_path, at):
    "Its folder, or a checkpoint of it: pickles lie beside the weights, and nobody opens them"
    net = network('mlm', 'bert', tok, torch.float); f = views('mlm', 'bert'); out = tmp_path/'theirs'
    t = trainer(net.model, lambda rows: f(torch.as_tensor(rows)), out); t.processing_class = tok; t.args.save_strategy = 'steps'; t.args.save_steps = 1
    t.train(); t.save_model(); start = {n: w.clone() for n,w in AutoModelForMaskedLM.from_pretrained(out/at).named_parameters()}
    code,_,err = cli('finetune', '--task', 'text-classification', '--model-name-or-path', out/at, '--train-file', work/'labels.jsonl',
                     '--output-dir', tmp_path/'ours', '--max-seq-length', 32, '--num-train-epochs', .1, '--learning-rate', 1e-9)
    assert code == 0, err
    for n,w in AutoModelForSequenceClassification.from_pretrained(tmp_path/'ours').named_parameters():
        if n in start: assert (w - start[n]).abs().max() <= 1e-6, n
