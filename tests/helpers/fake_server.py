"""A server with the interface of ``transxnet serve`` that makes its predictions up."""

from __future__ import annotations

import base64
import email
import email.policy
import io
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as coco_masks

STATIC = Path(__file__).parents[2] / "src" / "transxnet" / "serve" / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
CLASSES = {
    "classification": ["tabby", "tiger cat", "Egyptian cat", "espresso", "lynx", "space shuttle", "crane", "crane"],
    "detection": ["person", "cup", "spoon", "table"],
    "segmentation": ["background", "person", "flag", "shuttle"],
}


def model(task: str) -> dict[str, Any]:
    """What GET /model answers."""
    classes = CLASSES[task]
    colours = [] if task == "classification" else ["#3d5a80", "#e07a5f", "#f2cc8f", "#81b29a"]
    kinds = ("jpeg", "png", "webp", "bmp", "tiff", "gif")
    return {
        "name": "transxnet_tiny",
        "task": task,
        "checkpoint": "best.safetensors",
        "classes": classes,
        "colours": colours,
        "input": {"width": 224, "height": 224} if task == "classification" else None,
        "channels": 3,
        "precision": "float32",
        "fused": True,
        "device": "cpu",
        "parameters": 12_800_000,
        "stages": 4,
        "supports": {"gradcam": task == "classification", "features": task == "classification"},
        "limits": {"bytes": 20_000_000, "pixels": 50_000_000, "images": 16, "seconds": 60},
        "types": [f"image/{kind}" for kind in kinds],
        "top": 5,
        "min_score": 0.5,
        "version": "1.0.0",
    }


@dataclass
class Fake:
    """A running server.

    Attributes:
        model: What GET /model answers; its task decides what /predict answers.
        url: Address of the page.
        asked: Query, file name and bytes of each image that was asked for.
        refusals: Status, error and headers of the next answers to /predict, which are no predictions.
        token: Token that requests need; empty for none.
        objects: Classes, scores and boxes (as shares of the width and height) of the objects found.
        labels: (H, W) label map, which is resized to the image; bands of the classes if None.
    """

    model: dict[str, Any] = field(default_factory=lambda: model("classification"))
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    refusals: list[tuple[int, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    token: str = ""
    objects: list[tuple[str, float, tuple[float, float, float, float]]] = field(
        default_factory=lambda: [
            ("person", 0.93, (0.1, 0.1, 0.5, 0.9)),
            ("cup", 0.71, (0.55, 0.5, 0.8, 0.8)),
            ("cup", 0.34, (0.6, 0.1, 0.9, 0.4)),
            ("spoon", 0.08, (0.05, 0.8, 0.3, 0.95)),
        ]
    )
    labels: np.ndarray[Any, Any] | None = None

    def reset(self, task: str, **values: Any) -> None:
        """Be as new, with another task and other attributes."""
        vars(self).update(vars(Fake(model(task), self.url)) | values)

    def refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        """Answer the next request for a prediction with an error."""
        error = {"error": {"status": status, "code": code, "message": message}}
        self.refusals.append((status, error, {name.replace("_", "-"): value for name, value in headers.items()}))

    def predict(self, name: str, content: bytes, query: dict[str, str]) -> dict[str, Any]:
        """A prediction of the task's form; raises OSError for what is no image."""
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        width, height = image.size
        found = getattr(self, f"_{self.model['task']}")(name, width, height, query)
        return {"image": name, "width": width, "height": height, **found}

    def _classification(self, name: str, width: int, height: int, query: dict[str, str]) -> dict[str, Any]:
        classes = self.model["classes"]
        shares = (0.8731, 0.0642, 0.0219, 0.0104, 0.0007)
        answers = [{"class": classes[i], "probability": share} for i, share in enumerate(shares[: len(classes)])]
        found: dict[str, Any] = {"answers": answers}
        if query.get("explain") == "gradcam":
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            stage = int(query.get("stage", 4))
            y, x = np.mgrid[0:224, 0:224] / 224
            map_ = np.exp(-((x - 0.5) ** 2 + (y - 0.38) ** 2) * (40 - 8 * stage))
            shown = {"class": query.get("class", classes[0]), "probability": 0.5, "stage": stage}
            found["gradcam"] = shown | {"png": png(255 * map_), "area": [left, top, left + side, top + side]}
        return found

    def _detection(self, name: str, width: int, height: int, query: dict[str, str]) -> dict[str, Any]:
        objects, results = [], []
        for label, score, box in self.objects:
            if score < float(query.get("min_score", self.model["min_score"])):
                continue
            left, top, right, bottom = (side * size for side, size in zip(box, (width, height) * 2, strict=True))
            objects.append({"class": label, "score": score, "box": [round(v, 1) for v in (left, top, right, bottom)]})
            bounds = [left, top, right - left, bottom - top]
            mask = ellipse(width, height, (left, top, right, bottom))
            result = {"image_id": name, "category_id": 1 + CLASSES["detection"].index(label), "bbox": bounds}
            results.append(result | {"score": score, "segmentation": run_lengths(mask)})
        return {"objects": objects, "results": results}

    def _segmentation(self, name: str, width: int, height: int, query: dict[str, str]) -> dict[str, Any]:
        labels = self.labels
        if labels is None:
            labels = np.tile(np.arange(len(self.model["classes"])), (2, 1))
        rows = np.arange(height) * labels.shape[0] // height
        columns = np.arange(width) * labels.shape[1] // width
        labels = labels[rows[:, None], columns]
        counts = np.bincount(labels.ravel())
        shares = {self.model["classes"][i]: counts[i] / labels.size for i in counts.argsort()[::-1] if counts[i]}
        return {"shares": shares, "label_map": png(labels)}


def png(values: np.ndarray[Any, Any]) -> str:
    """A grey PNG in base64, of 16 bits if the values need them."""
    file = io.BytesIO()
    Image.fromarray(values.astype("uint16" if values.max() > 255 else "uint8")).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def run_lengths(mask: np.ndarray[Any, Any]) -> dict[str, Any]:
    """A mask (H, W) as compressed run lengths."""
    encoded = coco_masks.encode(np.asfortranarray(mask.astype("uint8")))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def ellipse(width: int, height: int, box: tuple[float, ...]) -> np.ndarray[Any, Any]:
    """A mask (H, W) of the ellipse in a box."""
    left, top, right, bottom = box
    y, x = np.ogrid[0:height, 0:width]
    return ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 <= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: Fake

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/model":
            if self.authorised():
                self.answer(200, self.fake.model)
            return
        file = STATIC / ("index.html" if path == "/" else path.removeprefix("/static/"))
        if file.parent != STATIC or not file.is_file():
            self.answer(404, {"error": {"status": 404, "code": "not-found", "message": "There is nothing here."}})
            return
        self.send(200, file.read_bytes(), TYPES[file.suffix], {"Cache-Control": "max-age=3600"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.authorised():
            return
        if self.fake.refusals:
            self.answer(*self.fake.refusals.pop(0))
            return
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form = email.message_from_bytes(head + body, policy=email.policy.HTTP)
        query = dict(parse_qsl(urlsplit(self.path).query))
        predictions = []
        for part in form.iter_parts():
            name, content = str(part.get_filename()), part.get_payload(decode=True)
            assert isinstance(content, bytes)
            self.fake.asked.append({"query": query, "name": name, "bytes": content})
            try:
                predictions.append(self.fake.predict(name, content, query))
            except OSError:
                message = "the image cannot be used: it is no image. Send another one."
                self.answer(422, {"error": {"status": 422, "code": "unreadable-image", "message": message}})
                return
        self.answer(200, {"task": self.fake.model["task"], "predictions": predictions, "seconds": {"total": 0.042}})

    def authorised(self) -> bool:
        if not self.fake.token or self.headers.get("Authorization") == f"Bearer {self.fake.token}":
            return True
        self.answer(401, {"error": {"status": 401, "code": "unauthorised", "message": "A token is needed."}})
        return False

    def answer(self, status: int, values: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.send(status, json.dumps(values).encode(), "application/json", headers)

    def send(self, status: int, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        always = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        always |= {"Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in (always | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # the browser's idle connections are not waited for

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # that of a page that is closed
            super().handle_error(request, client_address)


@contextmanager
def fake_server(task: str = "classification") -> Iterator[Fake]:
    """A server on a free port of this machine, while the context lasts."""
    fake = Fake(model(task))
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}/"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
