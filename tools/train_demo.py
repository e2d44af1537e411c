"""Train the model of ``python -m fastgate demo`` and write its data file.

    pip install 'fastgate[train]'        # the extra: torch, scikit-learn
    python tools/train_demo.py           # -> src/fastgate/demo/digits.npz, about a minute

A handwritten digit is read as a sequence, one row of 8 pixels a step, by an LSTM with 64
units; a linear head on the last hidden state names the digit. A quarter of the digits, drawn
by class with a fixed seed, is held out: it is scored once, after training, and shipped with
the weights. Nothing was chosen by it. The schedule below was chosen with ``--validate``, which
leaves the held-out digits alone, trains on four fifths of the rest and scores the last fifth.
The split is by digit, not by writer: the same 13 people wrote both parts.

Data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
Learning Repository, 1998, https://doi.org/10.24432/C50P49, licensed CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/). scikit-learn's ``load_digits`` is the test part
of that data set, 1797 digits; the held-out ones are stored unchanged.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

INPUT_SIZE, HIDDEN_SIZE, CLASSES = 8, 64, 10
HELD_OUT = 0.25
EPOCHS, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 300, 32, 1e-2, 1e-2
SEED = 0

DATA_FILE = Path(__file__).parents[1] / "src" / "fastgate" / "demo" / "digits.npz"


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(INPUT_SIZE, HIDDEN_SIZE, batch_first=True)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(HIDDEN_SIZE, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        _, (h_n, _) = self.lstm(rows)
        scores: Tensor = self.head(self.dropout(h_n[-1]))
        return scores


def to_rows(images: np.ndarray) -> Tensor:
    """Pixels 0..16 as rows (N, 8, 8) in 0..1."""
    return torch.from_numpy(images.astype(np.float32) / 16)


def shift(rows: Tensor) -> Tensor:
    """Move every image by -1, 0 or 1 pixel each way; blank pixels come in at the edge."""
    padded = nn.functional.pad(rows, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, len(rows), 1, 1))
    step = torch.arange(8)
    image = torch.arange(len(rows)).view(-1, 1, 1)
    return padded[image, step.view(1, 8, 1) + down, step.view(1, 1, 8) + right]


def train(rows: Tensor, labels: Tensor, seed: int) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier()
    steps = EPOCHS * -(-len(rows) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.split(torch.randperm(len(rows)), BATCH_SIZE):
            loss = nn.functional.cross_entropy(model(shift(rows[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def score(model: Classifier, rows: Tensor, labels: Tensor) -> str:
    right = int((model(rows).argmax(1) == labels).sum())
    return f"{right} of {len(labels)} ({100 * right / len(labels):.1f} %)"


def save(model: Classifier, images: np.ndarray, labels: np.ndarray, file: Path) -> None:
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez_compressed(
        file,
        weight_ih=weights["lstm.weight_ih_l0"],  # (4H, 8), gates in torch's order: i, f, g, o
        weight_hh=weights["lstm.weight_hh_l0"],  # (4H, H)
        bias_ih=weights["lstm.bias_ih_l0"],
        bias_hh=weights["lstm.bias_hh_l0"],
        head_weight=weights["head.weight"],  # (10, H)
        head_bias=weights["head.bias"],
        images=images.astype(np.uint8),  # (N, 8, 8), 0..16
        labels=labels.astype(np.uint8),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the model of the fastgate demo.")
    parser.add_argument("--out", type=Path, default=DATA_FILE, help="the .npz file to write")
    parser.add_argument("--seed", type=int, default=SEED, help="of the weights and the batches")
    parser.add_argument(
        "--validate", action="store_true", help="score a part of the training set; write nothing"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)  # the same bits on every run

    digits = load_digits()
    images, held_out_images, labels, held_out_labels = train_test_split(
        digits.images, digits.target, test_size=HELD_OUT, stratify=digits.target, random_state=SEED
    )
    if args.validate:
        images, held_out_images, labels, held_out_labels = train_test_split(
            images, labels, test_size=0.2, stratify=labels, random_state=SEED
        )

    model = train(to_rows(images), torch.from_numpy(labels), args.seed)
    name = "validation" if args.validate else "held out"
    print(f"{name}: {score(model, to_rows(held_out_images), torch.from_numpy(held_out_labels))}")
    if not args.validate:
        save(model, held_out_images, held_out_labels, args.out)
        print(f"wrote {args.out}, {args.out.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
