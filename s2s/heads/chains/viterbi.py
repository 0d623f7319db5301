"""The best label sequences of a linear chain: Viterbi's algorithm for the K best."""

import torch
from torch import Tensor

from s2s.batch import IGNORED
from s2s.heads.chains.chain import Chain, path_scores
from s2s.heads.logspace import NOTHING


@torch.no_grad()
def best_paths(chain: Chain, k: int) -> tuple[Tensor, Tensor]:
    """The K sequences of highest score, best first: labels [B, K, T], ``IGNORED`` at padding, and scores [B, K].

    A place for which no further allowed sequence is left has score -inf and only ``IGNORED``. The state holds, for
    each label, the K best scores of the sequences that end there, less each row's best.
    """
    if k == 1:
        paths, final = _best_path(chain)
        return _told(chain, paths[:, None], final[:, None])
    state, pointers = _search(chain, k)
    final, last = _top(state + chain.ends.repeat_interleave(k), k)
    paths = _followed(pointers, last) // k
    return _told(chain, paths, final)


def _told(chain: Chain, paths: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
    """Paths [B, K, T] and their scores [B, K], those without allowed sequences marked."""
    scores = path_scores(chain, paths)
    absent = (final == -torch.inf) | (scores < NOTHING / 2)
    ignored = absent[..., None] | ~chain.mask[:, None]
    return paths.masked_fill(ignored, IGNORED), scores.masked_fill(absent, -torch.inf)


def _best_path(chain: Chain) -> tuple[Tensor, Tensor]:
    """The best labels [B, T] and what its search ends with [B].

    Going back, the label before is sought anew, for the one label behind it: cheaper than to keep it for all.
    """
    moves, mask = chain.transitions.t().contiguous(), chain.mask.t()[..., None]  # [to, from]
    states = [_centred(chain.starts + chain.emissions[:, 0])]
    for column in range(1, chain.emissions.shape[1]):
        best = (states[-1][:, None, :] + moves).amax(dim=-1)
        states.append(torch.where(mask[column], _centred(best + chain.emissions[:, column]), states[-1]))
    final, label = (states[-1] + chain.ends).max(dim=-1)
    labels = [label]
    for column in range(len(states) - 1, 0, -1):
        before = (states[column - 1] + moves[label]).argmax(dim=-1)
        label = torch.where(mask[column, :, 0], before, label)
        labels.append(label)
    return torch.stack(labels[::-1], dim=1), final


def _search(chain: Chain, k: int) -> tuple[Tensor, list[Tensor]]:
    """The last state [B, L K] and, for each column but the first, where each entry came from [B, L K]."""
    state = _centred(_spread(chain.starts + chain.emissions[:, 0], k))
    moves = chain.transitions.t().repeat_interleave(k, dim=1)  # [to, from K]
    staying, pointers = torch.arange(state.shape[1], device=state.device), []
    for column in range(1, chain.emissions.shape[1]):
        best, origin = _top(state[:, None, :] + moves, k)  # [B, to, K]
        onward = _centred((best + chain.emissions[:, column, :, None]).flatten(1))
        is_inside = chain.mask[:, column, None]
        state = torch.where(is_inside, onward, state)
        pointers.append(torch.where(is_inside, origin.flatten(1), staying))
    return state, pointers


def _spread(scores: Tensor, k: int) -> Tensor:
    """K places for each label [B, L] -> [B, L K]: one sequence of length one, and K - 1 empty places."""
    empty = torch.full_like(scores, -torch.inf)[..., None].expand(-1, -1, k - 1)
    return torch.cat([scores[..., None], empty], dim=-1).flatten(1)


def _centred(state: Tensor) -> Tensor:
    return state - state.amax(dim=-1, keepdim=True)


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``topk`` over the last dimension; the maximum is several times faster where it is enough."""
    if k == 1:
        best, index = scores.max(dim=-1, keepdim=True)
        return best, index
    best, index = scores.topk(k, dim=-1)
    return best, index


def _followed(pointers: list[Tensor], last: Tensor) -> Tensor:
    """The entries of the states [B, K, T] on the way to the last ones [B, K]."""
    columns = [last]
    for pointer in reversed(pointers):
        columns.append(pointer.gather(1, columns[-1]))
    return torch.stack(columns[::-1], dim=-1)
