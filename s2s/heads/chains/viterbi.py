"""The best label sequences of a linear chain: Viterbi's algorithm, for the best sequence and for the K best."""

import torch
from torch import Tensor

from s2s.batch import IGNORED
from s2s.heads.chains.chain import NOTHING, Chain, path_scores


@torch.no_grad()
def best_paths(chain: Chain, k: int) -> tuple[Tensor, Tensor]:
    """Return the K sequences of highest score, best first: labels [B, K, T], ``IGNORED`` at padding, scores [B, K].

    Where a row has fewer than K allowed sequences, the remaining entries have score -inf and only ``IGNORED``.
    """
    if k == 1:
        path, last_score = _best_path(chain)
        paths, last_scores = path[:, None], last_score[:, None]
    else:
        state, pointers = _search(chain, k)
        last_scores, last = (state + chain.ends.repeat_interleave(k)).topk(k, dim=-1)
        # An entry's number in a state is its label times K plus its rank.
        paths = _follow(pointers, last) // k
    # The search subtracts each row's best score column by column; the paths are scored again without that.
    scores = path_scores(chain, paths)
    absent = (last_scores == -torch.inf) | (scores < NOTHING / 2)
    ignored = absent[..., None] | ~chain.mask[:, None]
    return paths.masked_fill(ignored, IGNORED), scores.masked_fill(absent, -torch.inf)


def _best_path(chain: Chain) -> tuple[Tensor, Tensor]:
    """Return the best labels [B, T] and their score [B], up to a constant of the row."""
    moves, mask = chain.transitions.t().contiguous(), chain.mask.t()[..., None]  # [to, from]
    states = [_centre(chain.starts + chain.emissions[:, 0])]
    for column in range(1, chain.emissions.shape[1]):
        best = (states[-1][:, None, :] + moves).amax(dim=-1)
        states.append(torch.where(mask[column], _centre(best + chain.emissions[:, column]), states[-1]))
    score, label = (states[-1] + chain.ends).max(dim=-1)
    labels = [label]
    # The way back searches for the label before again, for one label only: cheaper than to store pointers for all.
    for column in range(len(states) - 1, 0, -1):
        before = (states[column - 1] + moves[label]).argmax(dim=-1)
        label = torch.where(mask[column, :, 0], before, label)
        labels.append(label)
    return torch.stack(labels[::-1], dim=1), score


def _search(chain: Chain, k: int) -> tuple[Tensor, list[Tensor]]:
    """Return the last state [B, L K] and, for each column but the first, where each entry came from [B, L K].

    A state holds, for each label, the K best scores of the sequences that end there; at first K - 1 are empty.
    """
    first = chain.starts + chain.emissions[:, 0]
    empty = torch.full_like(first, -torch.inf)[..., None].expand(-1, -1, k - 1)
    state = _centre(torch.cat([first[..., None], empty], dim=-1).flatten(1))
    moves = chain.transitions.t().repeat_interleave(k, dim=1)  # [to, from K]
    unmoved, pointers = torch.arange(state.shape[1], device=state.device), []
    for column in range(1, chain.emissions.shape[1]):
        best, origin = (state[:, None, :] + moves).topk(k, dim=-1)  # [B, to, K]
        moved = _centre((best + chain.emissions[:, column, :, None]).flatten(1))
        is_inside = chain.mask[:, column, None]
        state = torch.where(is_inside, moved, state)
        pointers.append(torch.where(is_inside, origin.flatten(1), unmoved))
    return state, pointers


def _centre(state: Tensor) -> Tensor:
    """Subtract each row's best score, so that float32 keeps its digits over long rows."""
    return state - state.amax(dim=-1, keepdim=True)


def _follow(pointers: list[Tensor], last: Tensor) -> Tensor:
    """Return the entries of the states [B, K, T] on the way to the last ones [B, K]."""
    columns = [last]
    for pointer in reversed(pointers):
        columns.append(pointer.gather(1, columns[-1]))
    return torch.stack(columns[::-1], dim=-1)
