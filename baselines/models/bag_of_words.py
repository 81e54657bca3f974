"""An order-blind baseline: the mean of the embeddings, read linearly."""

from __future__ import annotations

from torch import nn

from baselines.models.embedding import InputEmbedding
from neurons import MODELS
from neurons.errors import UsageError
from neurons.model import Model
from neurons.readouts import LabelReadout
from neurons.specs import InputSpec, OutputSpec


@MODELS.register("bag-of-words")
class BagOfWords(Model):
    """Mean of learned token (or linear row) embeddings, layer norm, linear. What word order adds shows against this.

    ``embedding_dropout`` zeroes entries of the embeddings, ``dropout`` entries of their mean. Labels only: a mean
    over the sample is not causal. Source: fastText (Joulin et al. 2017), deep averaging network (Iyyer et al. 2015).
    """

    def __init__(
        self,
        *,
        input: InputSpec,
        output: OutputSpec,
        width: int = 128,
        dropout: float = 0.1,
        embedding_dropout: float = 0.1,
    ) -> None:
        super().__init__(input, output)
        if output.kind != "label":
            raise UsageError(f"model 'bag-of-words' is not causal and cannot answer '{output.kind}'. Try: transformer")
        self.width, self.dropout, self.embedding_dropout = width, dropout, embedding_dropout
        embedding = InputEmbedding(input, width=width, dropout=embedding_dropout)
        self.stages = nn.ModuleList([embedding, LabelReadout(width=width, classes=output.size, dropout=dropout)])
