"""Scores of the networks of networks.csv that need no training: synflow and the norm of the first gradient.

    python experiments/trust/zero_cost.py

Synflow: Tanaka et al., 2020, arXiv:2006.05467, equation 8, summed over all weights, in log10. Gradient norm:
Abdelfattah et al., 2021, arXiv:2101.08134, section 3.2.1, on one batch of 64 embedded images.
"""

from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional as F  # noqa: N812

from hybridnas import Architecture, build
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.proxy.training import Trainer

HERE = Path(__file__).parent


def synflow(network: Architecture) -> float:
    torch.manual_seed(0)
    model = build(network, 16).double().eval()
    with torch.no_grad():
        for value in model.parameters():
            value.abs_()
    model(torch.ones(1, 3, network.image_size, network.image_size, dtype=torch.double)).sum().backward()
    total = sum((value * value.grad).abs().sum() for value in model.parameters() if value.grad is not None)
    return float(torch.log10(total.detach() + 1e-30))


def gradient_norm(network: Architecture, x: torch.Tensor, labels: torch.Tensor) -> float:
    torch.manual_seed(0)
    model = build(network, 16).train()
    F.cross_entropy(model(x), labels).backward()
    return float(sum(value.grad.norm() for value in model.parameters() if value.grad is not None))


def main() -> None:
    torch.set_num_threads(1)
    trainer = Trainer(open_source("synthetic").load(Loading(32)), torch.device("cpu"), threads=1)
    x, labels = next(trainer.batches("train", 32).shuffled(64, torch.Generator().manual_seed(0), torch.nn.Identity()))
    rows = []
    for row in pd.read_csv(HERE / "networks.csv").itertuples():
        network = Architecture.from_json(row.architecture)
        rows.append(
            {
                "number": row.number,
                "synflow": round(synflow(network), 3),
                "gradient norm": round(gradient_norm(network, x, labels), 3),
            }
        )
    pd.DataFrame(rows).to_csv(HERE / "zero_cost.csv", index=False)


if __name__ == "__main__":
    main()
