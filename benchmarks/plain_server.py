"""What one writes first: an ASGI application that decodes with Pillow and runs the network eagerly with PyTorch.

    python benchmarks/plain_server.py MODEL_DIR PORT

FastAPI is a layer on Starlette; this is the layer below, so it is, if anything, the faster of the two.
"""

import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "steps"))

import torch
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from torchvision import transforms

from classifier.model.runtimes import read_description


def main() -> None:
    model_dir, port = Path(sys.argv[1]), int(sys.argv[2])
    network = torch.load(model_dir / "eager.pt", weights_only=False).eval()
    preprocess = read_description(model_dir)["preprocess"]
    prepare = transforms.Compose(
        [
            transforms.Resize(preprocess["resize_to"], transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(preprocess["image_size"]),
            transforms.ToTensor(),
            transforms.Normalize(preprocess["mean"], preprocess["std"]),
        ]
    )

    def predict(body: bytes) -> list[float]:
        image = prepare(Image.open(io.BytesIO(body)).convert("RGB"))
        with torch.inference_mode():
            probabilities: list[float] = network(image.unsqueeze(0))[0].tolist()
        return probabilities

    async def invocations(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(predict, await request.body()))

    async def ping(request: Request) -> Response:
        return Response()

    routes = [Route("/ping", ping), Route("/invocations", invocations, methods=["POST"])]
    uvicorn.run(Starlette(routes=routes), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
