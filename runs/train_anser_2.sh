#!/usr/bin/env bash
# From the corpus pack to the packaged model, in the four steps that made anser-2.
# Wants one GPU (an H200 takes half an hour), and torch with Triton.
#   runs/train_anser_2.sh corpus-1-clean.tar.zst build/anser-2
set -euo pipefail
pack=$1
folder=$2

# 1. MIDI files → encoded songs, one shard a split. One source is left out: most of its files were
#    withdrawn from where they came from, some with names of third parties in them.
python -m anser.train.pack "$pack" -o "$folder/shards" --leave-out easyrpg

# 2. Train: 24 million parameters. Run it again to go on after an interruption. Of the 12,000 steps
#    planned, anser-2 made 10,700; from step 8,000 on it only learns by heart.
python -m anser.train.loop "$folder/shards" -o "$folder/base.safetensors" \
  --size base --steps 12000 --device cuda --workers 11 --valid-every 500 --keep \
  --set learning_rate=0.001 weight_decay=1.5 dropout=0.3 context_weight=0.3 ids_per_step=131072

# 3. Average the weights on both sides of the best step, and quantise them to int4 for shipping.
python -m anser.train.export "$folder/base-6000.safetensors" "$folder/base-10500.safetensors" \
  -o "$folder/anser-2.safetensors" --precision int4 --note name=anser-2 licence=Apache-2.0

# 4. Score it on held-out songs beside three baselines.
python -m anser.evaluate.heldout "$folder/shards" --model "$folder/anser-2.safetensors"
