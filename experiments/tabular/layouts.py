"""The seed question: in which order do the 16 layouts of mbconv (C) and global attention (T) stand?

python experiments/tabular/layouts.py [DATA]
"""

import sys

import numpy as np
import pandas as pd
from record import DATA

from hybridnas.replaying import mean_margin


def main() -> None:
    data = sys.argv[1] if len(sys.argv) > 1 else "synthetic"
    trainings = pd.read_csv(DATA / "trainings.csv")
    trainings = trainings[trainings.data == data].drop_duplicates(["families", "seed"])
    networks = pd.read_csv(DATA / "networks.csv").set_index("families")
    letters = trainings.families.str.split("-").map(set)
    vertical = trainings[letters.map(lambda found: found <= {"mbconv", "global"})]
    whole = trainings.groupby("families").epoch_4.mean()
    # What an accuracy would be at the mean cost of all networks, by the slope over all.
    equal = {}
    for cost in ("torch_ms", "macs"):
        x = np.log(networks.loc[whole.index, cost])
        equal[cost] = whole - np.polyfit(x, whole, 1)[0] * (x - x.mean())
    lines = []
    for families, group in vertical.groupby("families"):
        mean, margin = mean_margin(group.epoch_4.tolist())
        row = networks.loc[families]
        lines.append(
            {
                "layout": "-".join("C" if name == "mbconv" else "T" for name in families.split("-")),
                "accuracy %": round(100 * mean, 1),
                "+-": round(100 * margin, 1),
                "at equal ms": round(100 * equal["torch_ms"][families], 1),
                "at equal MMAC": round(100 * equal["macs"][families], 1),
                "seeds": len(group),
                "torch ms": round(row.torch_ms, 2),
                "onnxruntime ms": round(row.onnxruntime_ms, 3),
                "MMAC": round(row.macs / 1e6, 2),
            }
        )
    table = pd.DataFrame(lines).sort_values("accuracy %", ascending=False)
    print(table.to_markdown(index=False))
    # What a family gains in a stage, all else equal. Multiply-adds follow from the families: they cannot be held equal.
    for cost in ("torch_ms", "onnxruntime_ms"):
        x = np.log(networks.loc[whole.index, cost].to_numpy())
        x = (x - x.mean()) / x.std()
        columns = [x, np.ones(len(x))]
        names = [f"one standard deviation of log {cost}", "constant"]
        for stage in range(4):
            for family in ("convnext", "window", "global"):
                columns.append(np.array([name.split("-")[stage] == family for name in whole.index], float))
                names.append(f"stage {stage + 1}: {family} instead of mbconv")
        matrix = np.column_stack(columns)
        fitted, *_ = np.linalg.lstsq(matrix, whole.to_numpy(), rcond=None)
        rest = whole.to_numpy() - matrix @ fitted
        variance = rest @ rest / max(1, len(x) - matrix.shape[1])
        error = np.sqrt(np.diag(np.linalg.pinv(matrix.T @ matrix)) * variance)
        print(f"\nat equal {cost}, in points ({len(x)} networks):")
        for name, value, one in zip(names, fitted, error, strict=True):
            if name != "constant":
                print(f"  {100 * value:+5.1f} +- {196 * one:.1f}  {name}")


if __name__ == "__main__":
    main()
