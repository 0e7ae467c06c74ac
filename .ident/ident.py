"""ident.py CODE MODEL DTYPE OUT: rows of one sweep of a random model of full shape."""
import json, os, sys, time, hashlib
code, which, dtype, out = sys.argv[1:5]
here = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(here, code))
import torch
import hybret as hb
assert hb.__file__.startswith(os.path.join(here, code)), hb.__file__
tiny = os.environ.get("TINY")
folder = f"/tmp/shape-{which}"
os.makedirs(folder, exist_ok=True)
c = json.load(open(f"{here}/{which}/config.json"))
if not tiny:
    if which == "rg":
        c |= dict(hidden_size=2560, lru_width=2560, intermediate_size=15360, head_dim=256, num_hidden_layers=26,
                  attention_window_size=2048, vocab_size=256000)
    else:
        c |= dict(hidden_size=4096, intermediate_size=14336, head_dim=128, num_key_value_heads=8, num_hidden_layers=8, attn_layer_offset=4,
                  mamba_d_state=16, mamba_dt_rank=256, num_experts=16, vocab_size=65536, initializer_range=0.02, tie_word_embeddings=False)
json.dump(c, open(f"{folder}/config.json", "w"))
for f in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
    open(f"{folder}/{f}", "w").write(open(f"{here}/{which}/{f}").read())
t = time.time()
m = hb.load(folder, weights="random", dtype=dtype, device="cuda" if torch.cuda.is_available() else "cpu", seed=3)
net = m.net
n = len(m.tokenizer)
ids = torch.randint(10, n, (1, 600), generator=torch.Generator().manual_seed(1)).to(net.device)
with torch.no_grad():
    head = net.get_output_embeddings().weight
    emb = net.get_input_embeddings().weight
    head[n:] = 0
    mats = [p for k, p in net.named_parameters() if p.dim() == 2 and p is not head and p is not emb and "A_log" not in k and "router" not in k]
    scale = 1.0
    for factor in (10.0, 5.0, 3.0, 2.0, 1.5, 1.0):
        for p in mats: p.mul_(factor / scale)
        scale = factor
        logits = net(ids).logits[0].float()
        d = logits.argmax(-1).unique().numel()
        print(which, dtype, "factor", factor, "finite", bool(logits.isfinite().all()), "distinct argmax", d, flush=True)
        if logits.isfinite().all() and d > 60: break
    print("checksum", hashlib.sha256(b"".join(p.detach().float().sum().cpu().numpy().tobytes() for p in net.parameters())).hexdigest()[:12], f"{time.time()-t:.0f} s")
    del logits
from hybret import Binary, Keep, KeepHeads, Null, Omit, Only, PerPhase
H = c["num_attention_heads"]
conditions = {"keep": Keep(), "k2": KeepHeads(2), "k5g": KeepHeads(5, during="generation"), "l2": KeepHeads(3, "l2"), "k0": KeepHeads(0), "k0g": KeepHeads(0, during="generation"),
    "omit": Omit(), "omitp": Omit("prefill"), "only": Only(), "onlyg": Only("generation"), "bin": Binary(), "nullg": Null("generation"), "pp": PerPhase(generation=Only(), prefill=Omit())}
grids = []
for recipe in ("CORRECTED", "PAPER"):
    for template in ("base", "jrt"):
        grids.append((recipe, hb.niah.grid(m, [600, 1500, 3000] if not tiny else [300, 600], [0, 40, 100], template, recipe=recipe)))
import pandas as pd
rows = []
for recipe in ("CORRECTED", "PAPER"):
    prompts = [p for r, g in grids if r == recipe for p in g]
    rows.append(hb.sweep(m, prompts, conditions, recipe=recipe, progress=False, max_new_tokens=12))
rows = pd.concat(rows)
rows.to_parquet(out)
print(which, dtype, code, len(rows), "rows", rows["answer"].nunique(), "distinct answers", f"{time.time()-t:.0f} s", flush=True)
