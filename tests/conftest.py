"""What every test gets: one thread, no network, a home of its own."""

import os
from collections.abc import Iterator

import pytest

# Before any library reads them: the suite shares its cores, and equal bytes want equal threads.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session", autouse=True)
def _home_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing the user keeps is read or written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPAMO_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("SPAMO_CACHE", raising=False)
        patch.delenv("SPAMO_TRACEBACK", raising=False)
        yield
