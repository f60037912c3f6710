"""A small JSON API of a run on Ray Serve: rows of concurrent requests are scored together.

POST /predict {"comments": [{"text": ..., "title": ...}]} gives the predictions in the same order; GET /health, GET /labels; the OpenAPI
page is at /docs. Needs the extra `serve` (ray[serve]).
"""

import asyncio

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, field_validator
from ray import serve
from starlette.middleware.base import RequestResponseEndpoint

from polarity.predict.batch import ScoreOptions
from polarity.predict.classifier import Prediction
from polarity.predict.input import has_text

MAX_ROWS = 1000
"""Comments of a request."""
MAX_CHARACTERS = 20_000
"""Characters of a text or title: far more than any model here reads of it."""
MAX_BYTES = 32 << 20
"""Bytes of a request's body."""
BATCH_ROWS = 64
BATCH_WAIT_S = 0.01
"""How long a row waits for others to be scored with."""
ONGOING, QUEUED = 1000, 20_000
"""Requests that a replica works on at once, and that may wait for one; a request beyond them gets status 503."""


class Comment(BaseModel):
    """A comment, and the title of the post that it answers."""

    text: str = Field(min_length=1, max_length=MAX_CHARACTERS)
    title: str = Field(default="", max_length=MAX_CHARACTERS)

    @field_validator("text")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not has_text(value):
            raise ValueError("holds nothing to classify")
        return value


class Comments(BaseModel):
    """The body of a request."""

    comments: list[Comment] = Field(min_length=1, max_length=MAX_ROWS)


class Predictions(BaseModel):
    """One entry a comment, in the order of the request: {task: prediction}."""

    predictions: list[dict[str, Prediction]]


app = FastAPI(title="polarity", summary="Labels and probabilities of comments.")


@app.exception_handler(RequestValidationError)
async def _refuse(request: Request, error: RequestValidationError) -> Response:
    """Where and what is wrong, without sending the text back."""
    faults = [{"where": ".".join(str(part) for part in fault["loc"]), "what": fault["msg"]} for fault in error.errors()[:10]]
    return JSONResponse({"detail": faults}, status_code=422)


@app.middleware("http")
async def _limit_body(request: Request, following: RequestResponseEndpoint) -> Response:
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            return JSONResponse({"detail": "the request must say its Content-Length"}, status_code=411)
        if int(length) > MAX_BYTES:
            return JSONResponse({"detail": f"the body may have {MAX_BYTES:,} bytes, it has {int(length):,}"}, status_code=413)
    return await following(request)


@serve.deployment(name="polarity", max_ongoing_requests=ONGOING, max_queued_requests=QUEUED)
@serve.ingress(app)
class Service:
    """One replica: a classifier, and the rows that wait for it."""

    def __init__(self, options: ScoreOptions) -> None:
        self.classifier = options.load()

    @app.post("/predict")
    async def predict(self, body: Comments) -> Predictions:
        """Class, confidence and probabilities of every task, for each comment in order."""
        return Predictions(predictions=list(await asyncio.gather(*(self.score(comment) for comment in body.comments))))

    @app.get("/health")
    async def health(self) -> dict[str, str]:
        """Answers once the model is loaded."""
        return {"status": "ok", "run": self.classifier.name}

    @app.get("/labels")
    async def labels(self) -> dict[str, list[str]]:
        """The tasks with their classes."""
        return self.classifier.labels

    @serve.batch(max_batch_size=BATCH_ROWS, batch_wait_timeout_s=BATCH_WAIT_S)
    async def score(self, comments: list[Comment]) -> list[dict[str, Prediction]]:
        """Rows of whatever requests wait, scored in one pass, off the thread that answers health checks."""
        return await asyncio.to_thread(self._score, comments)

    def _score(self, comments: list[Comment]) -> list[dict[str, Prediction]]:
        return self.classifier.predict_rows([each.text for each in comments], [each.title for each in comments])
