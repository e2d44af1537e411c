#!/usr/bin/env python3
"""Models that others trained, as they are and after fastgate.torch.convert(model).

    python bench/models.py [MODEL ...]

The packages come from PyPI by name, with their weights inside, into build/models; nothing else is downloaded, and of
what they require only torch and NumPy.  Both sides run whole models in one process on one thread and one core, in turns
in a new random order each round.  Inputs are synthetic, since the packages have no sounds: both sides see the same.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.metadata
import os
import random
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import fastgate.torch
import numpy as np
import torch
from figures import quartiles
from machine import note, pinned, publish, stage
from torch import nn

HERE = Path(__file__).resolve().parent.parent / "build" / "models"
PACKAGES = {
    "Resemblyzer": "Resemblyzer==0.1.4",
    "g2p-fa": "g2p-fa==1.1.0",
    "BeatNet": "BeatNet==1.1.3",
    "silero-vad": "silero-vad==6.2.3",
}
Case = tuple[str, str, Callable[[], Any], Callable[[], Any], Callable[[Any], Any]]  # the last one gives the classes


def imported(module: str, *without: str) -> Any:
    """A module of a package, without others that it imports and does not need here."""
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in without}):
        return importlib.import_module(module)



# ---- the models -------------------------------------------------------------------------------


def resemblyzer() -> Iterator[Case]:
    """Voices as vectors; of ten utterances, which one is nearest to each."""
    encoder = imported("resemblyzer.voice_encoder", "resemblyzer.audio", "librosa", "webrtcvad").VoiceEncoder
    plain = encoder("cpu", verbose=False).eval()
    ours = fastgate.torch.convert(copy.deepcopy(plain))
    mels = torch.rand(10, 160, 40) * torch.rand(10, 1, 40) ** 4

    def nearest(embeddings: Any) -> Any:
        likeness = embeddings @ embeddings.T - 2 * torch.eye(len(embeddings))
        return likeness.argmax(1).tolist()

    yield "3 layers, 40/256", "10 utterances of 1.6 s", lambda: plain(mels), lambda: ours(mels), nearest
    one = mels[:1]
    yield "3 layers, 40/256", "an utterance of 1.6 s", lambda: plain(one), lambda: ours(one), lambda e: (e > 0).tolist()


def g2p_fa() -> Iterator[Case]:
    """Persian words to phonemes: an encoder, and a decoder of 29 single steps."""
    made = imported("g2p_fa")
    plain, ours = made.G2P_Fa(), made.G2P_Fa()
    for words in plain, ours:
        words.model.eval()
    fastgate.torch.convert(ours.model)
    words = ["سلام", "کتاب", "دانشگاه", "خورشید", "زندگی", "آفتاب", "پنجره", "مهربان", "فردا", "رودخانه"]
    vectors = [importlib.import_module("g2p_fa.utils").word2tensor(word)[:, None] for word in words]
    begin = importlib.import_module("g2p_fa.utils").IPA2tensor("b")[:, None]

    def logits(words: Any) -> Any:
        return torch.stack([words.model(vector, begin, 0) for vector in vectors])

    yield "2 layers, 40/256, twice", "10 words", lambda: logits(plain), lambda: logits(ours), lambda y: y.argmax(-1)
    one = words[0]
    yield "2 layers, 40/256, twice", "a word, as phonemes", lambda: plain(one), lambda: ours(one), lambda ipa: ipa


def beatnet() -> Iterator[Case]:
    """Beats and downbeats of music, frame by frame."""
    plain = imported("BeatNet.model").BDA(272, 150, 2, "cpu")
    plain.load_state_dict(torch.load(HERE / "BeatNet/models/model_1_weights.pt", map_location="cpu"), strict=False)
    plain.eval()
    ours = fastgate.torch.convert(copy.deepcopy(plain))
    song = torch.rand(1, 500, 272) ** 2

    def played(model: Any, frames: int) -> Any:
        model.hidden, model.cell = torch.zeros(2, 1, 150), torch.zeros(2, 1, 150)
        return torch.cat([model(song[:, t : t + frames]) for t in range(0, 500 if frames > 1 else 50, frames)], -1)

    for name, frames in (("10 s of music at once", 500), ("50 frames, one by one", 1)):
        yield (
            "2 layers, 150/150",
            name,
            lambda frames=frames: played(plain, frames),
            lambda frames=frames: played(ours, frames),
            lambda y: y.argmax(1),
        )


class Silero(nn.Module):
    """What silero-vad's scripted model for 16 kHz computes, in torch, which convert can reach."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        convolution = [nn.Conv1d(129, 128, 3, 1, 1), nn.Conv1d(128, 64, 3, 2, 1), nn.Conv1d(64, 64, 3, 2, 1)]
        self.stft = nn.Conv1d(1, 258, 256, 128, bias=False)
        self.encoder = nn.ModuleList([*convolution, nn.Conv1d(64, 128, 3, 1, 1)])
        self.rnn = nn.LSTMCell(128, 128)
        self.decoder = nn.Conv1d(128, 1, 1)
        ours = list(self.state_dict())
        self.load_state_dict(dict(zip(ours, weights.values(), strict=True)))
        self.reset()

    def reset(self) -> None:
        self.context, self.state = torch.zeros(1, 64), None

    def forward(self, x: torch.Tensor, rate: int) -> torch.Tensor:
        x = torch.cat([self.context, x], 1)
        self.context = x[:, -64:]
        x = self.stft(nn.functional.pad(x, (0, 64), "reflect")[:, None])
        x = (x[:, :129].square() + x[:, 129:].square()).sqrt()
        for layer in self.encoder:
            x = layer(x).relu()
        self.state = self.rnn(x.squeeze(-1), self.state)
        return self.decoder(self.state[0][..., None].relu()).sigmoid().squeeze(1)


def silero_vad() -> Iterator[Case]:
    """Speech or not, every 32 ms."""
    scripted = imported("silero_vad").load_silero_vad()
    plain = Silero(scripted._model.state_dict())
    ours = fastgate.torch.convert(Silero(scripted._model.state_dict()))
    time = torch.arange(40 * 512) / 16000
    voice = sum(torch.sin(2 * np.pi * 140 * k * time + torch.sin(12 * time)) / k for k in range(1, 20))
    sound = (voice * (torch.sin(4 * time) > 0) * 0.1 + torch.randn(len(time)) * 0.003).view(40, 1, 512)

    def heard(model: Any, reset: Callable[[], None]) -> Any:
        reset()
        return torch.cat([model(chunk, 16000) for chunk in sound])

    for name, other, reset in (
        ("the package's scripted model", scripted, scripted.reset_states),
        ("the same in torch", plain, plain.reset),
    ):
        yield (
            "1 cell, 128/128",
            f"40 chunks, beside {name}",
            lambda other=other, reset=reset: heard(other, reset),
            lambda: heard(ours, ours.reset),
            lambda y: y > 0.5,
        )


MODELS = {"Resemblyzer": resemblyzer, "g2p-fa": g2p_fa, "BeatNet": beatnet, "silero-vad": silero_vad}

# ---- measuring --------------------------------------------------------------------------------


def compared(case: Case, rounds: int, turn: float) -> list[Any]:
    """The row of a case after its name."""
    lstm, what, plain, ours, classes = case
    with torch.inference_mode():
        want, got = plain(), ours()
        same = "same" if np.array_equal(classes(want), classes(got)) else "others"
        apart: Any = "-"
        if isinstance(want, torch.Tensor):
            apart = float((want - got).abs().max())
        calls = {"plain": plain, "ours": ours}
        counts = {name: max(1, round(turn / timeit.timeit(call, number=1))) for name, call in calls.items()}
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name in random.sample(list(calls), 2):
                times[name].append(timeit.timeit(calls[name], number=counts[name]) / counts[name] * 1e3)
    ratios = [a / b for a, b in zip(times["plain"], times["ours"])]
    return [lstm, what, quartiles(times["plain"]), quartiles(times["ours"]), quartiles(ratios), apart, same]


def single_steps(rounds: int) -> dict[str, Any]:
    """A table: single steps of 64/128 by torch, by fastgate itself and by a converted module."""
    x, h, c = torch.randn(1, 64), torch.zeros(1, 128), torch.zeros(1, 128)
    rows = []
    for name, plain, inputs in (
        ("nn.LSTMCell", nn.LSTMCell(64, 128), (x, (h, c))),
        ("nn.LSTM, one step", nn.LSTM(64, 128), (x[None], (h[None], c[None]))),
    ):
        ours = fastgate.torch.convert(copy.deepcopy(plain))
        own = (fastgate.LSTM if isinstance(plain, nn.LSTM) else fastgate.LSTMCell).from_torch(plain)
        arrays = (inputs[0].numpy(), tuple(part.numpy() for part in inputs[1]))
        given = arrays if isinstance(plain, nn.LSTM) else (arrays[0], *arrays[1])
        calls = {"torch": lambda: plain(*inputs), "own": lambda: own(*given), "ours": lambda: ours(*inputs)}
        times: dict[str, list[float]] = {side: [] for side in calls}
        with torch.inference_mode():
            for _ in range(rounds):
                for side in random.sample(list(calls), 3):  # 50 calls are over before another process cuts in
                    timeit.timeit(calls[side], number=5)  # brings its code and weights back into the caches
                    times[side].append(timeit.timeit(calls[side], number=50) / 50 * 1e6)
        middle = {side: quartiles(found) for side, found in times.items()}
        ratio = quartiles([a / b for a, b in zip(times["torch"], times["ours"])])
        rows.append([name, *middle.values(), middle["ours"][1] - middle["own"][1], ratio])
    columns = ["64/128", "torch, µs", "fastgate, µs", "converted, µs", "converted less fastgate", "torch / converted"]
    return {"title": "A single step", "columns": columns, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", default=list(MODELS), help=", ".join(MODELS))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--turn", type=float, default=0.05, help="seconds")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    packages = [PACKAGES[name] for name in options.models]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(HERE)]
    subprocess.run([*pip, *packages], check=True)
    sys.path.insert(0, str(HERE))
    if (core := pinned()) is not None:
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for done, name in enumerate(options.models):
        try:
            for case in MODELS[name]():
                rows.append([PACKAGES[name].replace("==", " "), *compared(case, options.rounds, options.turn)])
        except Exception as error:  # a package that fails is a result
            note(f"{name} {type(error).__name__}: {error}")
        stage(done + 1, len(options.models), name)
    columns = ["package", "LSTM", "a call", "original, ms", "converted, ms", "original / converted"]
    models = {"title": "Whole models", "columns": [*columns, "largest difference", "classes"], "rows": rows}
    publish([models, single_steps(20 * options.rounds)], options.json)


if __name__ == "__main__":
    main()
