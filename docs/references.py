"""BibTeX on the pages: `python docs/references.py` fills every block marked `<!-- block: bibtex KEY KEY ... -->`.

Works that the report cites too are those of `vestige.report.bibliography`.
"""

import re
from pathlib import Path

from vestige.report.bibliography import WORKS

DOCS = Path(__file__).parent
MARKED = re.compile(r"(<!-- block: bibtex ([\w ]+?) -->\n```bibtex\n).*?(^```$)", re.DOTALL | re.MULTILINE)

MORE = r"""
@misc{wightman2019timm,
  author       = {Wightman, Ross},
  title        = {{PyTorch} Image Models},
  year         = {2019},
  doi          = {10.5281/zenodo.4414861},
  howpublished = {\url{https://github.com/huggingface/pytorch-image-models}},
}

@misc{torchvision2016,
  author       = {{TorchVision maintainers and contributors}},
  title        = {{TorchVision}: {PyTorch}'s computer vision library},
  year         = {2016},
  howpublished = {\url{https://github.com/pytorch/vision}},
}

@article{vinh2010information,
  author  = {Vinh, Nguyen Xuan and Epps, Julien and Bailey, James},
  title   = {Information theoretic measures for clusterings comparison: variants, properties, normalization and correction for chance},
  journal = {Journal of Machine Learning Research},
  volume  = {11},
  pages   = {2837--2854},
  year    = {2010},
}

@article{hurlbert1984pseudoreplication,
  author  = {Hurlbert, Stuart H.},
  title   = {Pseudoreplication and the design of ecological field experiments},
  journal = {Ecological Monographs},
  volume  = {54},
  number  = {2},
  pages   = {187--211},
  year    = {1984},
}

@article{berger1982multiparameter,
  author  = {Berger, Roger L.},
  title   = {Multiparameter hypothesis testing and acceptance sampling},
  journal = {Technometrics},
  volume  = {24},
  number  = {4},
  pages   = {295--300},
  year    = {1982},
}

@article{student1908probable,
  author  = {{Student}},
  title   = {The probable error of a mean},
  journal = {Biometrika},
  volume  = {6},
  number  = {1},
  pages   = {1--25},
  year    = {1908},
}

@article{bahadur1956nonexistence,
  author  = {Bahadur, R. R. and Savage, Leonard J.},
  title   = {The nonexistence of certain statistical procedures in nonparametric problems},
  journal = {The Annals of Mathematical Statistics},
  volume  = {27},
  number  = {4},
  pages   = {1115--1122},
  year    = {1956},
}

@article{horvitz1952generalization,
  author  = {Horvitz, D. G. and Thompson, D. J.},
  title   = {A generalization of sampling without replacement from a finite universe},
  journal = {Journal of the American Statistical Association},
  volume  = {47},
  number  = {260},
  pages   = {663--685},
  year    = {1952},
}

@article{owen1965special,
  author  = {Owen, D. B.},
  title   = {A special case of a bivariate non-central t-distribution},
  journal = {Biometrika},
  volume  = {52},
  pages   = {437--446},
  year    = {1965},
}

@article{efron1981nonparametric,
  author  = {Efron, Bradley},
  title   = {Nonparametric standard errors and confidence intervals},
  journal = {The Canadian Journal of Statistics},
  volume  = {9},
  number  = {2},
  pages   = {139--158},
  year    = {1981},
}

@article{efron1987better,
  author  = {Efron, Bradley},
  title   = {Better bootstrap confidence intervals},
  journal = {Journal of the American Statistical Association},
  volume  = {82},
  number  = {397},
  pages   = {171--185},
  year    = {1987},
}

@article{schuirmann1987comparison,
  author  = {Schuirmann, Donald J.},
  title   = {A comparison of the two one-sided tests procedure and the power approach for assessing the equivalence of average bioavailability},
  journal = {Journal of Pharmacokinetics and Biopharmaceutics},
  volume  = {15},
  number  = {6},
  pages   = {657--680},
  year    = {1987},
}

@article{hall1988theoretical,
  author  = {Hall, Peter},
  title   = {Theoretical comparison of bootstrap confidence intervals},
  journal = {The Annals of Statistics},
  volume  = {16},
  number  = {3},
  pages   = {927--953},
  year    = {1988},
}

@article{hoenig2001abuse,
  author  = {Hoenig, John M. and Heisey, Dennis M.},
  title   = {The abuse of power: the pervasive fallacy of power calculations for data analysis},
  journal = {The American Statistician},
  volume  = {55},
  number  = {1},
  pages   = {19--24},
  year    = {2001},
}

@article{piaggio2012reporting,
  author  = {Piaggio, Gilda and Elbourne, Diana R. and Pocock, Stuart J. and Evans, Stephen J. W. and Altman, Douglas G.},
  title   = {Reporting of noninferiority and equivalence randomized trials: extension of the {CONSORT} 2010 statement},
  journal = {JAMA},
  volume  = {308},
  number  = {24},
  pages   = {2594--2604},
  year    = {2012},
}
"""  # noqa: E501


def entries() -> dict[str, str]:
    """Every work by its key."""
    found = [*(work.bibtex for work in WORKS), *MORE.strip().split("\n\n")]
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in found}


def block(keys: str) -> str:
    """What stands in a block of these works."""
    works = entries()
    return "\n\n".join(works[key] for key in keys.split()) + "\n"


def filled(text: str) -> str:
    """A page with its blocks as they should be."""
    return MARKED.sub(lambda mark: mark[1] + block(mark[2]) + mark[3], text)


if __name__ == "__main__":
    for page in DOCS.glob("**/*.md"):
        before = page.read_text(encoding="utf-8")
        if (after := filled(before)) != before:
            page.write_text(after, encoding="utf-8")
            print(page.relative_to(DOCS))
