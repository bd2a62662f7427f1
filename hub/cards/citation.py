"""What to cite, as model cards show it; CITATION.cff says the same of the repository."""

REPOSITORY = "https://github.com/cassle-zoo/cassle-zoo"

_PAPER = """\
```bibtex
@article{przewiezlikowski2024cassle,
  title   = {Augmentation-aware Self-supervised Learning with Conditioned Projector},
  author  = {Przewi\\k{e}\\'zlikowski, Marcin and Pyla, Mateusz and Zieli\\'nski, Bartosz and
             Twardowski, Bart{\\l}omiej and Tabor, Jacek and \\'Smieja, Marek},
  journal = {Knowledge-Based Systems},
  volume  = {305},
  year    = {2024},
  note    = {arXiv:2306.06082}
}
```"""

_SOFTWARE = """\
```bibtex
@software{{cassle_zoo,
  title   = {{cassle-zoo: a model zoo and feature extraction library for CASSLE}},
  author  = {{{{The cassle-zoo contributors}}}},
  version = {{{version}}},
  url     = {{{url}}}
}}
```"""


def citation(version: str) -> str:
    """Return the paper's entry and the software's.

    Args:
        version: Version of cassle_zoo.
    """
    software = _SOFTWARE.format(version=version, url=REPOSITORY)
    paper = f"The method ([arXiv:2306.06082](https://arxiv.org/abs/2306.06082)):\n\n{_PAPER}"
    return f"{paper}\n\nThe software:\n\n{software}"
