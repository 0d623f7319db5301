"""The page and the JSON interface over some runs."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from s2s.config.describing import Key, keys
from s2s.config.named import name_of
from s2s.errors import UserError, nearest
from s2s.run import Run
from s2s.search.method import SearchMethod
from s2s.search.methods import SEARCHES
from s2s.serve.answers import answer
from s2s.serve.bodies import MOST_BYTES, Question
from s2s.serve.limits import BodyLimit
from s2s.serve.streams import as_they_come, greedy_lines, greedy_settings
from s2s.serve.worker import BusyError, Worker

logger = logging.getLogger("s2s")
# The page is whole in itself: nothing of it comes from elsewhere, and it talks to its own server alone.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]


def application(runs: Mapping[str, Run], waiting: int, hosts: list[str]) -> FastAPI:
    """The application over runs by name, the first of which answers where none is named.

    At most ``waiting`` requests wait; ``hosts`` are the names under which the server may be asked.
    """
    worker = Worker(waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    app = FastAPI(title="s2s", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(BodyLimit, most=MOST_BYTES)
    # A page elsewhere whose name is made to point here must not read what is answered.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    _add_errors(app)
    page = files("s2s.serve").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"})

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "runs": list(runs), "waiting": worker.waiting}

    @app.get("/runs")
    async def describe() -> list[dict[str, Any]]:
        return [_described(name, run) for name, run in runs.items()]

    @app.post("/generate")
    async def generate(question: Question) -> dict[str, Any]:
        name, run = _chosen(runs, question.run)
        found = await worker.do(lambda: answer(run, question.source, question.search))
        return {"run": name, "step": run.step, **found}

    @app.post("/stream")
    async def stream(question: Question) -> StreamingResponse:
        _, run = _chosen(runs, question.run)
        settings = greedy_settings(run, question.search)
        worker.check()  # what has begun has its status already
        lines = as_they_come(worker, lambda: greedy_lines(run, question.source, settings))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    return app


def _chosen(runs: Mapping[str, Run], name: str | None) -> tuple[str, Run]:
    name = next(iter(runs)) if name is None else name
    if name not in runs:
        raise UserError(f"run: no '{name}'{nearest(name, runs)}")
    return name, runs[name]


def _described(name: str, run: Run) -> dict[str, Any]:
    own = run.recipe.search
    return {
        "name": name,
        "step": run.step,
        "parameters": sum(parameter.numel() for parameter in run.objective.parameters()),
        "method": name_of(SEARCHES, own),
        "methods": {row: [_key(key, kind, own) for key in keys(kind)] for row, kind in SEARCHES.items()},
    }


def _key(key: Key, kind: type[SearchMethod], own: SearchMethod) -> dict[str, Any]:
    """A search key, with the run's own value where its recipe has one."""
    return {**key._asdict(), "value": getattr(own, key.name) if type(own) is kind else None}


def _add_errors(app: FastAPI) -> None:
    """Every error is a JSON object with one line under ``error``."""

    @app.exception_handler(UserError)
    async def unusable(_: Request, error: UserError) -> JSONResponse:
        return _error(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _error(422, "; ".join(_place(detail) for detail in error.errors()))

    @app.exception_handler(StarletteHTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        return _error(503, str(error), {"Retry-After": "1"})

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        logger.exception("a request failed", exc_info=error)
        return _error(500, f"{type(error).__name__}; the server's log says more")


def _place(detail: Mapping[str, Any]) -> str:
    """One of pydantic's errors in a line: where, and what is wrong."""
    place = ".".join(str(part) for part in detail["loc"] if part != "body")
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{place}'{nearest(place, Question.model_fields)}"
    if detail["type"] == "json_invalid":
        return f"not JSON: {detail.get('ctx', {}).get('error', detail['msg'])}"
    reason = str(detail["msg"]).removeprefix("Value error, ")
    return f"{place}: {reason}" if place else reason


def _error(status: int, reason: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # A reason may quote what was sent, halves of surrogate pairs too, which UTF-8 has no bytes for.
    line = reason.encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"error": line}, status_code=status, headers=headers)
