"""How good the answers are: metrics, baselines and reports; numpy only."""
