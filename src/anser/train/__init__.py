"""Corpus packs → shards → examples → a trained checkpoint. Needs the extra `train`."""
