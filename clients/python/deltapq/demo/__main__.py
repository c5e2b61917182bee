"""The two halves of the quickstart, each in a process of its own.

python -m deltapq.demo save SOCKET FILE      calibrate, pre-fill, append; remember what to look for in FILE
python -m deltapq.demo restore SOCKET FILE   restore, continue, compare with recomputing; print a table"""
from __future__ import annotations

import json
import pathlib
import sys
import time

from .progress import Progress

ROOT = pathlib.Path(__file__).resolve().parents[4]
WINDOWS = ROOT / "tests/data/windows.txt"
N_PREFIX, N_CONTINUE, N_GREEDY = 2048, 256, 16


def text_ids(tokenizer):
    """Tokens of a document that calibration does not see."""
    from . import windows
    text = windows.extract(windows.HANDBOOK + "sect.debian-internals.html")[1000:]
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :N_PREFIX + N_CONTINUE]
    assert ids.shape[1] == N_PREFIX + N_CONTINUE
    return ids


def save(socket: str, file: str) -> None:
    from deltapq import Client, hf
    from . import model as demo_model, windows
    bar = Progress("loading " + demo_model.NAME, 1)
    model, tokenizer = demo_model.load()
    bar.end()
    chosen = windows.read(WINDOWS, "calibrate", 2)
    forward = Progress("calibration: running the model", len(chosen))

    def run():
        for i, window in enumerate(chosen):
            yield windows.tokens(window, tokenizer)
            forward.show(i + 1)
        forward.end()
    with Client(socket, name="quickstart-save", staging_bytes=64 << 20) as client:
        train = []

        def progress(done, total):
            if not train:
                train.append(Progress("calibration: learning the profile", total))
            train[0].show(done)
        reply = hf.calibrate(client, model, run(), model_name=demo_model.NAME, progress=progress)
        if train:
            train[0].end()
        ids = text_ids(tokenizer)[:, :N_PREFIX]
        bar = Progress(f"pre-filling {N_PREFIX} tokens", 1)
        cache = hf.cache_of(hf.forward(model.model, ids))
        bar.end()
        numbers = hf.numbers_of(cache)
        begin = time.monotonic()
        sequence = client.create_sequence(reply.profile_id, token_ids=ids[0].tolist())
        client.append(sequence, numbers, ids[0].tolist())
        seconds = time.monotonic() - begin
        status = client.status()
    pathlib.Path(file).write_text(json.dumps({
        "profile_id": reply.profile_id.hex(), "append_seconds": seconds, "raw_bytes": numbers.nbytes,
        "stored_bytes": status.tile_stored_bytes, "true_bits": status.true_bits_per_number,
        "calibration_tokens": reply.n_tokens, "train_seconds": reply.train_seconds}))


def restore(socket: str, file: str) -> None:
    from deltapq import Client, hf
    from . import model as demo_model
    from .judge import Verdict
    facts = json.loads(pathlib.Path(file).read_text())
    profile_id = bytes.fromhex(facts["profile_id"])
    bar = Progress("a new process: loading the model", 1)
    model, tokenizer = demo_model.load()
    ids = text_ids(tokenizer)
    bar.end()
    begin = time.monotonic()
    with Client(socket, name="quickstart-restore", staging_bytes=64 << 20) as client:
        cache = hf.restore(client, model.config, ids, profile_id=profile_id)
        facts["restore_seconds"] = time.monotonic() - begin
        n = cache.get_seq_length()
        sequence = client.create_sequence(profile_id, token_ids=ids[0, :n].tolist())
        begin = time.monotonic()
        client.read(sequence, dtype="f16")
        facts["read_seconds"] = time.monotonic() - begin
        client.release(sequence)
    if n != N_PREFIX:
        sys.exit(f"{n} tokens came back instead of {N_PREFIX}")
    bar = Progress(f"recomputing {n} tokens, to compare", 1)
    begin = time.monotonic()
    raw = hf.cache_of(hf.forward(model.model, ids[:, :n]))
    facts["recompute_seconds"] = time.monotonic() - begin
    bar.end()
    bar = Progress(f"continuing both by {N_CONTINUE} tokens", 2 + 2 * N_GREEDY)
    exact = hf.forward(model, ids[:, n:], raw).logits[0]
    bar.show(1)
    other = hf.forward(model, ids[:, n:], cache).logits[0]
    bar.show(2)
    texts = [tokenizer.decode(greedy(model, logits, kept, lambda i, k=k: bar.show(2 + k * N_GREEDY + i)))
             for k, (logits, kept) in enumerate(((exact, raw), (other, cache)))]
    bar.end()
    table(facts, Verdict.of(exact, other, ids[0, n + 1:]), n)
    for name, text in zip(("recomputed", "restored"), texts):
        print(f"  greedy, {name + ':':<12}{' '.join(text.split())}")
    print()


def greedy(model, logits, cache, show) -> list[int]:
    """The N_GREEDY most likely tokens after logits, one by one."""
    from deltapq import hf
    chosen = []
    for i in range(N_GREEDY):
        token = logits[-1:].argmax(-1, keepdim=True)
        chosen.append(int(token))
        logits = hf.forward(model, token, cache).logits[0]
        show(i + 1)
    return chosen


def table(f, verdict, n: int) -> None:
    rows = [
        ("KV cache, fp16", f"{f['raw_bytes'] / 1e6:.1f} MB for {N_PREFIX} tokens"),
        ("stored in shared memory", f"{f['stored_bytes'] / 1e6:.1f} MB, every byte counted"),
        ("true bits per number", f"{f['true_bits']:.3f}"),
        ("ratio", f"{f['raw_bytes'] / f['stored_bytes']:.2f} : 1"),
        ("append", f"{N_PREFIX / f['append_seconds']:,.0f} tokens/s"),
        ("read through staging", f"{N_PREFIX / f['read_seconds']:,.0f} tokens/s"),
        ("restore, attach to DynamicCache", f"{f['restore_seconds'] * 1e3:.0f} ms for {n} tokens"),
        ("recompute (fp32 prefill, 2 threads)", f"{f['recompute_seconds'] * 1e3:.0f} ms: "
                                                f"{f['recompute_seconds'] / f['restore_seconds']:.0f} "
                                                "times as long"),
        (f"perplexity of the next {N_CONTINUE} tokens", f"{verdict.perplexity_exact:.3f} exact, "
                                                        f"{verdict.perplexity:.3f} restored"),
        ("mean KL divergence", f"{verdict.mean_kl:.4f} nats"),
        ("top-1 agreement", f"{100 * verdict.agreement:.1f} %"),
    ]
    width = max(len(name) for name, _ in rows)
    print()
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
    print()


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("save", "restore"):
        sys.exit(__doc__)
    {"save": save, "restore": restore}[sys.argv[1]](*sys.argv[2:])
