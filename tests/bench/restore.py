#!/usr/bin/env python3
"""Restore against recompute: from attach in a fresh process, imports excluded, to a usable DynamicCache of
2,048 tokens, against one fp32 prefill of the same tokens; two threads each, best of five, alternating. Once
for each reference: those below cost GEMMs on the way back.

usage: tests/bench/restore.py [--write]     (environment: DELTAPQD, DELTAPQ_LIBRARY; see scripts/test)

--write also keeps the result as docs/results/restore.md and .json."""

import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "clients/python")]
N, ROUNDS = 2048, 5
REFERENCES = ("none", "depth-head", "depth")


def child(socket: str, profile_id: str, folder: str) -> None:
    """One restore in this fresh process: prints seconds."""
    import torch
    from deltapq import Client, hf
    from transformers import AutoConfig
    config = AutoConfig.from_pretrained(folder)
    ids = json.loads((pathlib.Path(folder) / "ids.json").read_text())
    torch.set_num_threads(2)
    begin = time.perf_counter()
    with Client(socket, staging_bytes=0) as client:
        cache = hf.restore(client, config, ids, profile_id=bytes.fromhex(profile_id))
        seconds = time.perf_counter() - begin
    assert cache.get_seq_length() == N
    print(seconds)


def measure(model, tokenizer, ids, reference: str) -> dict:
    """Restores from a profile with one reference, and prefills, by turns."""
    from deltapq.demo import __main__ as quickstart, model as demo_model, windows
    from deltapq import Client, hf
    from frame import Daemon
    restore, prefill = [], []
    with Daemon({"tenant test": {"arena_bytes": "256M", "staging_bytes": "64M",
                                 "staging_total_bytes": "256M"}}) as daemon:
        with Client(daemon.grpc_path, timeout=120) as client:
            chosen = windows.read(quickstart.WINDOWS, "calibrate", 1)
            profile_id = hf.calibrate(client, model, (windows.tokens(w, tokenizer) for w in chosen),
                                      model_name=demo_model.NAME, reference=reference).profile_id
            cache = hf.cache_of(hf.forward(model.model, ids[:, :N]))
            hf.save(client, cache, ids[0], profile_id=profile_id)
        model.config.save_pretrained(daemon.directory)
        (pathlib.Path(daemon.directory) / "ids.json").write_text(json.dumps(ids[0].tolist()))
        for _ in range(ROUNDS):
            done = subprocess.run([sys.executable, __file__, "child", daemon.grpc_path,
                                   profile_id.hex(), daemon.directory], check=True, stdout=subprocess.PIPE)
            restore.append(float(done.stdout))
            begin = time.perf_counter()
            hf.forward(model.model, ids[:, :N])
            prefill.append(time.perf_counter() - begin)
        daemon.stop()
    return {"reference": reference, "tokens": N, "restore_seconds": restore, "prefill_seconds": prefill,
            "ratio": min(prefill) / min(restore)}


def main() -> None:
    from deltapq.demo import __main__ as quickstart, model as demo_model
    model, tokenizer = demo_model.load()
    ids = quickstart.text_ids(tokenizer)[:, :N + 1]
    results, lines = [], []
    for reference in REFERENCES:
        results.append(measure(model, tokenizer, ids, reference))
        restore, prefill = (results[-1][k] for k in ("restore_seconds", "prefill_seconds"))
        lines.append(f"{reference}: restore {min(restore) * 1e3:.0f} ms "
                     f"(of {', '.join(f'{x * 1e3:.0f}' for x in restore)}), prefill {min(prefill) * 1e3:.0f} ms "
                     f"(of {', '.join(f'{x * 1e3:.0f}' for x in prefill)}): {results[-1]['ratio']:.1f} times as long")
        print(lines[-1], flush=True)
    if "--write" in sys.argv:
        folder = ROOT / "docs/results"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "restore.md").write_text(
            "# Restore against recompute\n\nSmolLM2-135M-Instruct, 2,048 tokens, stored at 4 bits, by the "
            "reference that a profile was calibrated with;\nrestored by local decode into fp32 in a fresh process, "
            "from attach to a usable DynamicCache, imports excluded;\nagainst one fp32 prefill of the same tokens. "
            f"Two threads each, best of {ROUNDS}, alternating. On {cpu()}.\nMade by "
            "`tests/bench/restore.py --write`.\n\n" + "".join(f"- {line}\n" for line in lines))
        (folder / "restore.json").write_text(json.dumps(results, indent=1) + "\n")


def cpu() -> str:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    name = next((x.split(": ", 1)[1] for x in lines if x.startswith("model name")), "an unknown CPU")
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["child"] else main()
