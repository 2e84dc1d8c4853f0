"""A classifier on Ray Serve: two replicas, each of which batches the images that arrive together."""

import asyncio
import os
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from PIL import Image
from ray import serve

import transxnet
from transxnet.data.images.reading import BadImageError, decode_image

api = FastAPI()


@serve.deployment(num_replicas=2, max_ongoing_requests=32, max_queued_requests=64, ray_actor_options={"num_cpus": 1})
@serve.ingress(api)
class Classifier:
    def __init__(self, checkpoint: str) -> None:
        self.predictor = transxnet.Predictor(checkpoint, device="cpu", fuse=True)
        self.replica = serve.get_replica_context().replica_id.unique_id

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.005)
    async def predict(self, images: list[Image.Image]) -> list[dict[str, Any]]:
        found = await asyncio.to_thread(self.predictor, images)
        return [one.to_dict() | {"image": "image 0"} for one in found]

    @api.post("/predict")
    async def answer(self, request: Request) -> JSONResponse:
        began, content = time.perf_counter(), await request.body()
        try:
            image = await asyncio.to_thread(decode_image, "image 0", content)
        except BadImageError as error:
            fault = {"status": 422, "code": "unreadable-image", "message": str(error)}
            return JSONResponse({"error": fault}, 422)
        prediction = await self.predict(image) | {"width": image.width, "height": image.height}
        seconds = {"total": time.perf_counter() - began}
        answer = {"task": "classification", "predictions": [prediction], "seconds": seconds}
        return JSONResponse(answer, headers={"X-Replica": self.replica})


app = Classifier.bind(os.environ["CHECKPOINT"])
