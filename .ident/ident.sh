#!/usr/bin/env bash
# ident.sh GPU OUT: old and new code on two shapes and two dtypes, one after another on one GPU
cd "$(dirname "$0")"; export CUDA_VISIBLE_DEVICES=$1 OUTD=$2; mkdir -p $OUTD
for m in rg jb; do for d in bfloat16 float32; do
  for c in old new; do timeout 150 python ident.py $c $m $d $OUTD/$c-$m-$d.parquet 2>&1 | tail -12; done
  python compare.py $OUTD/old-$m-$d.parquet $OUTD/new-$m-$d.parquet 2>&1 | tail -3
done; done
