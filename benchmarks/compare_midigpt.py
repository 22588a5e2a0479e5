"""The same four bars of the same song, by us and by midigpt: seconds from call to answer.

    python -m venv PEERS && PEERS/bin/pip install "midigpt[inference]" torch==2.13.0
    python benchmarks/compare_midigpt.py --peers PEERS/bin/python --encoder yellow_encoder.json

The encoder's description lies in midigpt's repository, in `models/`. Its weights are random: the
speed is that of the trained ones, the music is not. So that both write as much, it may write at
most as many notes a bar as we did; its checks are off, and only attempts that succeed count. Its
model is shown 8 bars, ours up to 44. Both are processes that have answered before; ours reads the
song anew for every call.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

from peers import Peer, has, load_of_the_machine, serve, side_by_side

SHAPES = {"yellow_small": (6, 512, 8), "yellow_medium": (12, 768, 12)}  # layers, width, heads
PLANS = {"a bar at a time": (1, 1), "at once": (4, 0)}  # bars and tracks a step; 0: all


def serve_ours(path: str, threads: int) -> None:
    from anser import bench, models
    from anser.infill import Request
    from anser.rwkv7.prefix import PrefixCache
    from anser.selection import Selection
    from anser.song import Song

    engine = models.load(threads=threads).engine
    song = Song.read(path)

    def answer(cells: list[tuple[int, int]], seed: int) -> tuple[float, int]:
        selection = Selection(frozenset(tuple(cell) for cell in cells))
        taken = bench.latency(engine, Request(song, selection, seed=seed), PrefixCache(engine))
        return taken.done, taken.n_notes

    serve(answer)


def serve_midigpt(shape: str, path: str, encoder: str, threads: int) -> None:
    import midigpt._core as core
    import torch
    from midigpt import Score
    from midigpt.attributes.base import AttributeAnalyzer
    from midigpt.inference.config import GenerationRequest, InferenceConfig, TrackPrompt
    from midigpt.inference.engine import InferenceEngine
    from midigpt.inference.model.gpt2 import GPT2LMHeadModel
    from midigpt.tokenizer.tokenizer import Tokenizer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    described = json.loads(Path(encoder).read_text(encoding="utf-8"))
    vocab = sum(domain["domain_size"] for domain in described["token_domains"])
    layers, width, heads = SHAPES[shape]
    options = {"vocab_size": vocab, "n_layer": layers, "n_embd": width, "n_head": heads}
    model = GPT2LMHeadModel(GPT2LMHeadModel.Config(**options)).eval()
    model.encoder_config = described
    config = core.EncoderConfig.from_json(json.dumps(described))
    tokenizer = Tokenizer(config, None)
    engine = InferenceEngine(model, tokenizer, AttributeAnalyzer.from_config(config))
    engine.warmup()
    score = Score.from_midi(path)

    def answer(
        cells: list[tuple[int, int]], seed: int, most: int, plan: str
    ) -> tuple[float, int] | None:
        bars_per_step, tracks_per_step = PLANS[plan]
        chosen = [
            [bar for track, bar in sorted(cells) if track == n] for n in range(len(score.tracks))
        ]
        tracks = [TrackPrompt(id=n, bars=bars) for n, bars in enumerate(chosen)]
        for attempt in range(20):
            config = InferenceConfig(
                seed=seed + 1000 * attempt, model_dim=8, bars_per_step=bars_per_step,
                tracks_per_step=tracks_per_step, density_hard_limit=most,
                max_attempts=1, novelty_check=False, silence_check=False,
            )  # fmt: skip
            request, start = GenerationRequest(tracks=tracks, config=config), time.perf_counter()
            with suppress(RuntimeError):  # random weights can paint themselves into a corner
                result = engine.session(score, request).run()
                taken = time.perf_counter() - start
                return taken, sum(len(result.tracks[t].bars[b].notes) for t, b in cells)
        return None

    serve(answer)


def compare(peers: list[Peer], cells: list[tuple[int, int]], rounds: int) -> None:
    """Ask all for the cells in turn, and print the medians."""
    ours = peers[0]
    seconds: dict[tuple[str, str], list[float]] = {}
    notes: dict[tuple[str, str], list[int]] = {}
    for seed in range(-1, rounds):  # the round before the first is for warming up
        took, n_notes = ours.ask(cells, max(seed, 0))
        answers: dict[tuple[str, str], tuple[float, int] | None]
        answers = {("anser", ""): (took, n_notes)}
        most = max(round(n_notes / len(cells)), 1)
        for peer in peers[1:]:
            for plan in PLANS:
                answers[peer.name, plan] = peer.ask(cells, max(seed, 0), most, plan)
        for key, answer in answers.items() if seed >= 0 else ():
            if answer is None:
                print(f"    {' '.join(key)}: none of its attempts succeeded")
                continue
            seconds.setdefault(key, []).append(answer[0])
            notes.setdefault(key, []).append(answer[1])
    for key, taken in seconds.items():
        ratio = "" if key[0] == "anser" else side_by_side(seconds["anser", ""], taken)
        name = " ".join(key)
        print(f"    {name:30} {median(taken):6.2f} s, {median(notes[key]):3.0f} notes  {ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="a Python that has midigpt")
    parser.add_argument("--encoder", help="midigpt's models/yellow_encoder.json")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["yellow_small"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        name, *words, threads = args.serve
        if name == "ours":
            return serve_ours(*words, int(threads))
        return serve_midigpt(name, *words, int(threads))
    if not args.encoder or not has(args.peers, "midigpt, torch"):
        raise SystemExit("midigpt and the description of its encoder are needed; see --help")
    from anser import bench
    from anser.selection import Selection

    print(f"load of the machine: {load_of_the_machine()}; {args.threads} threads")
    song = bench.reference_song()
    with tempfile.TemporaryDirectory() as folder:
        path, threads = str(Path(folder) / "song.mid"), str(args.threads)
        song.write(Path(path))
        peers = [Peer("anser", sys.executable, __file__, "--serve", "ours", path, threads)]
        for shape in args.shape:
            words = (shape, path, args.encoder, threads)
            peers.append(Peer(shape, args.peers, __file__, "--serve", *words))
        for name, text in bench.JOBS.items():
            cells = sorted(Selection.parse(text, song).cells)
            print(f"  4 bars of {name}; x = their time over ours, median of the rounds", flush=True)
            compare(peers, cells, args.rounds)
        for peer in peers:
            peer.close()


if __name__ == "__main__":
    main()
