"""The routes: the page, and the JSON interface to runs."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from s2s.config.help import Key, keys
from s2s.config.merge import name_of
from s2s.data.rows import json_text
from s2s.errors import UserError, nearest
from s2s.runs.run import Run
from s2s.search.methods import SEARCHES
from s2s.search.methods.base import SearchMethod
from s2s.serve.answers import Served, answer, as_json_lines, greedy_lines, greedy_settings
from s2s.serve.costs import check_cost
from s2s.serve.hosts import Hosts
from s2s.serve.middleware import BodyLimit, HostGuard, error_body
from s2s.serve.questions import MOST_BYTES, JsonRoute, Question, settings_of
from s2s.serve.worker import BusyError, LeftError, TimeLimitError, Worker, unless_left

logger = logging.getLogger("s2s")
# Texts of models are shown on the page, so it may load nothing from elsewhere and talk only to its own server.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
MEMORY = 1024
"""The default limit of a request's memory in MiB."""
LOOPBACK = Hosts(frozenset(), local=True)


def application(runs: Mapping[str, Run], worker: Worker, hosts: Hosts = LOOPBACK, memory: int = MEMORY) -> FastAPI:
    """Return the application for runs by name; the first answers requests that name none.

    The ``worker`` computes one request at a time; a request may take at most ``memory`` MiB.
    """
    served = {name: Served(run, worker.check) for name, run in runs.items()}
    for name, run in runs.items():
        try:
            check_cost(run, settings_of(run.recipe.search, {}), memory)
        except UserError as error:
            logger.warning("run '%s' answers only requests that ask for other settings than its own: %s", name, error)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    app = FastAPI(title="s2s", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.router.route_class = JsonRoute
    app.add_middleware(BodyLimit, most=MOST_BYTES)
    app.add_middleware(HostGuard, hosts=hosts)
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
    async def generate(question: Question, request: Request) -> Response:
        name, chosen = _chosen(served, question.run)
        settings = settings_of(chosen.run.recipe.search, question.search)
        check_cost(chosen.run, settings, memory)

        def work() -> bytes:
            result = answer(chosen, question.source, settings)
            return json_text({"run": name, "step": chosen.run.step, **result}).encode()

        return Response(await unless_left(request, worker.do(work)), media_type="application/json")

    @app.post("/stream")
    async def stream(question: Question, request: Request) -> StreamingResponse:
        _, chosen = _chosen(served, question.run)
        settings = greedy_settings(chosen.run.recipe.search, question.search)
        check_cost(chosen.run, settings, memory)
        worker.check_room()  # now: once the stream has begun, its status 200 is sent
        lines = as_json_lines(request, worker, lambda: greedy_lines(chosen, question.source, settings))
        return StreamingResponse(lines, media_type="application/x-ndjson")

    return app


def _chosen(runs: Mapping[str, Served], name: str | None) -> tuple[str, Served]:
    name = next(iter(runs)) if name is None else name
    if name not in runs:
        raise UserError(f"run: no '{name}'{nearest(name, runs)}")
    return name, runs[name]


def _described(name: str, run: Run) -> dict[str, Any]:
    defaults = run.recipe.search

    def described(key: Key, kind: type[SearchMethod]) -> dict[str, Any]:
        return {**key._asdict(), "value": getattr(defaults, key.name) if type(defaults) is kind else None}

    return {
        "name": name,
        "step": run.step,
        "parameters": sum(parameter.numel() for parameter in run.objective.parameters()),
        "method": name_of(SEARCHES, defaults),
        "methods": {row: [described(key, kind) for key in keys(kind)] for row, kind in SEARCHES.items()},
    }


def _add_errors(app: FastAPI) -> None:
    """Answer every error with a JSON object that has one line under ``error``."""

    @app.exception_handler(UserError)
    async def unusable(_: Request, error: UserError) -> Response:
        return _error(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return _error(422, "; ".join(_reason(detail) for detail in error.errors()))

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405 and request.method == "OPTIONS":  # a known path, whose methods a browser asks for
            return Response(status_code=204, headers={"Allow": f"{(error.headers or {})['Allow']}, OPTIONS"})
        return _error(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> Response:
        return _error(503, str(error), {"Retry-After": "1"})

    @app.exception_handler(TimeLimitError)
    async def too_long(_: Request, error: TimeLimitError) -> Response:
        return _error(504, str(error))

    @app.exception_handler(LeftError)
    async def left(_: Request, error: LeftError) -> Response:
        return _error(499, str(error))  # nobody reads it

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        logger.exception("a request failed", exc_info=error)
        return _error(500, f"{type(error).__name__}; the server's log says more")


def _reason(detail: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors as a line with the key and the reason."""
    key = ".".join(str(part) for part in detail["loc"] if part != "body")
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{key}'{nearest(key, Question.model_fields)}"
    if detail["type"] == "json_invalid":
        return f"not JSON: {detail.get('ctx', {}).get('error', detail['msg'])}"
    reason = str(detail["msg"]).removeprefix("Value error, ")
    return f"{key}: {reason}" if key else reason


def _error(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(error_body(reason), status, headers, "application/json")
