"""The quality bench itself: peers against their definitions, the gate's teeth, going on after a stop, the
output metric against differences. Small models or none; test_quality.py judges the real one."""

import pathlib
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))

from quality import bench, figures, fly, gate, generation, learn, metric, peers, picture, report  # noqa: E402
from quality import verdicts  # noqa: E402
from deltapq import Geometry, hf  # noqa: E402
from kvdump import judge  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig  # noqa: E402

GEOMETRY = Geometry(2, 2, 64, inv_freq=tuple(1e4 ** (-i / 32) for i in range(32)))


def tiny(**options):
    torch.manual_seed(3)
    config = LlamaConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=8, vocab_size=50, intermediate_size=32,
                         pad_token_id=None, eos_token_id=1, **options)
    return AutoModelForCausalLM.from_config(config).eval()


# --- peers ----------------------------------------------------------------------------------------

def test_q4_0_is_ggmls():
    """Block by block, as ggml-quants.c has it: the number of the largest magnitude is a multiple of the
    scale, the others round to it, and 16 steps are there."""
    x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(1))
    got = peers.q4_0(x, 0, 0).reshape(-1, 32).numpy()
    for want, block in zip(x.reshape(-1, 32).numpy(), got):
        extreme = want[np.abs(want).argmax()]
        d = np.float32(extreme / -8)
        q = np.minimum(15, (want / d + np.float32(8.5)).astype(np.int8))
        assert np.allclose(block, (q - 8) * np.float32(np.float16(d)), atol=1e-6)
    assert (peers.q4_0(torch.zeros(1, 1, 64), 0, 0) == 0).all()
    error = (peers.q8_0(x, 0, 0) - x).abs().amax() / x.abs().amax()
    assert 1e-4 < error < 1 / 127


def test_scalar_levels_are_lloyd_and_max():
    """Max 1960, table 1; the distortion of a normal variable at 2 bits is .1175."""
    assert peers.lloyd_max(4).tolist() == pytest.approx([-1.510, -0.4528, 0.4528, 1.510], abs=1e-3)
    assert peers.lloyd_max(16)[-1].item() == pytest.approx(2.733, abs=1e-3)
    turn = peers.hadamard(64)
    assert torch.allclose(turn @ turn.T, torch.eye(64), atol=1e-6)
    x = torch.randn(1, 1, 4000, 64, generator=torch.Generator().manual_seed(1))
    for n_levels, distortion in ((4, 0.1175), (16, 0.009497)):
        error = (peers.scalar(n_levels, 64)(x, 0, 0) - x).square().mean().item()
        assert error == pytest.approx(distortion, rel=0.05)


def test_product_takes_the_nearest_word():
    words = torch.randn(2, 2, 2, 32, 256, 2, generator=torch.Generator().manual_seed(2))
    x = torch.randn(3, 2, 7, 64, generator=torch.Generator().manual_seed(1))
    got = peers.product(words)(x, 1, 0)
    for b, h, t, m in ((0, 0, 0, 0), (2, 1, 6, 31), (1, 0, 3, 17)):
        book, pair = words[1, 0, h, m], slice(2 * m, 2 * m + 2)
        want = book[(book - x[b, h, t, pair]).square().sum(-1).argmin()]
        assert torch.equal(got[b, h, t, pair], want)


def test_k_means_learns():
    x = torch.randn(1, 2, 4096, 2, generator=torch.Generator().manual_seed(1))
    book = learn.k_means(x)
    flat, words = x.flatten(0, 1), book.flatten(0, 1)
    coded = words.gather(1, peers.nearest(flat, words)[..., None].expand(-1, -1, 2))
    start = flat[:, :256]
    chance = start.gather(1, peers.nearest(flat, start)[..., None].expand(-1, -1, 2))
    assert (coded - flat).square().mean() < 0.7 * (chance - flat).square().mean()
    assert (coded - flat).square().mean() < 0.012  # 256 words for two normal coordinates: about .01


@pytest.mark.parametrize("name", ["q4_0", "hadamard-2"])
def test_peers_keep_the_first_tokens_and_go_on(name):
    """A cache filled token by token holds what one filled at once does; the first tokens are exact."""
    peer = next(p for p in peers.all_of(GEOMETRY) if p.name == name)
    x = torch.randn(2, 1, 2, 20, 64, generator=torch.Generator().manual_seed(1))
    k, v = peer(0, *x, 0)
    assert torch.equal(k[..., :4, :], x[0][..., :4, :]) and torch.equal(v[..., :4, :], x[1][..., :4, :])
    assert (k - x[0])[..., 4:, :].abs().amax() > 0.05
    parts = [peer(0, *x[..., i:i + 1, :], i) for i in range(20)]
    assert torch.allclose(torch.cat([p[0] for p in parts], -2), k, atol=1e-5)
    assert torch.allclose(torch.cat([p[1] for p in parts], -2), v, atol=1e-5)


def test_rope_turns_there_and_back():
    partial = Geometry(1, 1, 64, rotary_dim=32, inv_freq=GEOMETRY.inv_freq[:16], attention_scaling=1.25)
    x = torch.randn(2, 9, 64, dtype=torch.float64)
    for g in (GEOMETRY, partial):
        rope = fly.Rope(g)
        assert torch.allclose(rope.back(rope.forth(x, 70, 3), 70, 3), x)
        assert not torch.allclose(rope.forth(x, 70), x, atol=0.1)
        g1, g2 = torch.randn(2, 9, 64, dtype=torch.float64), rope.forth(x, 5)
        assert (g1 * g2).sum().item() == pytest.approx((rope.back_gradient(g1, 5) * x).sum().item())


# --- the output metric ----------------------------------------------------------------------------

def with_added(module, delta, where, run):
    """What run() gives when delta is added to rows [token, coordinates] of a projection's output."""
    def hook(module, args, out):
        out = out.clone()
        out[0][where] += delta
        return out
    handle = module.register_forward_hook(hook)
    try:
        return run()
    finally:
        handle.remove()


YARN = {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
                            "original_max_position_embeddings": 512}}  # scales keys, too


@pytest.mark.parametrize("rope_options", [{}, YARN])
def test_gradients_are_differences(rope_options):
    """Of keys before RoPE and of values, through everything above."""
    model, ids = tiny(**rope_options).double(), torch.randint(0, 50, (1, 12))
    (keys, values), rope = metric.gradients(model, ids)[0], fly.Rope(hf.geometry_of(model))

    def loss():
        with torch.no_grad():
            logits = model(ids).logits[0]
        return torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum").item()
    attention = model.model.layers[0].self_attn
    for module, grad in ((attention.k_proj, rope.back_gradient(keys, 0)), (attention.v_proj, values)):
        for head, i in ((0, 2), (1, 7)):
            there = (5, head * 8 + i)
            slope = (with_added(module, 0.03, there, loss) - with_added(module, -0.03, there, loss)) / 0.06
            assert slope == pytest.approx(grad[head, 5, i].item(), abs=1e-5)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    outer = metric.outer_of_gradients(model, ids)[0]
    for kind, grad in ((0, rope.back_gradient(keys, 0)), (1, values)):
        g = grad[1, metric.N_SINK:]
        assert torch.allclose(outer[kind, 1], g.T @ g / len(g), rtol=1e-4)


@pytest.mark.parametrize("rope_options", [{}, YARN])
def test_proxy_is_what_attention_makes_of_an_error(rope_options):
    """dᵀ M d is the mean over keys of the squared move of the layer's output over the residual's square."""
    model, ids = tiny(**rope_options), torch.randint(0, 50, (1, 40))
    matrices, block = metric.outer_of_attention(model, ids).double(), model.model.layers[1]
    assert model.config._attn_implementation != "deltapq_metric"
    seen = {}
    block.self_attn.o_proj.register_forward_hook(lambda m, args, out: seen.update(out=out[0].double()))
    block.register_forward_pre_hook(lambda m, args: seen.update(x=args[0][0].double().square().sum(-1)))

    def run():
        with torch.no_grad():
            model(ids)
        return seen["out"]
    exact, residual = run(), seen["x"]
    for kind, module, tokens in ((0, block.self_attn.k_proj, range(4, 40, metric.KEY_STEP)),
                                 (1, block.self_attn.v_proj, range(4, 40))):
        for head in (0, 1):
            d = torch.randn(8, generator=torch.Generator().manual_seed(head)) * 0.02
            moves = [with_added(module, d, (t, slice(8 * head, 8 * head + 8)), run) - exact for t in tokens]
            got = np.mean([(m.square().sum(-1) / residual).sum().item() for m in moves])
            m = matrices[1, kind, head]
            assert got == pytest.approx((d.double() @ m @ d.double()).item(), rel=0.02)
            assert torch.allclose(m, m.T, atol=1e-6) and torch.linalg.eigvalsh(m).min() > -1e-6


# --- going on, figures, gate ----------------------------------------------------------------------

class Window:
    def __init__(self, genre, i):
        self.genre, self.sha256 = genre, f"{genre}{i}"


class Fake:
    """In the place of the model: four tokens, five words."""
    def ids(self, window):
        return torch.arange(4)[None]

    def logits(self, window):
        return torch.eye(5)[:4]


def test_what_was_judged_is_not_judged_again(tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts, "CACHE", tmp_path)
    calls, chosen = [], [Window(g, i) for g in ("docs", "code") for i in range(2)]

    def run(window):
        calls.append(window.sha256)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return torch.eye(5)[:4] * 2, {"true_bits": 4.0, "true_bits_window": 4.1}

    def jobs():
        return [bench.Job(figures.Series("x", "", "on the fly"), "id of x", run)]
    with pytest.raises(KeyboardInterrupt):
        bench.judge_all(Fake(), jobs(), chosen)
    series = bench.judge_all(Fake(), jobs(), chosen)[0]
    assert calls == ["docs0", "code0", "docs1", "docs1", "code1"]
    assert series.n_windows == 4 and series.true_bits == 4.0 and series.true_bits_window == 4.1
    want = judge.Verdict.of(torch.eye(5)[:4], torch.eye(5)[:4] * 2, torch.arange(1, 4))
    assert series.kl == pytest.approx(want.mean_kl, rel=1e-6) and series.kl > 0
    other = bench.Job(figures.Series("x", "", "on the fly"), "id of another", run)
    bench.judge_all(Fake(), [other], chosen[:1])
    assert len(calls) == 6  # another codec of that name is


def series(name, kl, bits=4.13, way="on the fly", rate="quality", genres=("docs", "prose", "code"), **setup):
    """Two windows a genre of 100 tokens, the second a little worse."""
    def verdict(x):
        return judge.Verdict(torch.full((100,), x), torch.ones(100), torch.ones(99), torch.ones(99))
    return figures.Series(name, rate, way, {"name": name, **setup} if setup else {},
                          [{"true_bits": bits, "true_bits_window": bits + 0.07}],
                          {g: [verdict(kl * 0.9), verdict(kl * 1.1)] for g in genres})


def row(rows, words):
    found = [r for r in rows if r.row.startswith(words)]
    assert len(found) == 1, [r.row for r in rows]
    return found[0]


def of(reference, **more):
    return {"options": {"reference": reference}, **more}


def test_gate_tells():
    q4_0 = series("q4_0", 0.1, 4.5, rate="")
    good = [series("n", 0.0105, **of("none")), series("d", 0.00205, **of("depth")),
            series("d", 0.025, 2.13, rate="compact", **of("depth")),
            series("d", 0.010, 2.13, "restored", "compact", **of("depth")),
            series("d", 0.0104, 2.13, "dropped", **of("depth")),
            series("a", 0.0021, **of("auto")),
            series("s", 0.049, 2.13, genres=["code"], **of("depth", gate="shift")),
            series("n", 0.15, 2.13, rate="compact", **of("none")),
            series("f", 0.20, 2.13, rate="compact", **of("temporal", gate="forced"))]
    rows = gate.rows([q4_0, *good])
    passed = {r.row for r in rows if r.passed}
    assert len(passed) == 10, passed  # auto has a row a genre
    r = row(rows, "4.125 b, none, no metric")
    assert r.value == pytest.approx(0.105) and r.interval[0] <= 0.105 + 1e-9 and r.interval[1] >= 0.105 - 1e-9
    assert row(rows, "4.125 b, depth, output metric").note == "not measured"
    # each of these breaks one row
    worse = [("4.125 b, none, no metric", series("n", 0.0112, **of("none"))),
             ("4.125 b, depth, no metric", series("d", 0.00212, **of("depth"))),
             ("2.125 b, depth: ", series("d", 0.0262, 2.13, rate="compact", **of("depth"))),
             ("fine plane dropped", series("d", 0.0106, 2.13, "dropped", **of("depth"))),
             ("auto against the best fixed reference, prose", series("a", 0.00213, **of("auto"))),
             ("calibrated on prose", series("s", 0.051, 2.13, genres=["code"], **of("depth", gate="shift"))),
             ("forced a = 1", series("f", 0.16, 2.13, rate="compact", **of("temporal", gate="forced")))]
    for words, bad in worse:
        same = [s for s in good if (s.name, s.way, s.rate) == (bad.name, bad.way, bad.rate)]
        assert len(same) == 1, words
        found = row(gate.rows([q4_0, *(s for s in good if s is not same[0]), bad]), words)
        assert not found.passed and not found.note, words


def test_of_several_the_best_must_keep_a_limit():
    q4_0, fixed = series("q4_0", 0.1, 4.5, rate=""), series("d", 0.0093, 3.13, rate="balanced", **of("depth"))
    spent = series("e", 0.0088, 3.13, rate="balanced", **of("depth", metric="output"))
    prose = series("p", 0.04, 2.13, genres=["code"], **of("none", gate="shift"))
    rows = [r for r in gate.rows([q4_0, fixed, spent, prose]) if r.note != "not measured"]
    assert {r.row[-2:]: (r.passed, r.counts) for r in rows} == {
        " d": (False, False), " e": (True, True), " p": (False, False)}
    assert gate.holds(rows)
    assert not gate.holds([r for r in gate.rows([q4_0, fixed]) if r.note != "not measured"])
    assert not gate.holds(gate.rows([q4_0, spent]))  # what was not measured does not hold


def test_more_bits_do_not_pass_for_fewer():
    q4_0 = series("q4_0", 0.1, 4.5, rate="")
    rows = gate.rows([q4_0, series("n", 0.001, 4.3, **of("none"))])
    assert row(rows, "4.125 b, none, no metric").note == "not measured"


def test_interval_is_of_pairs():
    """What moves both codecs alike does not widen the interval of their ratio."""
    a, b = series("a", 0.2), series("b", 0.1)
    low, high = figures.interval(a)
    assert 0.18 <= low < 0.19 and 0.21 < high <= 0.22
    assert figures.interval(a, b) == pytest.approx((2, 2))


def test_ratios_are_of_the_same_windows():
    a, b = series("a", 0.2), series("b", 0.1)
    a.windows = {"docs": a.windows["docs"][:1], "code": a.windows["code"]}  # .9 a, and .9 and 1.1 a
    b.windows["docs"][1].kl *= 50
    assert figures.ratio(a, b) == pytest.approx(2)
    assert b.like(a).n_windows == 3


def test_report_and_picture(tmp_path):
    everything = [series("q4_0", 0.1, 4.5, rate=""), series("n", 0.0105, **of("none")),
                  series("n", 0.15, 2.13, rate="compact", **of("none"))]
    records = [report.record(s, everything[0]) for s in everything]
    generated = [{"codec": "q4_0", "true_bits": 4.5, "n_prompt": 9, **generation.agreement(
        np.array([[1, 2, 3], [1, 2, 3]]), np.array([[1, 2, 3], [1, 0, 3]]))}]
    assert (generated[0]["prefix"], generated[0]["share"], generated[0]["whole"]) == (2.0, 0.8333, 1)
    about = {"model": "m", "transformers": "0", "windows": 6, "calibrate": 3, "command": "c"}
    report.write(tmp_path, about, records, gate.rows(everything), generated)
    text = (tmp_path / "quality.md").read_text()
    assert "| **n**, quality | on the fly | 4.130 (4.200) |" in text and "| 2.0 of 3 |" in text
    drawn = xml.etree.ElementTree.fromstring(picture.svg(records))
    words = "".join(drawn.itertext())
    assert "q4_0" in words and "n compact: 2.130 bits, KL 0.1500" in words


# --- generation -----------------------------------------------------------------------------------

class Doubling:
    """In the place of a profile: what comes back is twice what went in."""
    id = "doubling"

    def tile(self, numbers, first, rate, out):
        out[:] = numbers * 2
        self.seen = first


def test_full_tiles_are_sealed_and_tails_are_not():
    model = tiny(max_position_embeddings=512)
    ids = torch.randint(0, 50, (2, 250), generator=torch.Generator().manual_seed(1))
    exact = hf.cache_of(hf.forward(model.model, ids[:, :-1]))
    way = generation.Sealing(Doubling(), "quality")
    made = []
    way.cache = lambda config, plain=way.cache: made.append(plain(config)) or made[-1]
    generation._generate(model, ids, exact, way, 6)
    layer, was = made[0].layers[1], exact.layers[1]
    assert torch.equal(layer.keys[1, :, :128], 2 * was.keys[1, :, :128])
    assert torch.equal(layer.values[0, :, 128:249], was.values[0, :, 128:249])
    generation._generate(model, ids, exact, way, 7)  # 249 + 7 = 256: now the second is full
    assert way.judged.seen == 128


def test_exact_continuation_is_the_models_own():
    model = tiny()
    ids = torch.randint(0, 50, (2, 30), generator=torch.Generator().manual_seed(1))
    exact = hf.cache_of(hf.forward(model.model, ids[:, :-1]))
    got = generation._generate(model, ids, exact, generation.Coding(), 5)
    whole = ids
    for _ in range(5):
        with torch.no_grad():
            whole = torch.cat([whole, model(whole).logits[:, -1:].argmax(-1)], 1)
    assert (got == whole[:, 30:].numpy()).all()
