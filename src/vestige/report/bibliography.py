"""BibTeX of what a text cites as `Morcos et al. 2018` or `Morcos et al. (2018)`: those works, and no others."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """A work: how a text names it, and its BibTeX."""

    authors: str
    year: int
    bibtex: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """What a text cites it by."""
        return re.compile(re.escape(self.authors) + rf",? \(?{self.year}\b")


def cited(text: str) -> tuple[Work, ...]:
    """The works that a text cites, in the order in which it does."""
    found = [(match.start(), work) for work in WORKS if (match := work.pattern.search(text))]
    return tuple(work for _, work in sorted(found, key=lambda pair: pair[0]))


def bibtex(text: str) -> str:
    """The BibTeX entries of the works that a text cites."""
    return "\n\n".join(work.bibtex for work in cited(text))


def _entry(kind: str, key: str, **fields: str) -> str:
    lines = [f"  {name:<9} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


def _work(authors: str, year: int, kind: str, key: str, **fields: str) -> Work:
    return Work(authors, year, _entry(kind, key, **fields, year=str(year)))


WORKS = (
    _work(
        "Ranadive et al.", 2023, "article", "ranadive2023special",
        author="Ranadive, Omkar and Thakurdesai, Nikhil and Morcos, Ari S. and Leavitt, Matthew L. and "
        "Deny, St{\\'e}phane",
        title="On the special role of class-selective neurons in early training",
        journal="Transactions on Machine Learning Research", url="https://openreview.net/forum?id=JaNlH6dZYk",
    ),
    _work(
        "Morcos et al.", 2018, "inproceedings", "morcos2018importance",
        author="Morcos, Ari S. and Barrett, David G. T. and Rabinowitz, Neil C. and Botvinick, Matthew",
        title="On the importance of single directions for generalization",
        booktitle="International Conference on Learning Representations",
        url="https://openreview.net/forum?id=r1iuQjxCZ",
    ),
    _work(
        "Leavitt and Morcos", 2020, "article", "leavitt2020selectivity",
        author="Leavitt, Matthew L. and Morcos, Ari S.",
        title="Selectivity considered harmful: evaluating the causal impact of class selectivity in {DNNs}",
        journal="arXiv preprint arXiv:2003.01262",
    ),
    _work(
        "Zhou et al.", 2018, "article", "zhou2018revisiting",
        author="Zhou, Bolei and Sun, Yiyou and Bau, David and Torralba, Antonio",
        title="Revisiting the importance of individual units in {CNNs} via ablation",
        journal="arXiv preprint arXiv:1806.02891",
    ),
    _work(
        "Gale et al.", 2020, "article", "gale2020object",
        author="Gale, Ella M. and Martin, Nicholas and Blything, Ryan and Nguyen, Anh and Bowers, Jeffrey S.",
        title="Are there any `object detectors' in the hidden layers of {CNNs} trained to identify objects or scenes?",
        journal="Vision Research", volume="176", pages="60--71",
    ),
    _work(
        "Kalimeris et al.", 2019, "inproceedings", "kalimeris2019sgd",
        author="Kalimeris, Dimitris and Kaplun, Gal and Nakkiran, Preetum and Edelman, Benjamin L. and Yang, "
        "Tristan and Barak, Boaz and Zhang, Haofeng",
        title="{SGD} on neural networks learns functions of increasing complexity",
        booktitle="Advances in Neural Information Processing Systems", volume="32",
    ),
    _work(
        "Kornblith et al.", 2019, "inproceedings", "kornblith2019similarity",
        author="Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and Hinton, Geoffrey",
        title="Similarity of neural network representations revisited",
        booktitle="International Conference on Machine Learning", pages="3519--3529",
    ),
    _work(
        "Nguyen et al.", 2021, "inproceedings", "nguyen2021wide",
        author="Nguyen, Thao and Raghu, Maithra and Kornblith, Simon",
        title="Do wide and deep networks learn the same things? {U}ncovering how neural network representations vary "
        "with width and depth",
        booktitle="International Conference on Learning Representations",
    ),
    _work(
        "Holm", 1979, "article", "holm1979simple",
        author="Holm, Sture", title="A simple sequentially rejective multiple test procedure",
        journal="Scandinavian Journal of Statistics", volume="6", number="2", pages="65--70",
    ),
    _work(
        "Benjamini and Hochberg", 1995, "article", "benjamini1995controlling",
        author="Benjamini, Yoav and Hochberg, Yosef",
        title="Controlling the false discovery rate: a practical and powerful approach to multiple testing",
        journal="Journal of the Royal Statistical Society: Series B", volume="57", number="1", pages="289--300",
    ),
    _work(
        "He et al.", 2016, "inproceedings", "he2016deep",
        author="He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        title="Deep residual learning for image recognition",
        booktitle="IEEE Conference on Computer Vision and Pattern Recognition", pages="770--778",
    ),
    _work(
        "Alpaydin and Kaynak", 1998, "misc", "alpaydin1998optical",
        author="Alpaydin, Ethem and Kaynak, Cenk", title="Optical recognition of handwritten digits",
        howpublished="UCI Machine Learning Repository",
    ),
    _work(
        "Paszke et al.", 2019, "inproceedings", "paszke2019pytorch",
        author="Paszke, Adam and Gross, Sam and Massa, Francisco and Lerer, Adam and Bradbury, James and Chanan, "
        "Gregory and Killeen, Trevor and Lin, Zeming and Gimelshein, Natalia and Antiga, Luca and others",
        title="{PyTorch}: an imperative style, high-performance deep learning library",
        booktitle="Advances in Neural Information Processing Systems", volume="32",
    ),
)  # fmt: skip
"""What the methods texts cite."""
