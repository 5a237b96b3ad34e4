"Estimates, intervals, tests, calibration and log P, against simulation, closed forms, SciPy, scikit-learn and plain loops"
import itertools, math

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from sklearn import metrics

from lm_lifecycle.core import BadInput
from lm_lifecycle.evaluation import (bootstrap, brier, ece, fit_temperature, framed, log_p, mcnemar, over_seeds, pseudo_log_p,
                                     randomised, redraw, reliability, wilson)
from lm_lifecycle.network import Size, build
from lm_lifecycle.tokens import Vocab

settings.register_profile('house', deadline=None, max_examples=30, derandomize=True); settings.load_profile('house')
SEEDS = st.integers(0, 2**31-1)

def covered(intervals, truth): return np.mean([i.low <= truth <= i.high for i in intervals])

@pytest.mark.parametrize('p', [.5, .8, .95])
def test_wilson_covers(p):
    c = np.random.default_rng(0).binomial(50, p, 2000)
    assert .92 < covered([wilson(int(i), 50) for i in c], p) < .98

@pytest.mark.parametrize('draw,truth', [(lambda g: g.normal(2, 3, 60), 2), (lambda g: g.exponential(1, 60), 1), (lambda g: g.random(60) < .7, .7)],
                         ids=['normal','skewed','right or wrong'])
def test_bootstrap_covers(draw, truth):
    g = np.random.default_rng(1)
    intervals = [bootstrap(lambda i: x[i].mean(1), 60, 400, (r,'cover')) for r in range(400) for x in [draw(g)]]
    assert .90 < covered(intervals, truth) < .98

def test_seeds_cover():
    g = np.random.default_rng(2); assert .93 < covered([over_seeds(g.normal(1, 1, 5)) for _ in range(1500)], 1) < .97

@given(SEEDS, st.integers(1, 40), st.integers(1, 60))
def test_redraw_is_counted(seed, n, k):
    "Rows in range, `k` draws; a draw does not depend on how many there are"
    i = np.concatenate(list(redraw(n, k, (seed,)))); j = np.concatenate(list(redraw(n, k + 5, (seed,))))
    assert i.shape == (k,n) and i.min() >= 0 and i.max() < n and (j[:k] == i).all()

def test_redraw_in_parts():
    "Many examples: the draws come in parts, all of them, each row equally often"
    parts = list(redraw(2**18, 10)); i = np.concatenate(parts)
    assert len(parts) > 1 and i.shape == (10,2**18) and abs(np.bincount(i.ravel(), minlength=2**18).mean() - 10) < 1e-9
    assert stats.kstest(i[0]/2**18, 'uniform').pvalue > .01

@given(SEEDS)
def test_bootstrap_is_scipys(seed):
    x = np.random.default_rng(seed).exponential(1, 80); i = bootstrap(lambda i: x[i].mean(1), 80, 4000)
    theirs = stats.bootstrap((x,), np.mean, method='percentile', n_resamples=4000, rng=0).confidence_interval
    assert i.mean == pytest.approx(x.mean()) and np.allclose([i.low,i.high], theirs, atol=.12*x.std())

def test_corpus_metric_is_not_a_mean_of_means():
    "Hits over sayings of the whole corpus, one draw at a time and in one go"
    hits,all_ = np.array([1,0,9]), np.array([1,3,10]); i = next(redraw(3, 50))
    assert np.allclose(hits[i].sum(1)/all_[i].sum(1), [sum(hits[j] for j in r)/sum(all_[j] for j in r) for r in i])
    assert bootstrap(lambda i: hits[i].sum(1)/all_[i].sum(1), 3, 50).mean == 10/14

def test_metric_without_a_value():
    with np.errstate(invalid='ignore'), pytest.raises(BadInput, match='resamples of 3'):
        bootstrap(lambda i: np.array([0,0,1])[i].sum(1)/np.array([0,0,1])[i].sum(1), 3)

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)

@given(PAIRS)
def test_mcnemar(pairs):
    a,b = np.array(pairs).T; c,d = int((a & ~b).sum()), int((b & ~a).sum()); p = mcnemar(a, b)
    assert p == pytest.approx(min(1, 2*sum(math.comb(c+d, i) for i in range(min(c, d) + 1))/2**(c+d))) == mcnemar(b, a)
    assert p == pytest.approx(randomised(a, b, k=4000), abs=.05)

@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=9))
def test_randomised_is_exact(pairs):
    "All $2^n$ swaps"
    a,b = np.array(pairs, float).T; n = len(a); seen = abs(a.sum() - b.sum())
    far = [abs(sum(s*(x - y) for s,x,y in zip(signs, a, b))) >= seen - 1e-9 for signs in itertools.product((1,-1), repeat=n)]
    assert randomised(a, b, k=4000) == pytest.approx(np.mean(far), abs=.05)

def test_randomised_keeps_its_promise():
    "Two equal systems: p is below .05 in about one case of twenty; an unequal pair is found out"
    g = np.random.default_rng(3); ps = np.array([randomised(*g.normal(size=(2,40)), k=200, key=(r,'null')) for r in range(600)])
    assert .03 < (ps <= .05).mean() < .07 and .4 < ps.mean() < .6
    x = g.normal(size=100); assert randomised(x, x + 1) == 1/2001

def test_randomised_on_counts():
    "A corpus metric of two counts an example: with one denominator it is the mean, whose p is known"
    g = np.random.default_rng(4); a,b = (g.integers(0, 3, 30) for _ in range(2)); ones = np.ones(30)
    ratio = lambda x: x[...,0].sum(1)/x[...,1].sum(1)
    assert randomised(np.stack([a,ones], 1), np.stack([b,ones], 1), ratio) == randomised(a, b)

@st.composite
def forecasts(draw):
    g = np.random.default_rng(draw(SEEDS)); n,C = draw(st.integers(1, 200)), draw(st.integers(2, 6))
    z = g.normal(0, draw(st.sampled_from([.5,2,6])), (n,C)); return z, np.exp(z)/np.exp(z).sum(1, keepdims=True), g.integers(0, C, n)

@given(forecasts(), st.integers(1, 20))
def test_ece(f, M):
    "Bin by bin, in a plain loop"
    _,p,y = f; sure,right = p.max(1), p.argmax(1) == y; total = 0.
    for m in range(M):
        at = (sure > m/M) & (sure <= (m+1)/M)
        if at.any(): total += at.mean()*abs(right[at].mean() - sure[at].mean())
    n,*_ = reliability(p, y, M)
    assert ece(p, y, M) == pytest.approx(total, abs=1e-9) and n.sum() == len(y) and n.min() > 0

def test_an_edge_belongs_to_the_lower_bin(): assert list(reliability([[.5,.5],[1,0]], [0,0], 2)[0]) == [1,1]

@given(forecasts())
def test_brier(f):
    _,p,y = f; assert brier(torch.tensor(p), torch.tensor(y)) == pytest.approx(metrics.brier_score_loss(y, p, labels=range(p.shape[1]), scale_by_half=False))

@given(forecasts(), st.floats(.2, 5))
def test_temperature(f, c):
    "The best of a fine grid; never another answer; scaled logits, scaled temperature"
    z,_,y = f; tau = fit_temperature(z, y); loss = lambda t: metrics.log_loss(y, softmax(z/t), labels=range(z.shape[1]))
    softmax = lambda z: (e := np.exp(z - z.max(1, keepdims=True)))/e.sum(1, keepdims=True)
    assert loss(tau) <= min(map(loss, np.geomspace(1/49, 49, 60))) + 1e-6
    assert (softmax(z/tau).argmax(1) == z.argmax(1)).all()
    if .3 < tau < 8: assert fit_temperature(c*z, y) == pytest.approx(c*tau, rel=1e-2)

def test_temperature_of_the_sampler():
    g = np.random.default_rng(5); z = g.normal(0, 2, (20_000,4)); p = np.exp(z)/np.exp(z).sum(1, keepdims=True)
    y = (g.random((20_000,1)) > p.cumsum(1)).sum(1); assert fit_temperature(z, y) == pytest.approx(1, abs=.03) and ece(p, y) < .015

V = Vocab(6, None, 0, 1, 5, (0,1,5))

@pytest.mark.parametrize('family', ['bert','gpt2','llama'])
def test_probabilities_sum_to_one(family):
    "All continuations of every length, a few words deep; every id of the vocabulary can be said"
    net = build('clm', Size(2, 64, 6, 8), V, family, seed=3, initializer_range=.4)
    for n in range(1, 4):
        ls = log_p(net, [[0, *w] for w in itertools.product(range(6), repeat=n)])
        assert sum(math.exp(-l.sum) for l in ls) == pytest.approx(1, abs=1e-5) and all(l.n == n for l in ls)

@pytest.mark.parametrize('family', ['bert','gpt2','llama'])
def test_log_p_is_the_leaders(texts, tok, family):
    "The loss of `transformers`, text by text; any batch size; the network's mode is left as it was"
    net = build('clm', Size(2, 64, T=64), Vocab.of(tok), family, dropout=.1).train(); ids = framed([t[:80] for t in texts[:12]] + [''], tok)
    ls = log_p(net, ids); assert net.training and net.eval()
    for x,l in zip(ids, ls):
        with torch.no_grad(): z = net.model(torch.tensor([x])).logits[0,:-1]
        assert l.n == len(x) - 1 and l.sum == pytest.approx(float(torch.nn.functional.cross_entropy(z, torch.tensor(x[1:]), reduction='sum')), rel=1e-4)
    assert [l.sum for l in log_p(net, ids, B=3)] == pytest.approx([l.sum for l in ls], rel=1e-4)

@pytest.mark.parametrize('family', ['bert','modernbert'])
def test_pseudo_log_p_against_a_loop(texts, tok, family):
    v = Vocab.of(tok); net = build('mlm', Size(2, 64, T=64), v, family); ids = framed([t[:60] for t in texts[:6]] + [''], tok)
    for x,l in zip(ids, pseudo_log_p(net, ids, v, B=5)):
        S = 0.
        for t in range(1, len(x) - 1):
            row = torch.tensor([x]); row[0,t] = v.mask
            with torch.no_grad(): S -= float(net.model(row).logits[0,t].log_softmax(-1)[x[t]])
        assert l.n == len(x) - 2 and l.sum == pytest.approx(S, rel=1e-4)

def test_text_is_text(tok):
    "A special token that somebody typed is characters; without an end there is no EOS"
    v = Vocab.of(tok); ids,open_ = framed(['[SEP] x'], tok)[0], framed(['[SEP] x'], tok, end=False)[0]
    assert ids == open_ + [v.sep] and ids[0] == v.cls and not {v.sep,v.mask} & set(ids[1:-1])

def test_too_long_or_without_a_mask(tok):
    net = build('clm', Size(1, 64, 6, 8), V)
    with pytest.raises(BadInput, match='text 1 has 9 tokens, the network 8'): log_p(net, [[0,1], [0]*9])
    with pytest.raises(BadInput, match='no mask token'): pseudo_log_p(net, [[0,1]], Vocab(6, None, 0, 1, None, (0,1)))
