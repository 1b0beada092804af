"""Publications that wait for the commit of a transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.apps import apps
from django.db import transaction

from tiderace import metrics
from tiderace.exceptions import LayerUnavailable, MessageTooLarge
from tiderace.history import Position
from tiderace.layers.broker import KEY_TTL
from tiderace.runtime import sync_bridge
from tiderace.topics.declaration.topic import Topic
from tiderace.topics.names import topic_group
from tiderace.topics.streams import layer_of

logger = logging.getLogger("tiderace.topics")


_test_case_noted = False


class PreparedPublication(msgspec.Struct, frozen=True):
    """A publication that is validated and encoded."""

    topic: Topic
    record: dict[str, Any]
    key: str
    """The idempotency key in the layer; empty for none."""
    key_ttl: float = KEY_TTL
    """Seconds for which the layer keeps the key."""

    def publish(self) -> Position:
        """Publish it from sync code.

        Raises:
            LayerUnavailable: when the broker could not be reached in time.
        """
        return self._publish_with(layer_of(self.topic).sync)  # type: ignore[no-any-return]

    async def apublish(self) -> Position:
        """Publish it; raises as ``publish``."""
        return await self._publish_with(layer_of(self.topic))  # type: ignore[no-any-return]

    def _publish_with(self, layer: Any) -> Any:
        group = topic_group(self.topic.topic)
        return layer.stream_publish(
            group,
            self.record,
            keep=self.topic.keep(),
            key=self.key,
            key_ttl=self.key_ttl,
        )


def outbox() -> Any:
    """Return the app config of ``tiderace.outbox``; None where it is not installed."""
    return apps.app_configs.get("tiderace_outbox")


def publish_after_commit(publication: PreparedPublication, using: str | None) -> None:
    """Publish when the transaction of the database ``using`` is committed.

    The publications of one commit are published together, when Django calls the hook of
    the last of them: while the broker is away, they share one timeout. They are published
    too when another hook raises, although Django then drops the hooks after it.
    """
    connection: Any = transaction.get_connection(using)
    if not isinstance(vars(connection).get(_RunHooks.method), _RunHooks):
        setattr(connection, _RunHooks.method, _RunHooks(connection))
    hook = _CommitHook(publication, in_test_case=_is_of_a_test_case(connection))
    transaction.on_commit(hook, using=using)


def _is_of_a_test_case(connection: Any) -> bool:
    """Return whether the only transaction is that of a ``TestCase``, never committed."""
    blocks = connection.atomic_blocks
    return bool(blocks) and all(block._from_testcase for block in blocks)  # noqa: SLF001


@dataclass(slots=True, eq=False)
class _CommitHook:
    """A hook for ``on_commit``; when it is called on its own, as in tests, it publishes."""

    publication: PreparedPublication
    together: Sequence[_CommitHook] = field(default_factory=list)
    """The last hook of a commit has all hooks of it; the others have none."""
    waits: bool = False
    """Whether a later hook of the commit publishes it."""
    ended: bool = False
    """Whether it is published or lost."""
    in_test_case: bool = False
    """Whether it would have been published at once outside of a ``TestCase``."""

    __qualname__ = "publish"  # for Django's log

    def __call__(self) -> None:
        if not self.waits:
            _publish(self.together or [self])

    def __del__(self) -> None:
        global _test_case_noted
        if self.in_test_case and not self.ended and not _test_case_noted:
            _test_case_noted = True
            logger.warning(
                "publish() to %r was not carried out: it waits for a commit, and the "
                "transaction of a TestCase is rolled back; use "
                "tiderace.testing.TopicsTestMixin, or "
                "captureOnCommitCallbacks(execute=True) (said once)",
                self.publication.topic.topic,
            )


class _RunHooks:
    """Replaces the method with which a Django connection runs the hooks of a commit.

    Django offers no other way to find the hooks that it drops after an error.
    """

    method = "run_and_clear_commit_hooks"

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._run = getattr(connection, self.method)

    def __call__(self) -> None:
        hooks = [
            hook
            for _, hook, *_ in self._connection.run_on_commit
            if isinstance(hook, _CommitHook)
        ]
        for hook in hooks[:-1]:
            hook.waits = True
        if hooks:
            hooks[-1].together = hooks
        try:
            self._run()
        except Exception:
            # Logged, since the error of the application's hook is the one to raise.
            try:
                _publish(hooks)
            except Exception:
                logger.exception("a publication failed after the commit")
            raise
        except BaseException as error:
            _lose(hooks, error)
            raise


def _publish(hooks: Iterable[_CommitHook]) -> None:
    waiting = [hook for hook in hooks if not hook.ended]
    if len(waiting) > 1:
        if errors := sync_bridge.call(_apublish_together, waiting):
            raise errors[0]
    elif waiting:
        # A single one is published in this thread, without the event loop.
        (hook,) = waiting
        hook.ended = True
        try:
            hook.publication.publish()
        except (LayerUnavailable, MessageTooLarge) as error:
            _report_loss(hook, error)


async def _apublish_together(hooks: Iterable[_CommitHook]) -> list[Exception]:
    """Publish to all topics at once, to each of them in order; return other errors."""
    by_topic: dict[str, list[_CommitHook]] = {}
    for hook in hooks:
        by_topic.setdefault(hook.publication.topic.topic, []).append(hook)
    errors: list[Exception] = []
    await asyncio.gather(*(_in_order(each, errors) for each in by_topic.values()))
    return errors


async def _in_order(hooks: Sequence[_CommitHook], errors: list[Exception]) -> None:
    for hook in hooks:
        try:
            await hook.publication.apublish()
        except LayerUnavailable as error:
            # The broker did not come back within the timeout: do not wait once more.
            _lose(hooks, error)
            return
        except MessageTooLarge as error:
            _lose([hook], error)
        except Exception as error:
            errors.append(error)
        hook.ended = True


def _lose(hooks: Iterable[_CommitHook], error: BaseException) -> None:
    for hook in hooks:
        if not hook.ended:
            hook.ended = True
            _report_loss(hook, error)


def _report_loss(hook: _CommitHook, error: BaseException) -> None:
    # The commit has succeeded, so its caller must not get an error.
    metrics.PUBLICATIONS_LOST.add()
    topic = hook.publication.topic.topic
    logger.error("a publication to %r is lost: %s", topic, str(error) or repr(error))
