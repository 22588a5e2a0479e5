#!/usr/bin/env bash
# From the corpus pack to the packaged model, in the four steps that made anser-1.
# Wants two GPUs (about 25 minutes of each for all steps), and torch with Triton.
#   runs/train_anser_1.sh corpus-1-clean.tar.zst build/anser-1
set -euo pipefail
pack=$1
folder=$2

# 1. MIDI files → encoded songs, one shard a split. One source is left out: most of its files were
#    withdrawn from where they came from, some with names of third parties in them.
python -m anser.train.pack "$pack" -o "$folder/shards" --leave-out easyrpg

# 2. Train: 24 million parameters, two H200s. Run it again to go on after an interruption.
torchrun --nproc-per-node 2 -m anser.train.loop "$folder/shards" -o "$folder/trained.safetensors" \
  --size base --steps 7400 --device cuda --workers 10 --valid-every 1000 \
  --set learning_rate=0.001 weight_decay=1.5 dropout=0.1 context_weight=0.3 ids_per_step=131072

# 3. Quantise to int8 for shipping.
python -m anser.train.export "$folder/trained.safetensors" -o "$folder/anser-1.safetensors" \
  --precision int8 --note name=anser-1 licence=Apache-2.0

# 4. Score it on held-out songs beside three baselines.
python -m anser.evaluate.heldout "$folder/shards" --model "$folder/anser-1.safetensors"
