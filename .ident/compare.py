import sys, pandas as pd
a, b = pd.read_parquet(sys.argv[1]), pd.read_parquet(sys.argv[2])
key = ["recipe", "condition", "template", "length", "depth"]
a, b = (x.sort_values(key).reset_index(drop=True) for x in (a, b))
assert len(a) == len(b) and (a[key].astype(str) == b[key].astype(str)).all().all()
cols = [c for c in a.columns if c in b.columns and c not in ("prompt", "weights", "run", "batch", "model", *key)]
bad = {c: int((~((a[c] == b[c]) | (a[c].isna() & b[c].isna()))).sum()) for c in cols}
print(sys.argv[1:], len(a), "rows", a["answer"].nunique(), "distinct answers; cells that differ:", {c: n for c, n in bad.items() if n} or 0)
