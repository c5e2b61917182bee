#!/usr/bin/env python3
"""Restore against recompute: from attach in a fresh process, imports excluded, to a usable DynamicCache of
2,048 tokens, against one fp32 prefill of the same tokens; two threads each, best of five, alternating.

usage: tests/bench/restore.py [--write]     (environment: DELTAPQD, DELTAPQ_LIBRARY; see scripts/test)

--write also puts the result into docs/results/restore.md."""

import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "clients/python")]
N, ROUNDS = 2048, 5


def child(socket: str, profile_id: str, tokens: str) -> None:
    """One restore in this fresh process: prints seconds."""
    import torch
    from deltapq import Client, hf
    from deltapq.demo import model as demo_model
    from transformers import AutoConfig
    path = demo_model.gguf_path()
    config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    ids = [int(i) for i in pathlib.Path(tokens).read_text().split()]
    torch.set_num_threads(2)
    begin = time.perf_counter()
    with Client(socket, staging_bytes=0) as client:
        cache = hf.restore(client, config, ids, profile_id=bytes.fromhex(profile_id))
        seconds = time.perf_counter() - begin
    assert cache.get_seq_length() == N
    print(seconds)


def main() -> None:
    from deltapq import Client, hf
    from deltapq.demo import __main__ as quickstart, model as demo_model, windows
    from frame import Daemon
    model, tokenizer = demo_model.load()
    ids = quickstart.text_ids(tokenizer)[:, :N + 1]
    daemon = Daemon({"tenant test": {"arena_bytes": "256M", "staging_bytes": "64M",
                                     "staging_total_bytes": "256M"}})
    with daemon:
        with Client(daemon.grpc_path, timeout=120) as client:
            chosen = windows.read(quickstart.WINDOWS, "calibrate", 1)
            profile_id = hf.calibrate(client, model, (windows.tokens(w, tokenizer) for w in chosen),
                                      model_name=demo_model.NAME).profile_id
            cache = hf.cache_of(hf.forward(model.model, ids[:, :N]))
            hf.save(client, cache, ids[0], profile_id=profile_id)
        tokens = pathlib.Path(daemon.directory) / "tokens"
        tokens.write_text(" ".join(str(int(i)) for i in ids[0]))
        restore, prefill = [], []
        for _ in range(ROUNDS):
            done = subprocess.run([sys.executable, __file__, "child", daemon.grpc_path,
                                   profile_id.hex(), str(tokens)], check=True, stdout=subprocess.PIPE)
            restore.append(float(done.stdout))
            begin = time.perf_counter()
            hf.forward(model.model, ids[:, :N])
            prefill.append(time.perf_counter() - begin)
        daemon.stop()
    line = (f"restore {min(restore) * 1e3:.0f} ms (of {', '.join(f'{x * 1e3:.0f}' for x in restore)}), "
            f"prefill {min(prefill) * 1e3:.0f} ms (of {', '.join(f'{x * 1e3:.0f}' for x in prefill)}): "
            f"{min(prefill) / min(restore):.1f} times")
    print(line)
    if "--write" in sys.argv:
        (ROOT / "docs/results/restore.md").write_text(
            "# Restore against recompute\n\nSmolLM2-135M-Instruct, 2,048 tokens, stored at 4 bits with "
            "reference `none`; restored by local decode\ninto fp32 in a fresh process, imports excluded; "
            "against one fp32 prefill. Two threads each, best of\nfive, alternating. "
            f"By `tests/bench/restore.py --write`.\n\n{line}\n")


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["child"] else main()
