"""`weights`: the backbones there are to choose from, and the download of one for runs without a network."""

import json
from dataclasses import asdict

from pipeline.cli.invocation import Arguments, chosen_target, loaded
from pipeline.cli.rows import print_rows
from pipeline.config.backbones import PACKAGED, PUBLISHED
from pipeline.errors import UsageError
from pipeline.service import weights
from pipeline.service.staging import upload_weights, weights_uri

COLUMNS = ("backbone", "weights", "here", "parameters_millions", "image_size_px", "top1_percent", "licence")


def handle_weights(arguments: Arguments) -> int:
    """The command."""
    if (arguments.action == "fetch") != bool(arguments.backbone):
        raise UsageError("weights: expected list, or fetch NAME, such as: weights fetch convnext_tiny.in12k_ft_in1k.")
    return fetch(arguments) if arguments.backbone else show(arguments)


def show(arguments: Arguments) -> int:
    """A choice of backbones; any other network of timm's can be fetched, too."""
    rows = [
        {
            "backbone": name,
            "weights": "package" if name in PACKAGED else "timm",
            "here": "yes" if weights.at_hand(name) else "no",
            **asdict(published),
        }
        for name, published in PUBLISHED.items()
    ]
    print_rows(arguments, rows, COLUMNS, "")
    return 0


def fetch(arguments: Arguments) -> int:
    """Download timm's weights as `model.weights: timm` would, and store them where runs look for them."""
    config = loaded(arguments)
    backbone, target = weights.resolve(arguments.backbone, "timm"), chosen_target(arguments, config)
    is_new, uri = upload_weights(target, config, backbone), weights_uri(config, backbone, target.placement)
    manifest = backbone.manifest or {}
    if arguments.json:
        print(json.dumps({"backbone": arguments.backbone, "sha256": manifest["sha256"], "uri": uri, "stored": is_new}))
        return 0
    print(f"{arguments.backbone}, sha256 {manifest['sha256']}: {'stored' if is_new else 'there already'}")
    print(f"{target.where(uri)}")
    print(f"In pipeline.yaml, model: {{backbone: {arguments.backbone}, weights: timm}} takes them without a network.")
    return 0
