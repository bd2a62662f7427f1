"""A stand-in for timm's train.py, which its wheel does not have."""

# What timm's train.py does, in its words and its order, with fewer settings.
TRAIN = """
import argparse
import json
import os
import sys

import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import create_model, safe_model_name
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver, get_outdir

def beside():
    try:
        import helper
    except ImportError:
        return None
    return helper.VALUE


parser = argparse.ArgumentParser()
parser.add_argument("--data-dir")
parser.add_argument("--model", default="resnet50")
parser.add_argument("--pretrained", action="store_true")
parser.add_argument("--num-classes", type=int)
parser.add_argument("--output", default="output")
parser.add_argument("--experiment", default="run")
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--batch-size", type=int, default=4)
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--device", default="cpu")


def main():
    args = parser.parse_args()
    torch.manual_seed(0)
    model = create_model(args.model, pretrained=args.pretrained, num_classes=args.num_classes)
    before = model.conv1.weight.detach().clone()
    config = resolve_data_config(vars(args), model=model)
    dataset = create_dataset("", root=args.data_dir, split="train", class_map="")
    loader = create_loader(
        dataset, config["input_size"], batch_size=args.batch_size, is_training=True, num_workers=1,
        use_prefetcher=False, mean=config["mean"], std=config["std"],
        device=torch.device(args.device),
    )
    optimizer = create_optimizer_v2(model, opt="sgd", lr=args.lr)
    folder = get_outdir(args.output, args.experiment)
    saver = CheckpointSaver(model, optimizer, args=args, checkpoint_dir=folder)
    for images, labels in loader:
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    saver.save_checkpoint(0, metric=1.0)
    print(json.dumps({
        "name": __name__, "argv": sys.argv[1:3], "file": __file__, "loss": loss.item(),
        "mean": config["mean"], "size": config["input_size"], "sum": before.double().sum().item(),
        "helper": beside(), "model": safe_model_name(args.model),
    }))


if __name__ == "__main__":
    main()
    sys.exit(int(os.environ.get("STATUS", "0")))
"""
