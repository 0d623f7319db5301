"""All scores of generated texts, in one table: title, which direction is better, and what a score needs.

``run.select``, the choice of the best checkpoint, ``evaluate.py`` and the report read it; functions that compute scores
return them under these names. To add one, add a row here and compute it in the function of its ``needs``.
"""

from typing import Literal, NamedTuple

Better = Literal["lower", "neither", "higher"]


class TextMetric(NamedTuple):
    """A score of a set of texts.

    ``needs`` is an argument of ``evaluate.py``. Scores that need only ``references`` are also computed, logged and
    selectable during training.
    """

    title: str
    better: Better
    needs: Literal["references", "published", "sources", "embeddings"]


TEXT_METRICS = {
    "rouge_1": TextMetric("ROUGE-1 F1 of words", "higher", "references"),
    "rouge_2": TextMetric("ROUGE-2 F1 of words", "higher", "references"),
    "rouge_l": TextMetric("ROUGE-L F1 of words", "higher", "references"),
    "rouge_1_char": TextMetric("ROUGE-1 F1 of characters", "higher", "references"),
    "rouge_2_char": TextMetric("ROUGE-2 F1 of characters", "higher", "references"),
    "rouge_l_char": TextMetric("ROUGE-L F1 of characters", "higher", "references"),
    "bleu": TextMetric("BLEU of the corpus", "higher", "references"),
    "chrf": TextMetric("chrF of the corpus", "higher", "references"),
    "published_rouge_l": TextMetric("ROUGE-L of Su Jianlin's tables", "higher", "published"),
    "published_rouge_1": TextMetric("ROUGE-1 of Su Jianlin's tables", "higher", "published"),
    "published_rouge_2": TextMetric("ROUGE-2 of Su Jianlin's tables", "higher", "published"),
    "published_bleu": TextMetric("BLEU of Su Jianlin's tables", "higher", "published"),
    "seq_rep_2": TextMetric("repeated bigrams", "lower", "sources"),
    "seq_rep_4": TextMetric("repeated 4-grams", "lower", "sources"),
    "length_ratio": TextMetric("tokens over tokens of the references", "neither", "sources"),
    "copy_2": TextMetric("words in runs of 2 or more copied from the source", "neither", "sources"),
    "wmd": TextMetric("word mover's distance", "lower", "embeddings"),
    "wmd_article": TextMetric("word mover's distance, with the mean of squares", "lower", "embeddings"),
    "wrd": TextMetric("word rotator's distance", "lower", "embeddings"),
}


def named(needs: str) -> list[str]:
    """Return the names of the scores that need something."""
    return [name for name, metric in TEXT_METRICS.items() if metric.needs == needs]


def better(score: str) -> Better:
    """Return which direction is better for a text metric, ``loss`` or the score of a head, ``NAME.loss`` included."""
    if score in TEXT_METRICS:
        return TEXT_METRICS[score].better
    return "lower" if score.rpartition(".")[2] == "loss" else "higher"
