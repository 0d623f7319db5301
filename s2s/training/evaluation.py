"""Scores of the dev split while a run trains, over all processes, and the end of a run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy
import torch
from accelerate.utils import gather_object
from torch import Tensor

from s2s.batch import count
from s2s.data.batches import Indices, updates
from s2s.heads.evaluation import evaluate_heads, summed
from s2s.inference.generate import generate
from s2s.machine.agreement import decided, failing_together
from s2s.machine.precision import decoding_precision
from s2s.metrics import score
from s2s.model.backbones import without_weights
from s2s.objective import Objective
from s2s.recipe.build import build_heads
from s2s.runs import checkpoints
from s2s.search.methods.constraints import reader
from s2s.training import sharding
from s2s.training.reporter import Reporter
from s2s.training.setup import Prepared
from s2s.training.state import State


def dev_scores(prepared: Prepared, objective: Objective) -> dict[str, float]:
    """Return the scores of the dev split: ``loss`` in nats per target token, ``s2s.metrics.score`` and those of heads.

    Without targets, ``loss`` is the weighted loss of the heads. Scores that nothing in the split has part in are left
    out. Where parameters are divided, a whole copy of the objective is scored: processes make different numbers of
    passes, and decoding packs and converts the model.
    """
    recipe, tokens, examples = prepared.recipe, prepared.dev, prepared.dataset.dev
    if prepared.metadata.sharding == "full":
        objective = _whole(prepared, objective)
    training = objective.training
    objective.eval()
    scores = {}
    plan = updates(tokens.lengths(), recipe.run.tokens, recipe.run.seed, 0)
    if objective.generates:
        scores["loss"] = _loss(prepared, objective, plan)
        texts = _decode(prepared, objective)
        references = [list(example.references) or example.target for example in examples[: len(texts)]]
        scores |= score(texts, references, recipe.data.lang).values
    if objective.heads is not None:
        head_scores = evaluate_heads(
            prepared.accelerator,
            objective,
            objective.heads,
            prepared.vocabulary,
            examples,
            tokens,
            plan,
            prepared.precision,
        )
        weights = objective.heads.weights
        losses = [weights[name] * head_scores[f"{name}.loss"] for name in weights if f"{name}.loss" in head_scores]
        scores = ({"loss": sum(losses)} if losses else {}) | scores | head_scores
    objective.train(training)
    return scores


def _whole(prepared: Prepared, objective: Objective) -> Objective:
    """Return a whole copy of an objective whose parameters are divided."""
    recipe, shape = prepared.recipe, prepared.metadata.architecture
    with torch.device("meta"):
        heads = build_heads(recipe, shape.width, prepared.vocabulary.size, prepared.metadata.labels)
        copy = Objective(without_weights(shape), recipe.objective, (), heads, recipe.generates)
    sharding.give(copy, objective)
    return copy


@torch.no_grad()
def _loss(prepared: Prepared, objective: Objective, plan: Sequence[Indices]) -> float:
    """Return the negative log-likelihood per target token; each process computes its share of the batches."""
    accelerator = prepared.accelerator
    # In float64 on the CPU, so that the sum hardly depends on how the batches are divided.
    sums = torch.zeros(2, dtype=torch.float64)
    for indices in plan[accelerator.process_index :: accelerator.num_processes]:
        batch = prepared.dev.batch(indices, prepared.vocabulary).to(accelerator.device)
        with prepared.precision.evaluation():
            nll = objective.nll(batch)
        sums += torch.stack([nll.cpu().double(), count(batch).target_tokens.cpu().double()])
    nll_sum, tokens = summed(accelerator, sums).tolist()
    return float(nll_sum / tokens)


def _decode(prepared: Prepared, objective: Objective) -> list[str]:
    """Return the best hypothesis for each of the first dev sources, in order, in every process."""
    recipe, accelerator, vocabulary = prepared.recipe, prepared.accelerator, prepared.vocabulary
    sources = prepared.dev.sources[: recipe.run.evaluate_examples]
    # Contiguous shares: gathered process by process, the texts are in order again.
    shares = numpy.array_split(numpy.arange(len(sources)), accelerator.num_processes)
    share = [sources[index] for index in shares[accelerator.process_index]]
    max_length = recipe.search.max_length or recipe.data.max_target
    # As the finished run will decode: these scores choose its checkpoint.
    name = decoding_precision(recipe.search.precision, prepared.precision.name, accelerator.device)
    settings = replace(recipe.search, precision=name)
    results = generate(objective.model, vocabulary, share, settings, max_length, lambda _: None)
    decoder = reader(recipe.search, vocabulary)
    texts = [decoder.decode(hypotheses[0][0]) if hypotheses else "" for hypotheses in results]
    return list(gather_object(texts)) if accelerator.num_processes > 1 else texts


def shown(scores: dict[str, float]) -> str:
    """Return scores as a line."""
    return "  ".join(f"{name} {value:.2f}" for name, value in scores.items())


def finish(prepared: Prepared, state: State, reporter: Reporter) -> None:
    """Average the last checkpoints, if that is asked for and not yet done, and log how the run has ended."""
    run, folder = state.run, Path(state.run.folder)
    if run.average is not None and decided(lambda: checkpoints.step_of_link(folder, "average")) != state.step:
        _average(prepared, state, reporter, run.average)
    if state.best is not None:
        early = f" early, after {state.waited} evaluations without a better one (run.patience)"
        reporter.log(
            f"{folder}: finished at step {state.step}{early if state.stopped_early else ''}; best {run.select} "
            f"{state.best.value:.3f} at step {state.best.step}"
        )


def _average(prepared: Prepared, state: State, reporter: Reporter, last: int) -> None:
    """Average the last checkpoints in the main process, evaluate the average in all, and save it."""
    folder = Path(state.run.folder)
    weights: dict[str, Tensor] = {}

    def average() -> list[int]:
        means, steps = checkpoints.average(folder, min(last, len(checkpoints.whole(folder))))
        weights.update(means)
        return steps

    steps = decided(average)
    sharding.fill(state.objective.state_dict(), weights)
    scores = dev_scores(prepared, state.objective)
    reporter.log(f"average of the steps {', '.join(map(str, steps))}: dev {shown(scores)}")
    with failing_together():
        if prepared.accelerator.is_main_process:
            checkpoints.save_average(folder, weights, steps)
