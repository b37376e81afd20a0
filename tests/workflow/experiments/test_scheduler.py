"""What the scheduler asks of its processes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from spamo_cache.workflow.experiments.scheduler import ATTRIBUTED, Scheduler
from spamo_cache.workflow.experiments.tasks import AnalyzeTask, AttributeTask, Task
from spamo_cache.workflow.watcher import QUIET


def test_an_analysis_that_a_kill_cut_short_is_done_again(tmp_path: Path) -> None:
    asked: list[Task] = []

    class Pool:
        @asynccontextmanager
        async def slot(self) -> AsyncIterator[Any]:
            async def call(task: Task, _: Callable[[str], None]) -> None:
                asked.append(task)
                if isinstance(task, AnalyzeTask):
                    (task.folder / "analysis" / "test.json").touch()

            yield call

    (tmp_path / "analysis" / "attribution").mkdir(parents=True)
    nothing: Any = None
    pool: Any = Pool()
    scheduler = Scheduler(nothing, pool, "cuda:1", QUIET)
    for _ in range(2):
        asyncio.run(scheduler.analyze([tmp_path], Path("corpus")))
    clips = (str(ATTRIBUTED),)
    assert asked == [
        AttributeTask(folder=tmp_path, clips=clips, root=Path("corpus"), device="cuda"),
        AnalyzeTask(folder=tmp_path, device="cuda"),
    ]
